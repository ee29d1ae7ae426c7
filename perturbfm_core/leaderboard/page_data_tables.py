"""Queries of the leaderboard page: entries on boards, metrics, scores as dense arrays, runs, and values by condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.schema import FloatArray, IntArray

Name = tuple[str, str]

NUMBERS = ("value", "ci_low", "ci_high", "diff", "diff_low", "diff_high")
BOUNDS = (
    *("ceiling", "ceiling_noise_free", "null_floor", "train_mean_floor", "control_mean_floor"),
    *("baseline_mark", "anchor_mark"),
)
REASONS = ("reason", "interval_reason", "diff_reason")
COSTS = ("fit_seconds", "predict_seconds", "cpu_seconds", "peak_memory_mb", "n_parameters")

_CELLS = """
SELECT board, entry, any_value(model) AS model, any_value(family) AS family, max(n_seeds) AS seeds,
  max(folds_done) AS done, max(folds_total) AS total, max(n_conditions) AS conditions, max(n_units) AS units
FROM standings GROUP BY board, entry ORDER BY board, entry
"""
_METRICS = """
SELECT panel, metric, any_value(direction) AS direction, max(metric_version) AS version
FROM standings GROUP BY panel, metric
"""
_RUNS = """
SELECT run_id, board, entry, split_hash, seed, created, note, url, path, uses_other_screens, warned_of,
  coalesce(no_signal, false) AS no_signal FROM runs
WHERE counted ORDER BY board, entry, split_hash, seed, created
"""
_SCORES = f"""
SELECT c.i AS cell, m.i AS metric, {", ".join(f"s.{n}" for n in NUMBERS)}, s.n_undefined,
  CASE WHEN s.ranked THEN s.badness END AS badness, r1.i AS reason, r2.i AS interval_reason, r3.i AS diff_reason, b.i AS best
FROM standings s JOIN page_cells c USING (board, entry) JOIN page_metrics m USING (panel, metric)
LEFT JOIN page_reasons r1 ON s.reason = r1.reason LEFT JOIN page_reasons r2 ON s.interval_reason = r2.reason
LEFT JOIN page_reasons r3 ON s.diff_reason = r3.reason LEFT JOIN page_entries b ON s.best_baseline = b.entry
"""
_BOUNDS = f"""
SELECT b.i AS board, m.i AS metric, {", ".join(f"any_value(s.{n}) AS {n}" for n in BOUNDS)},
  any_value(r1.i) AS ceiling_reason, any_value(r2.i) AS floor_reason
FROM standings s JOIN page_boards b USING (board) JOIN page_metrics m USING (panel, metric)
LEFT JOIN page_reasons r1 ON s.ceiling_reason = r1.reason LEFT JOIN page_reasons r2 ON s.floor_reason = r2.reason
GROUP BY b.i, m.i
"""
_ALL_REASONS = " UNION ".join(
    f"SELECT {name} AS reason FROM standings WHERE {name} IS NOT NULL"
    for name in (*REASONS, "ceiling_reason", "floor_reason")
)
# What the runs say of a value that no condition has, without the counts of one run.
_DETAILS = r"""
SELECT c.i AS cell, m.i AS metric,
  regexp_replace(min(g.reason), '\b\d+ of \d+ (conditions (undefined|not applicable):)', '\1', 'g') AS reason
