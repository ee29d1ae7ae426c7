"""Asset `leaderboard`: the database over all runs."""

import dagster as dg

from perturbfm_assets.assets.published_runs import published_runs
from perturbfm_assets.links import page_url
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog, table
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.headline import HEADLINE, board_sql
from perturbfm_core.pipeline.leaderboard import rank

_SHOWN = (
    *("board", "rank", "entry", "value", "ci_low", "ci_high", "diff_best_baseline", "control_mean_floor"),
    *("ceiling", "ceiling_noise_free", "n_splits", "n_splits_expected", "reason"),
)


@dg.asset(
    deps=[published_runs],
    group_name="leaderboard",
    kinds={"duckdb"},
    owners=["team:perturbfm"],
)
def leaderboard(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Ranks and intervals of every entry on every split or cross-validation, published atomically."""
    home = store.open(RunLog(context))
    target = rank(home, page=False)
    board = database.query(home, board_sql())
    shown = board[[c for c in _SHOWN if c in board]]
    shown = shown.astype(object).where(shown.notna(), "-")
    return dg.MaterializeResult(
        metadata={
            "database": dg.MetadataValue.path(target.resolve()),
            "page": dg.MetadataValue.url(page_url(home, home.leaderboard_page)),
            "rows": len(board),
            "metric": HEADLINE,
            "standings": dg.MetadataValue.md(table(list(shown.columns), shown.to_numpy().tolist())),
        }
    )
