"""Asset `split`: a frozen split, verified and audited."""

import dagster as dg

from perturbfm_assets.assets.dataset import dataset
from perturbfm_assets.partitions import dataset_to_split, split_of, split_partitions
from perturbfm_assets.readable import described_split, splits_table
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog, partition_of, rounded, table, verdict
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.split import stats_with_bounds
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.held_out import tested


@dg.asset(
    partitions_def=split_partitions,
    deps=[dg.AssetDep(dataset, partition_mapping=dataset_to_split)],
    group_name="splits",
    metadata={"splits": splits_table()},
    kinds={"python", "json"},
    owners=["team:perturbfm"],
    check_specs=[
        dg.AssetCheckSpec(
            "hash_lock",
            asset="split",
            blocking=True,
            description="File, index and data have the frozen hashes.",
        ),
        dg.AssetCheckSpec(
            "leakage", asset="split", blocking=True, description="The audit finds nothing that blocks."
        ),
    ],
)
def split(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Who trains, validates, calibrates and is tested; never made again in silence."""
    home, entry = store.open(RunLog(context)), split_of(partition_of(context))
    folder = SplitFolder(home.split_dir)
    split = folder.load(entry.hash)
    ds = dataset_of(home, split)
    verified = folder.verify(entry.hash, ds)
    findings = audit(ds, split)
    blocking = [f for f in findings if f.severity == "blocking"]
    stats = stats_with_bounds(home, ds, split)
    return dg.MaterializeResult(
        metadata={
            "split_hash": entry.hash,
            **described_split(partition_of(context)),
            "test_conditions": len(tested(split.definition)),
            "folds": dg.MetadataValue.md(
                table(
                    ["fold", "conditions", "rows"],
                    [[f, c["conditions"], c["rows"]] for f, c in stats.counts.items()],
                )
            ),
            "floor": dg.MetadataValue.json(rounded(stats.floor or {})),
            "no_signal": str(stats.no_signal),
            "ceiling": dg.MetadataValue.json(rounded(stats.ceiling or {})),
            "findings": dg.MetadataValue.json([f.to_json() for f in findings]),
        },
        check_results=[
            verdict("hash_lock", verified.problems, {"problems": list(verified.problems)}),
            verdict(
                "leakage",
                [f"{f.name}: {f.message}" for f in blocking],
                {"findings": [f.name for f in findings]},
            ),
        ],
        data_version=dg.DataVersion(entry.hash),
    )