FROM global_scores g JOIN page_runs r USING (run_id) JOIN page_cells c ON c.board = r.board AND c.entry = r.entry
JOIN page_metrics m USING (panel, metric)
WHERE g.value IS NULL OR isnan(g.value) GROUP BY c.i, m.i
"""
_RUN_SCORES = """
SELECT r.i AS run, m.place AS metric, g.value
FROM global_scores g JOIN page_runs r USING (run_id) JOIN page_metrics m USING (panel, metric) WHERE m.place IS NOT NULL
"""
# One row per fold, its seeds averaged: as in standings, no fold weighs more by its seeds, and folds without signal are
# left out unless all are.
_CONDITIONS = """
WITH silent AS (
  SELECT board, bool_and(coalesce(no_signal, false)) AS everywhere FROM runs WHERE counted GROUP BY board
)
SELECT b.i AS board, c.i AS cell, k.i AS key, avg(s.value) FILTER (isfinite(s.value)) AS value, min(w.i) AS reason
FROM headline_conditions s JOIN page_runs r USING (run_id) JOIN page_boards b ON b.board = r.board
JOIN silent q ON q.board = r.board AND (q.everywhere OR NOT r.no_signal)
JOIN page_cells c ON c.board = r.board AND c.entry = r.entry
JOIN page_keys k ON k.text = s.key LEFT JOIN page_whys w ON w.text = s.reason
GROUP BY b.i, c.i, k.i, r.split_hash
"""


@dataclass(frozen=True, eq=False)
class PageTables:
    """Content of a leaderboard database, as the page needs it.

    Attributes
    ----------
    boards, cells, metrics, runs
        One row per board, per entry on a board, per metric, per run that counts; `i` numbers them.
    entries, reasons
        Names and texts; codes in `scores` and `bounds` are positions here.
    splits, datasets, costs
        Tables of that name, the last one row per cell.
    scores
        {column: float [cells, metrics]}, NaN where there is none.
    bounds
        {column: float [boards, metrics]}.
    details
        Table of cell, metric, reason: why a run has no value.
    run_scores
        float [runs, key metrics].
    """

    boards: pd.DataFrame
    cells: pd.DataFrame
    metrics: pd.DataFrame
    runs: pd.DataFrame
    entries: list[str]
    reasons: list[str]
    splits: pd.DataFrame
    datasets: pd.DataFrame
    costs: pd.DataFrame
    scores: dict[str, FloatArray]
    bounds: dict[str, FloatArray]
    details: pd.DataFrame
    run_scores: FloatArray


def read_tables(con: Any, order: list[Name], key: list[Name]) -> PageTables:
    """Read an open leaderboard database.

    Parameters
    ----------
    con
        Connection of `database.connect`.
    order
        (panel, metric) of the registered metrics, in the order of the page; others come after them.
    key
        The metrics whose values by run are wanted.
    """
    boards = numbered(con.execute("SELECT * FROM boards ORDER BY board").df())
    cells = numbered(con.execute(_CELLS).df())
    metrics = _ordered(con.execute(_METRICS).df(), order, key)
    runs = numbered(con.execute(_RUNS).df())
    entries = sorted({str(e) for e in cells["entry"]})
    reasons = sorted(str(r) for r in con.execute(_ALL_REASONS).df()["reason"])
    for name, table in (
        ("page_boards", boards[["i", "board"]]),
        ("page_cells", cells[["i", "board", "entry"]]),
        ("page_metrics", metrics[["i", "panel", "metric", "place"]]),
        ("page_runs", runs[["i", "run_id", "board", "entry", "split_hash", "no_signal"]]),
        ("page_entries", numbered(pd.DataFrame({"entry": pd.Series(entries, dtype="string")}))),
        ("page_reasons", numbered(pd.DataFrame({"reason": pd.Series(reasons, dtype="string")}))),
    ):
        con.register(name, table)
    costs = con.execute("SELECT * FROM cost").df()
    return PageTables(
        boards=boards,
        cells=cells,
        metrics=metrics,
        runs=runs,
        entries=entries,
        reasons=reasons,
        splits=con.execute("SELECT * FROM splits").df(),
        datasets=con.execute("SELECT * FROM datasets").df(),
        costs=cells[["i", "board", "entry"]].merge(costs, on=["board", "entry"], how="left"),
        scores=_ranked(_dense(con.execute(_SCORES).fetchnumpy(), "cell", (len(cells), len(metrics))), cells),
        bounds=_dense(con.execute(_BOUNDS).fetchnumpy(), "board", (len(boards), len(metrics))),
        details=con.execute(_DETAILS).df(),
        run_scores=_dense(con.execute(_RUN_SCORES).fetchnumpy(), "run", (len(runs), len(key)))["value"],
    )


def read_conditions(con: Any) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return the headline by condition: a table of board, cell, key, value, reason in numbers, the keys, the reasons.

    Parameters
    ----------
    con
        Connection on which `read_tables` was called.
    """
    texts = []
    for name, column in (("page_keys", "key"), ("page_whys", "reason")):
        sql = f"SELECT DISTINCT {column} AS text FROM headline_conditions WHERE {column} IS NOT NULL ORDER BY text"
        found = numbered(con.execute(sql).df().astype("string"))
        con.register(name, found)
        texts.append([str(t) for t in found["text"]])
    return con.execute(_CONDITIONS).df(), texts[0], texts[1]


def numbered(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its row numbers as column `i`."""
    table = table.reset_index(drop=True)
    return table.assign(i=np.arange(len(table)))


def _ordered(metrics: pd.DataFrame, order: list[Name], key: list[Name]) -> pd.DataFrame:
    """Return the metrics in the order given; `place` is the position among the key metrics, missing for others."""
    at = {name: i for i, name in enumerate(order)}
    places = {name: i for i, name in enumerate(key)}
    names = list(zip(metrics["panel"], metrics["metric"], strict=True))
    metrics = metrics.assign(
        order=[at.get(n, len(at)) for n in names],
        place=pd.Series([places.get(n) for n in names], dtype="Int64", index=metrics.index),
    )
    return numbered(metrics.sort_values(["order", "panel", "metric"], kind="stable").drop(columns="order"))


def _ranked(scores: dict[str, FloatArray], cells: pd.DataFrame) -> dict[str, FloatArray]:
    """Return the scores with `rank`, which is that of view `leaderboard`; the view sorts all rows, which takes longer."""
    badness, undefined = scores.pop("badness"), scores["n_undefined"]
    ranks = np.full(badness.shape, np.nan)
    for rows in cells.groupby("board").indices.values():
        bad, lacking = badness[rows], undefined[rows]
        out = np.isnan(bad)
        order = np.lexsort((bad, lacking, out), axis=0)
        sorted_bad = np.take_along_axis(bad, order, axis=0)
        sorted_lacking = np.take_along_axis(lacking, order, axis=0)
        place = np.broadcast_to(np.arange(1.0, len(rows) + 1)[:, None], bad.shape).copy()
        tied = (sorted_bad[1:] == sorted_bad[:-1]) & (sorted_lacking[1:] == sorted_lacking[:-1])
        place[1:][tied] = 0.0
        own = np.empty_like(bad)
        np.put_along_axis(own, order, np.maximum.accumulate(place, axis=0), axis=0)
        ranks[rows] = np.where(out, np.nan, own)
    return {**scores, "rank": ranks}


def _dense(found: dict[str, Any], row: str, shape: tuple[int, int]) -> dict[str, FloatArray]:
    """Return {column: float array of this shape} of columns `row`, `metric` and values."""
    at: IntArray = np.asarray(found[row], dtype=np.int64) * shape[1]
    at = at + np.asarray(found["metric"], dtype=np.int64)
    out = {}
    for name, column in found.items():
        if name in (row, "metric"):
            continue
        array = np.full(shape[0] * shape[1], np.nan)
        array[at] = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
        out[name] = array.reshape(shape)
    return out
