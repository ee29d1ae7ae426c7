"""Standings: mean and confidence interval of every entry, by metric and board.

A board is a split or a cross-validation. Conditions of all its folds are pooled; a condition that is tested in two
folds counts once with the mean over these, each with its mean over seeds. Folds without signal in the data are left
out. A statistic of several conditions together is the mean of what the runs have, weighted by their conditions, without
an interval.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perturbfm_core.leaderboard.board import Board, BoardRun
from perturbfm_core.leaderboard.condition_matrix import ConditionMatrix, MatrixCache, pooled
from perturbfm_core.leaderboard.entry_scores import differences, entry_scores
from perturbfm_core.leaderboard.fold_conditions import FoldConditions, tested_by_split
from perturbfm_core.leaderboard.grain import BoardBootstrap
from perturbfm_core.leaderboard.references import References
from perturbfm_core.leaderboard.score_grid import GridArrays, ScoreGrid

_ENTRY_BYTES = 1 << 27


def fill_standings(
    board: Board,
    load: Callable[[BoardRun], ConditionMatrix],
    earlier: GridArrays | None = None,
    references: References | None = None,
) -> ScoreGrid:
    """Return the means, intervals and differences of every entry of a board.

    Parameters
    ----------
    board
        The board.
    load
        (run) -> its condition scores.
    earlier
        What was computed before of entries whose conditions and values are the same.
    references
        Where the means of best baselines are kept.
    """
    grid = ScoreGrid(board)
    bootstrap = BoardBootstrap.of(board.keys, board.unit)
    places = FoldConditions(tested_by_split(board))
    by_place = MatrixCache(
        lambda name: pooled(
            (places.of_split(load(r), r.split_hash) for r in board.entries[name]), places.keys
        ),
        _ENTRY_BYTES,
    )
    if references is None:
        baselines = by_place
    else:
        baselines = MatrixCache(
            lambda e: references.get(board, e, places.keys, lambda: by_place.get(e)), _ENTRY_BYTES
        )
    kept = set() if earlier is None else grid.take(earlier)
    for name in board.entries:
        if name not in kept:
            grid.put(name, entry_scores(places.of_conditions(by_place.get(name)), bootstrap, board.declared))
    best = best_baselines(grid)
    grid.best = best
    for name in board.entries:
        if earlier is not None and name in kept and grid.has_differences(earlier, name, kept):
            continue
        matrix = by_place.get(name)
        columns = [grid.column[m.panel, m.metric] for m in matrix.metrics]
        other = grid.other_version[grid.row[name]]
        beside = [
            None
            if best[c] < 0 or other[c]
            else (baselines.get(grid.entries[best[c]]), int(grid.grain[best[c], c]))
            for c in columns
        ]
        grid.put_differences(name, columns, differences(matrix, beside, places, bootstrap, board.declared))
    return grid


def best_baselines(grid: ScoreGrid) -> list[int]:
    """Return the position of the best baseline for every metric of a board, -1 where there is none.

    A baseline that is defined on fewer conditions than another entry is not used as the reference, nor is one that
    another version of the metric scored.
    """
    is_baseline = np.asarray([grid.board.entries[e][-1].family == "baseline" for e in grid.entries])
    most = grid.n_defined.max(axis=0, initial=0)
    badness = grid.badness()
    fit = is_baseline[:, None] & np.isfinite(badness) & ~grid.other_version & (grid.n_defined == most)
    at = np.where(fit, badness, np.inf).argmin(axis=0) if len(grid.entries) else np.zeros(0, dtype=np.int64)
    return [int(i) if fit[i, c] else -1 for c, i in enumerate(at)]
