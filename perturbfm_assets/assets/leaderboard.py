"""Asset `leaderboard`: the database over all runs, and its page."""

import dagster as dg

from perturbfm_assets.assets.report import report
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import table
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.tables import HEADLINE_SQL
from perturbfm_core.pipeline.leaderboard import rank


@dg.asset(
    deps=[dg.AssetDep(report, partition_mapping=dg.AllPartitionMapping())],
    group_name="leaderboard",
    kinds={"duckdb", "html"},
    owners=["team:perturbfm"],
)
def leaderboard(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Ranks and intervals of every entry on every split or cross-validation, published atomically."""
    home = store.open()
    target = rank(home)
    board = database.query(home, HEADLINE_SQL)
    shown = board.astype(object).where(board.notna(), "")
    return dg.MaterializeResult(
        metadata={
            "database": dg.MetadataValue.path(target.resolve()),
            "page": dg.MetadataValue.url(home.leaderboard_page.resolve().as_uri()),
            "rows": len(board),
            "standings": dg.MetadataValue.md(table(list(shown.columns), shown.to_numpy().tolist())),
        }
    )
