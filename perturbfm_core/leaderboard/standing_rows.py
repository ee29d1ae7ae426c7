"""Rows of the table of standings: the scores of a board beside ceilings, floors, folds and reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from perturbfm_core.evaluation.condition_bounds import read_condition_bounds
from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.board import Board
from perturbfm_core.leaderboard.bootstrap import MIN_UNITS
from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.leaderboard.fold_conditions import tested_by_split
from perturbfm_core.leaderboard.grain import BY_CONTEXT, CONTEXT, GRAINS, WHOLE
from perturbfm_core.leaderboard.pooled_marks import PooledMarks
from perturbfm_core.leaderboard.score_grid import ESTIMATES, ScoreGrid
from perturbfm_core.schema import BoolArray, IntArray

STANDING_COLUMNS: Columns = {
    "board": "text",
    "dataset": "text",
    "split_kind": "text",
    "n_splits": "int",
    "n_splits_expected": "int",
    "n_splits_no_signal": "int",
    "ranked": "bool",
    "entry": "text",
    "model": "text",
    "family": "text",
    "n_seeds": "int",
    "panel": "text",
    "metric": "text",
    "metric_version": "text",
    "direction": "text",
    "value": "float",
    "ci_low": "float",
    "ci_high": "float",
    "n_conditions": "int",
    "n_undefined": "int",
    "n_units": "int",
    # What one value is of: a condition, a context, or a run.
    "grain": "text",
    "best_baseline": "text",
    "diff": "float",
    "diff_low": "float",
    "diff_high": "float",
    "badness": "float",
    "no_signal": "bool",
    "shared_control": "bool",
    "ceiling": "float",
    "ceiling_noise_free": "float",
    "null_floor": "float",
    "train_mean_floor": "float",
    "control_mean_floor": "float",
    # Of panels with a scale: what counts as 0 and as 1.
    "baseline_mark": "float",
    "anchor_mark": "float",
    "comparable": "bool",
    "folds_done": "int",
    "folds_total": "int",
    "complete": "bool",
    "reason": "text",
    "interval_reason": "text",
    "diff_reason": "text",
    "ceiling_reason": "text",
    "floor_reason": "text",
    # Why ceilings and floors are means over folds where the folds share conditions.
    "marks_reason": "text",
}
# {column: its field of `Marks`}.
_MARKS: Mapping[str, str] = {
    "ceiling": "half",
    "ceiling_noise_free": "noise_free",
    "null_floor": "null",
    "train_mean_floor": "train_mean",
    "control_mean_floor": "control_mean",
    "baseline_mark": "baseline",
    "anchor_mark": "anchor",
}
# A missing value of these has a reason; most metrics have no baseline and anchor.
_CEILINGS = ("ceiling", "ceiling_noise_free")
_OVER_FOLDS = (reasons.OVER_FOLDS, reasons.OVER_FOLDS_YET)
_FLOORS = ("null_floor", "train_mean_floor", "control_mean_floor")
_PA = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def standing_rows(grid: ScoreGrid) -> pa.Table:
    """Return the table of `STANDING_COLUMNS` of a board, one row per metric and entry."""
    board = grid.board
    E, M = grid.value.shape
    entries = np.tile(np.arange(E), M)
    metrics = np.repeat(np.arange(M), E)

    def by_entry(value_of: Callable[[str], Any]) -> Any:
        return np.asarray([value_of(e) for e in grid.entries])[entries]

    def by_metric(values: Any) -> Any:
        return np.asarray(values)[metrics]

    def flat(values: Any) -> Any:
        return values.T.ravel()

    rankable, value = grid.rankable(), grid.value
    has_value = np.isfinite(value)
    folds = _Folds.of(grid)
    # Only entries on the same folds are comparable, and nothing is ranked on noise.
    comparable = has_value & rankable[None, :] & folds.same & ~grid.other_version & (not board.no_signal)
    ranked = comparable & folds.complete
    best = by_metric(grid.best)
    pooled = _pooled(board)
    found = [pooled.of(m.panel, m.metric) for m in board.metrics]
    versions, version_names = grid.last_versions()
    marks = {name: [getattr(of, field) for of in found] for name, field in _MARKS.items()}
    why_over_folds = [
        pooled.why_over_splits(m.panel, m.metric) if any(v is not None for v in vars(of).values()) else None
        for m, of in zip(board.metrics, found, strict=True)
    ]
    columns: dict[str, Any] = {
        "board": board.name,
        "dataset": board.dataset,
        "split_kind": board.split_kind,
        "n_splits": flat(folds.counted),
        "n_splits_expected": board.folds,
        "n_splits_no_signal": len({r.split_hash for r in board.runs if r.silent}),
        "ranked": flat(ranked),
        "entry": (entries, grid.entries),
        "model": by_entry(lambda e: board.entries[e][-1].model),
        "family": by_entry(lambda e: board.entries[e][-1].family),
        "n_seeds": by_entry(lambda e: len({r.seed for r in board.entries[e]})),
        "panel": by_metric([m.panel for m in board.metrics]),
        "metric": by_metric([m.metric for m in board.metrics]),
        "metric_version": (flat(versions), version_names),
        "direction": by_metric([m.direction for m in board.metrics]),
        **{name: flat(grid.estimates[name]) for name in ESTIMATES},
        "n_conditions": flat(grid.n_scored),
        "n_undefined": flat(grid.n_scored - grid.n_defined),
        "n_units": flat(grid.n_units),
        "grain": (flat(grid.grain), GRAINS),
        "best_baseline": (best, grid.entries),
        "badness": flat(grid.badness()),
        "no_signal": board.no_signal,
        "shared_control": any(r.shared_control for r in board.runs),
        **{name: by_metric(np.asarray(values, dtype=np.float64)) for name, values in marks.items()},
        "comparable": flat(comparable),
        "folds_done": flat(folds.done),
        "folds_total": board.folds,
        "complete": flat(folds.complete),
        **{name: _texts(cases, E * M) for name, cases in _reasons(grid, folds, marks).items()},
        "marks_reason": _texts(
            [(by_metric([why == text for why in why_over_folds]), text) for text in _OVER_FOLDS], E * M
        ),
    }
    return pa.table({name: _column(columns[name], kind, E * M) for name, kind in STANDING_COLUMNS.items()})


@dataclass(frozen=True, eq=False)
class _Folds:
    """Folds on which entries are scored by metrics, each [E, M]: a run made before a metric was known lacks it.

    `done` and `counted` are numbers of folds, of all and of those that count; `same` says whether an entry is scored on
    all that any entry is scored on, and `complete` whether on all of the board that have signal.
    """

    done: IntArray
    counted: IntArray
    same: BoolArray
    complete: BoolArray

    @classmethod
    def of(cls, grid: ScoreGrid) -> _Folds:
        board = grid.board
        at = {split: i for i, split in enumerate(sorted({r.split_hash for r in board.runs}))}
        scored = np.zeros((*grid.value.shape, len(at)), dtype=np.bool_)
        columns: dict[int, list[int]] = {}
        for r in board.runs:
            # Runs of the same code share one object.
            if id(r.metrics) not in columns:
                columns[id(r.metrics)] = [c for m in r.metrics if (c := grid.column.get(m[:2])) is not None]
            if r.entry in grid.row:
                scored[grid.row[r.entry], columns[id(r.metrics)], at[r.split_hash]] = True
        silent, counts = np.zeros((2, len(at)), dtype=np.bool_)
        silent[[at[r.split_hash] for r in board.runs if r.silent]] = True
        counts[[at[r.split_hash] for r in board.counted]] = True
        counted = (scored & counts).sum(axis=2)
        return cls(
            done=scored.sum(axis=2),
            counted=counted,
            same=counted == (scored.any(axis=0) & counts).sum(axis=1),
            complete=(scored | silent).sum(axis=2) >= board.folds,
        )


Cases = list[tuple[Any, str]]


def _reasons(grid: ScoreGrid, folds: _Folds, marks: Mapping[str, Sequence[float | None]]) -> dict[str, Cases]:
    """Return {column: [(rows where it holds, the reason)]}, the first that holds counts.

    Parameters
    ----------
    grid
        Scores of the board.
    folds
        Folds on which entries are scored.
    marks
        {name: ceiling or floor of each metric}.
    """
    board, shape = grid.board, grid.value.shape

    def rows(mask: Any) -> Any:
        return np.broadcast_to(mask, shape).T.ravel()

    value, rankable = grid.value, grid.rankable()[None, :]
    none = [(rows(grid.n_scored == 0), reasons.NOT_SCORED), (rows(~np.isfinite(value)), reasons.UNDEFINED)]
    per_fold: Cases = [
        (rows((folds.done == d) & ~(folds.complete & folds.same)), reasons.of_folds(int(d), board.folds))
        for d in np.unique(folds.done)
    ]
    is_few = grid.n_units < MIN_UNITS
    few: Cases = [
        (rows(grid.grain == WHOLE), reasons.OF_SEVERAL),
        (rows(is_few & (grid.grain == BY_CONTEXT) & (board.unit != CONTEXT)), reasons.ONE_PER_CONTEXT),
        (rows(is_few), reasons.FEW_UNITS),
        (rows(True), reasons.FEW_DRAWS),
    ]
    diff = grid.estimates["diff"]
    bounds = [board.bounds.get(h, (None, None)) for h in sorted({r.split_hash for r in board.counted})]
    missing = [rows(_missing(marks, names)[None, :]) for names in (_CEILINGS, _FLOORS)]
    return {
        "reason": [
            *none,
            (rows(~rankable), reasons.NO_BEST),
            (rows(board.no_signal), reasons.NO_SIGNAL),
            *per_fold,
            (rows(grid.other_version), reasons.OTHER_VERSION),
        ],
        "interval_reason": [(rows(np.isfinite(grid.estimates["ci_low"])), ""), *none, *few],
        "diff_reason": [
            (rows(np.isfinite(grid.estimates["diff_low"])), ""),
            *none,
            (rows(~rankable), reasons.NO_BEST),
            (rows(grid.other_version), reasons.OTHER_VERSION),
            (rows((np.asarray(grid.best) < 0)[None, :]), reasons.NO_BASELINE),
            (rows(~np.isfinite(diff)), reasons.NO_PAIR),
            *few,
        ],
        "ceiling_reason": [
            (missing[0], reasons.bound_reason([b[0] for b in bounds], reasons.NO_CEILING)),
        ],
        "floor_reason": [
            (missing[1], reasons.bound_reason([b[1] for b in bounds], reasons.NO_FLOOR)),
        ],
    }


def _missing(marks: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> BoolArray:
    parts = [[v is None for v in marks[name]] for name in names]
    return np.asarray(np.asarray(parts, dtype=np.bool_).any(axis=0))


def _pooled(board: Board) -> PooledMarks:
    """Return the ceilings and floors of a board, those by condition read where there are some of every split."""
    tested = tested_by_split(board)
    conditions = {}
    if len(tested) > 1 and tested.keys() <= board.condition_bounds.keys():
        read = {split: read_condition_bounds(board.condition_bounds[split]) for split in tested}
        conditions = {split: values for split, values in read.items() if values is not None}
    return PooledMarks(board.bounds, tested, conditions)


def _texts(cases: Cases, n: int) -> tuple[Any, list[str]]:
    """Return (position of the first case that holds in each row, -1 for none, the texts)."""
    at = np.full(n, -1)
    for i, (mask, text) in reversed(list(enumerate(cases))):
        at[mask] = i if text else -1
    return at, [text for _, text in cases]


def _column(values: Any, kind: str, n: int) -> pa.Array:
    """Return a column of one type: an array, one value for all rows, or (positions, texts)."""
    if isinstance(values, tuple):
        codes, names = values
        codes = np.asarray(codes, dtype=np.int32)
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, mask=codes < 0), pa.array([str(x) for x in names] or [""], pa.string())
        )
    if np.isscalar(values):
        if kind == "text":
            return _column((np.zeros(n), [values]), kind, n)
        return pa.array(np.full(n, values), _PA[kind])
    if kind == "text":
        names, codes = np.unique(values, return_inverse=True) if n else ([], np.zeros(0))
        return _column((codes, list(names)), kind, n)
    if kind == "float":
        return pa.array(values, _PA[kind], mask=~np.isfinite(values))
    return pa.array(values, _PA[kind])
