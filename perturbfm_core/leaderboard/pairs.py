"""Paired comparisons of the entries of a board on the headline metric, corrected for their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.bootstrap import MIN_UNITS, ClusteredBootstrap, percentile_interval
from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.leaderboard.condition_table import units_of_key
from perturbfm_core.leaderboard.fold_conditions import FoldConditions, tested_by_split
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.leaderboard.multiple_testing import LEVEL, holm
from perturbfm_core.leaderboard.score_grid import ScoreGrid
from perturbfm_core.schema import BoolArray, FloatArray

Headline = Callable[[Sequence[str]], pd.DataFrame]

DRAWS = 10_000
# With more, no p-value that this many draws can show would be left after the correction.
MAX_ENTRIES = 20

PAIR_COLUMNS: Columns = {
    "board": "text",
    "dataset": "text",
    "split_kind": "text",
    "panel": "text",
    "metric": "text",
    "direction": "text",
    "entry_a": "text",
    "entry_b": "text",
    "value_a": "float",
    "value_b": "float",
    "diff": "float",
    "diff_low": "float",
    "diff_high": "float",
    "p": "float",
    "p_holm": "float",
    "verdict": "text",
    "n_conditions": "int",
    "n_undefined": "int",
    "n_units": "int",
    "reason": "text",
}


def pair_rows(grid: ScoreGrid, headline: Headline) -> pd.DataFrame:
    """Return the table of `PAIR_COLUMNS` of a board, one row per pair of entries.

    The two values of a pair are means over the conditions that both have defined, on the folds that both have run. The
    p-value is two-sided, from a bootstrap of the board's units, and corrected over all pairs of the board after Holm
    (1979). Of a board with more than `MAX_ENTRIES` entries the best are compared.

    Parameters
    ----------
    grid
        Scores of the board.
    headline
        (runs) -> table ``run_id, key, value`` of their defined conditions on the headline metric.
    """
    board = grid.board
    column = grid.column.get((HEADLINE_PANEL, HEADLINE_METRIC))
    names = [] if column is None else _best(grid, column)
    if column is None or len(names) < 2:
        return pd.DataFrame(columns=list(PAIR_COLUMNS))
    places = FoldConditions(tested_by_split(board))
    values = _values(grid, names, places, headline)
    bootstrap = ClusteredBootstrap([units_of_key(k, board.unit) for k in board.keys], draws=DRAWS)
    pairs = list(combinations(range(len(names)), 2))
    a, b = np.asarray(pairs).T
    # Fold by fold, so that an entry that has run some folds is compared with what the other reaches on these.
    diff = values[a] - values[b]
    shared = np.isfinite(diff)
    of_a, of_b = (places.by_condition(np.where(shared, values[i], np.nan)) for i in (a, b))
    diff = places.by_condition(diff)
    both = np.isfinite(diff)
    low, high, p = _tested(bootstrap, diff)
    out = pd.DataFrame(
        {
            "board": board.name,
            "dataset": board.dataset,
            "split_kind": board.split_kind,
            "panel": HEADLINE_PANEL,
            "metric": HEADLINE_METRIC,
            "direction": board.metrics[column].direction,
            "entry_a": np.asarray(names, dtype=object)[a],
            "entry_b": np.asarray(names, dtype=object)[b],
            "value_a": _means(of_a, both),
            "value_b": _means(of_b, both),
            "diff": _means(diff, both),
            "diff_low": low,
            "diff_high": high,
            "p": p,
            "p_holm": holm(p),
            "n_conditions": both.sum(axis=1),
            "n_undefined": (~both).sum(axis=1),
            "n_units": bootstrap.count_units(both),
        }
    )
    apart = (out["p_holm"] < LEVEL).to_numpy()
    up = (out["diff"] > 0).to_numpy() == (board.metrics[column].direction == "max")
    nothing, untested = ~both.any(axis=1), np.isnan(p)
    out["verdict"] = np.select(
        [nothing, untested, apart & up, apart],
        ["no condition in common", "too few units", "a better", "b better"],
        "not told apart",
    )
    few = np.where(out["n_units"] < MIN_UNITS, reasons.FEW_UNITS, reasons.FEW_DRAWS)
    out["reason"] = np.select([nothing, untested], [reasons.NO_PAIR, few], "")
    out["reason"] = out["reason"].replace({"": None})
    return out[list(PAIR_COLUMNS)]


def _best(grid: ScoreGrid, column: int) -> list[str]:
    """Return the entries that have a value of the version that counts, by name: the best ones where they are many."""
    badness, undefined = grid.badness()[:, column], (grid.n_scored - grid.n_defined)[:, column]
    fit = np.isfinite(badness) & ~grid.other_version[:, column]
    known = [i for i in range(len(grid.entries)) if fit[i]]
    known.sort(key=lambda i: (undefined[i], badness[i], grid.entries[i]))
    return sorted(grid.entries[i] for i in known[:MAX_ENTRIES])


def _values(grid: ScoreGrid, names: Sequence[str], places: FoldConditions, headline: Headline) -> FloatArray:
    """Return the values of some entries [E, places], averaged over their runs; NaN where none is defined.

    Parameters
    ----------
    grid, names
        Scores of the board, and the entries.
    places
        Where a condition of the board is tested.
    headline
        See `pair_rows`.
    """
    split = {r.run_id: r.split_hash for name in names for r in grid.board.entries[name]}
    runs = {r.run_id: (i, e) for e, name in enumerate(names) for i, r in enumerate(grid.board.entries[name])}
    rows = headline(list(runs))
    place = {key: i for i, key in enumerate(places.keys)}
    # Oldest first, so that sums do not depend on the order of the table.
    order, entry = (np.asarray([runs[r][i] for r in rows["run_id"]], dtype=np.int64) for i in (0, 1))
    key = np.asarray(
        [place[places.name(k, split[r])] for k, r in zip(rows["key"], rows["run_id"], strict=True)],
        dtype=np.int64,
    )
    value = rows["value"].to_numpy(dtype=np.float64)
    by_age = np.lexsort((value, order))
    at = (entry * len(place) + key)[by_age]
    size = len(names) * len(place)
    n = np.bincount(at, minlength=size)
    total = np.bincount(at, value[by_age], size)
    out = np.full(size, np.nan)
    np.divide(total, n, out=out, where=n > 0)
    return out.reshape(len(names), len(place))


def _tested(bootstrap: ClusteredBootstrap, diff: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (both ends of the interval, two-sided p-value) of mean differences [pairs, C], each [pairs]."""
    drawn = bootstrap.row_means(diff)
    if drawn is None:
        nothing = np.full(len(diff), np.nan)
        return nothing, nothing, nothing
    low, high = percentile_interval(drawn)
    fewer = np.minimum((drawn >= 0).sum(axis=1), (drawn <= 0).sum(axis=1))
    # The observed sample counts as one of the draws, so that p is never 0.
    p = np.minimum(2 * (1 + fewer) / (np.isfinite(drawn).sum(axis=1) + 1), 1.0)
    return low, high, np.where(np.isnan(low), np.nan, p)


def _means(values: FloatArray, where: BoolArray) -> FloatArray:
    """Return the mean of each row over the conditions where it counts; NaN where there are none."""
    n = where.sum(axis=1)
    out = np.full(len(values), np.nan)
    np.divide(np.where(where, values, 0.0).sum(axis=1), n, out=out, where=n > 0)
    return out
