"""Asset `published_runs`: the runs that are ranked, as one. It is observed, and never made."""

import dagster as dg

from perturbfm_assets.assets.report import RUNS, observed_runs, report
from perturbfm_assets.beta import expect_beta_parts
from perturbfm_assets.resources import StoreResource

expect_beta_parts()


# Of an upstream with a hundred partitions or more Dagster compares no versions: whatever was published, the leaderboard would be
# shown as up to date.
@dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]
    specs=[
        dg.AssetSpec(
            RUNS,
            deps=[dg.AssetDep(report, partition_mapping=dg.AllPartitionMapping())],
            group_name="evaluation",
            owners=["team:perturbfm"],
            description=(
                "All runs as one, looked at after each cell and when you observe it: until it has ranked a new run, the "
                "leaderboard is stale."
            ),
        )
    ]
)
def published_runs(store: StoreResource) -> dg.ObserveResult:
    """Look which runs there are."""
    seen = observed_runs(store.open())
    return dg.ObserveResult(asset_key=RUNS, data_version=dg.DataVersion(seen.data_version or ""))
