"""Asset `dataset`: a data set artifact of the catalog."""

import dagster as dg

from perturbfm_assets.partitions import CATALOG, dataset_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog, partition_of, rounded
from perturbfm_core.data.summary import summary
from perturbfm_core.errors import DatasetError
from perturbfm_core.pipeline.dataset import ensure_dataset, open_dataset


@dg.asset(
    partitions_def=dataset_partitions,
    group_name="data",
    kinds={"python", "zarr"},
    owners=["team:perturbfm"],
    check_specs=[
        dg.AssetCheckSpec(
            "schema", asset="dataset", blocking=True, description="Rows, genes and values keep the contract."
        ),
        dg.AssetCheckSpec(
            "content_hash",
            asset="dataset",
            blocking=True,
            description="Values have the recorded content hash.",
        ),
    ],
)
def dataset(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Cells or conditions under perturbation, validated and hashed; simulated ones are made on first use."""
    log = RunLog(context)
    path = ensure_dataset(store.open(log), CATALOG.dataset(partition_of(context)), log)
    ds = open_dataset(path)
    checks = []
    for name, check in (("schema", lambda: ds.values), ("content_hash", ds.verify_content)):
        try:
            check()
            checks.append(dg.AssetCheckResult(passed=True, check_name=name))
        except DatasetError as error:
            checks.append(dg.AssetCheckResult(passed=False, check_name=name, description=str(error)))
    shown = {k: v for k, v in summary(ds, path).items() if v is not None}
    return dg.MaterializeResult(
        metadata=rounded(shown), check_results=checks, data_version=dg.DataVersion(ds.content_sha256)
    )
