"""Asset `leaderboard_page`: the leaderboard as one HTML file."""

import dagster as dg

from perturbfm_assets.assets.leaderboard import leaderboard
from perturbfm_assets.links import page_url
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog
from perturbfm_core.pipeline.leaderboard_page import write_page


@dg.asset(
    deps=[leaderboard],
    group_name="leaderboard",
    kinds={"html"},
    owners=["team:perturbfm"],
)
def leaderboard_page(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Boards, standings, values by perturbation, cost and calibration in one file that needs nothing else."""
    home = store.open(RunLog(context))
    file = write_page(home)
    return dg.MaterializeResult(
        metadata={
            "file": dg.MetadataValue.path(file.resolve()),
            "page": dg.MetadataValue.url(page_url(home, file)),
            "megabytes": round(file.stat().st_size / 1e6, 2),
        }
    )
