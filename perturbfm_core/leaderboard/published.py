"""Figures that other benchmarks have published, for reading beside one's own; nothing here is ranked."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import pandas as pd

from perturbfm_core.leaderboard.columns import Columns, typed

PUBLISHED_COLUMNS: Columns = {
    "task": "text",
    "dataset": "text",
    "method": "text",
    "top_n": "int",
    "metric": "text",
    "mean": "float",
    "median": "float",
    "n": "int",
    "reason": "text",
    "source": "text",
    "commit": "text",
}
# Repository whose published results these figures summarise, and the commit of it.
SCPERTURBENCH = ("bm2-lab/scPerturBench", "6e24e7a9827e55d4567d2139427be9af0d1e7a6c")
_FILE = "published_scperturbench.csv"


@lru_cache(maxsize=1)
def published_figures() -> pd.DataFrame:
    """Return the table of `PUBLISHED_COLUMNS`: mean and median of scPerturBench's methods over n conditions.

    The file has one line per task, data set, method, number of genes and number of conditions, and up to two columns
    per metric, ``<metric>:mean`` and ``<metric>:median``.
    """
    with resources.files("perturbfm_core.leaderboard").joinpath(_FILE).open(encoding="utf-8") as handle:
        wide = pd.read_csv(handle).set_index(["task", "dataset", "method", "top_n", "n"])
    wide.columns = pd.MultiIndex.from_tuples(
        [tuple(c.split(":")) for c in wide.columns], names=["metric", None]
    )
    long = wide.stack("metric", future_stack=True)  # noqa: PD013 (two columns stay)
    long = long.dropna(subset="mean").reset_index()
    reason = long["median"].isna().map({True: "only the mean is published", False: None})
    long = long.assign(reason=reason, source=SCPERTURBENCH[0], commit=SCPERTURBENCH[1])
    return typed(long[list(PUBLISHED_COLUMNS)], PUBLISHED_COLUMNS)
