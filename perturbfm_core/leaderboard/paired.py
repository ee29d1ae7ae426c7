"""Paired comparison of any two runs or entries, metric by metric, on the conditions that both were scored on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from perturbfm_core import schema
from perturbfm_core.config import slug
from perturbfm_core.errors import ConfigError, MetricError
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.bootstrap import MIN_UNITS, ClusteredBootstrap, Interval
from perturbfm_core.leaderboard.condition_matrix import MATRIX_COLUMNS, ConditionMatrix, matrix_of
from perturbfm_core.leaderboard.condition_table import ConditionTable, ratio_parts
from perturbfm_core.leaderboard.fold_conditions import FoldConditions
from perturbfm_core.leaderboard.grain import BY_CONTEXT, UNKNOWN, WHOLE, BoardBootstrap
from perturbfm_core.leaderboard.run_list import ListedRun, list_runs
from perturbfm_core.leaderboard.run_marks import splits_without_signal
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord

DRAWS = 10_000
_FIELDS = ("model", "family", "params", "uncertainty", "seed", "side_info", "code", "libraries")


@dataclass(frozen=True, eq=False)
class PairedComparison:
    """Two sides compared.

    Attributes
    ----------
    table
        One row per board and metric: the folds that both have, values of both sides, the difference a - b with its
        95 % interval over units (over contexts, for a metric that has one value for all conditions of a context), the
        verdict on a, the number of conditions and of such units, and why there is no interval.
    differs
        {what the configurations differ in: (of a, of b)}, of the newest run of each side.
    runs
        Ids of the runs of both sides.
    """

    table: pd.DataFrame
    differs: dict[str, tuple[Any, Any]]
    runs: tuple[tuple[str, ...], tuple[str, ...]]


def compare_pair(
    store: ArtifactStore, a: str, b: str, metrics: Collection[str] | None = None
) -> PairedComparison:
    """Compare two runs, two entries, or a run with an entry.

    An entry stands for its current runs. Conditions are paired fold by fold, each fold with its mean over seeds; splits
    that only one side has are left out, as are folds without signal. Nothing is said of a metric of which the runs have
    several versions.

    Parameters
    ----------
    store
        The store of the runs.
    a, b
        An entry; or the directory, id or prefix of the id of a run.
    metrics
        PANEL.METRIC of the rows, all by default.

    Raises
    ------
    ConfigError
        If the sides have no split in common.
    """
    runs = list_runs(store)[0]
    sides = [_side(store, runs, a), _side(store, runs, b)]
    splits = [{r.record.split_hash for r in side} for side in sides]
    common = splits[0] & splits[1]
    if not common:
        names = [sorted({r.record.split.key for r in side})[:3] for side in sides]
        msg = f"{a!r} is scored on {names[0]}, {b!r} on {names[1]}, no split is in both; run or submit one of them on the other's"
        raise ConfigError(msg)
    sides = [[r for r in side if r.record.split_hash in common] for side in sides]
    boards: dict[str, list[list[ListedRun]]] = {}
    for at, side in enumerate(sides):
        for run in side:
            boards.setdefault(_board_of(run.record), [[], []])[at].append(run)
    folder = SplitFolder(store.split_dir)
    stats = {h: folder.stats(h) for h in common}
    silent = splits_without_signal(
        {h: None if s is None else s.no_signal for h, s in stats.items()}, [r.record for r in runs]
    )
    rows = [
        row for name, pair in sorted(boards.items()) for row in _board(folder, name, pair, metrics, silent)
    ]
    ids = tuple(tuple(r.path.name for r in side) for side in sides)
    return PairedComparison(
        pd.DataFrame(rows), _differs(sides[0][0].record, sides[1][0].record), (ids[0], ids[1])
    )


def _side(store: ArtifactStore, runs: list[ListedRun], name: str) -> list[ListedRun]:
    """Return the runs of a side, newest first."""
    own = [r for r in runs if r.record.entry == name and r.is_current]
    if not own:
        path = store.find_run(name).resolve()
        found = [r for r in runs if r.path.resolve() == path]
        if not found:
            msg = f"{path} is not a run of {store.runs}; compare runs of one store"
            raise ConfigError(msg)
        return found
    # Of each split the configuration that was asked for last counts, as on the leaderboard.
    newest: dict[str, str] = {}
    for r in sorted(own, key=lambda r: r.requested, reverse=True):
        newest.setdefault(r.record.split_hash, r.record.entry_hash)
    return [r for r in own if r.record.entry_hash == newest[r.record.split_hash]]


def _board_of(record: RunRecord) -> str:
    cv = record.split.cv
    name = slug(record.dataset.name)
    return record.split.key if cv is None else f"{name}.{record.split.kind}.cv-{str(cv['group'])[:12]}"


def _board(
    folder: SplitFolder,
    board: str,
    pair: list[list[ListedRun]],
    metrics: Collection[str] | None,
    silent: Collection[str],
) -> list[dict[str, Any]]:
    """Return the rows of a board.

    Parameters
    ----------
    folder
        The splits.
    board, pair
        The board, and the runs of both sides on it.
    metrics
        PANEL.METRIC of the rows, all for None.
    silent
        The splits without signal, which are left out unless all are.
    """
    members = [r for side in pair for r in side]
    if not {r.record.split_hash for r in members} <= set(silent):
        pair = [[r for r in side if r.record.split_hash not in silent] for side in pair]
    scored = [
        (name, r.record.split_hash, _matrix(r)) for name, side in zip("ab", pair, strict=True) for r in side
    ]
    tested: dict[str, set[str]] = {}
    grains, versions = dict[tuple[str, str], int](), dict[tuple[str, str], set[str]]()
    for _, split, matrix in scored:
        tested.setdefault(split, set()).update(matrix.keys)
        for m, grain in zip(matrix.metrics, matrix.grain, strict=True):
            grains[m.panel, m.metric] = max(grains.get((m.panel, m.metric), UNKNOWN), int(grain))
            versions.setdefault((m.panel, m.metric), set()).add(m.version)
    places = FoldConditions(tested)
    frames = [_frame(places.of_split(matrix, split)).assign(entry=name) for name, split, matrix in scored]
    table = ConditionTable(pd.concat(frames, ignore_index=True))
    unit = folder.load(members[0].record.split_hash).definition.unit
    bootstrap = BoardBootstrap.of(places.conditions, unit, draws=DRAWS)
    wanted = [
        (panel, metric)
        for panel, metric in table.metrics
        if metrics is None or f"{panel}.{metric}" in metrics
    ]
    folds = _folds(members, pair)
    return [
        {
            "board": board,
            "folds": folds,
            **_row(table, places, bootstrap, (panel, metric, grains[panel, metric]), versions[panel, metric]),
        }
        for panel, metric in wanted
    ]


def _matrix(run: ListedRun) -> ConditionMatrix:
    frame = pd.read_parquet(run.path / schema.SCORES_FILE)
    scope = frame["scope"]
    return matrix_of(
        pa.Table.from_pandas(frame[list(MATRIX_COLUMNS)], preserve_index=False),
        (scope == "condition").to_numpy(),
        (scope == "global").to_numpy(),
    )


def _frame(matrix: ConditionMatrix) -> pd.DataFrame:
    """Return the values of a run as rows, one per metric and scored condition."""
    row, column = np.nonzero(matrix.scored)
    out = pd.DataFrame(matrix.metrics, columns=["panel", "metric", "direction", "metric_version"]).iloc[row]
    return out.assign(key=np.asarray(matrix.keys, dtype=object)[column], value=matrix.mean[row, column])


def _folds(members: list[ListedRun], pair: list[list[ListedRun]]) -> str:
    """Return how many folds of a board both sides are compared on."""
    cv = members[0].record.split.cv
    used = len({r.record.split_hash for side in pair for r in side})
    return "one split" if cv is None else reasons.of_folds(used, int(cv.get("k", used)))


def _row(
    table: ConditionTable,
    places: FoldConditions,
    bootstraps: BoardBootstrap,
    scored: tuple[str, str, int],
    versions: Collection[str],
) -> dict[str, Any]:
    """Return the comparison of one metric.

    Parameters
    ----------
    table, places
        Values of both sides, by condition and fold.
    bootstraps
        Of the conditions.
    scored
        Panel and name of the metric, and how many conditions one value of it is about (see `grain`).
    versions
        Of the metric, by which both sides were scored.
    """
    panel, name, grain = scored
    values = table.values(panel, name)
    if values is None:
        msg = f"no condition has {panel}.{name}"
        raise MetricError(msg)
    full = f"{panel}.{name}"
    known = METRICS.get(full) if full in METRICS else None
    # Only what is defined on both sides is paired; what a ratio divides by has to be as well.
    parts = ratio_parts(table, panel, known)
    above, below = ([values], [np.ones_like(values)]) if parts is None else parts
    whole = [np.isfinite(n).all(axis=1, keepdims=True) for n in above]
    difference = [_averaged(places, n[:, [0]] - n[:, [1]]) for n in above]
    shared = [_averaged(places, np.where(w, d, np.nan)[:, [0]]) for d, w in zip(below, whole, strict=True)]
    above = [_averaged(places, np.where(w, n, np.nan)) for n, w in zip(above, whole, strict=True)]
    below = [_averaged(places, np.where(w, d, np.nan)) for d, w in zip(below, whole, strict=True)]
    means = ClusteredBootstrap.ratio(above, below)
    both: BoolArray = np.isfinite(_averaged(places, values[:, [0]] - values[:, [1]]))[:, 0]
    bootstrap = bootstraps.contexts if grain == BY_CONTEXT else bootstraps.units
    (diff,), interval = ClusteredBootstrap.ratio(difference, shared), Interval(None, None)
    alike = len(versions) == 1
    if not alike:
        diff = np.nan
    elif grain != WHOLE:
        (interval,) = bootstrap.ratio_intervals(difference, shared)
    n_units = 0 if grain == WHOLE else int(bootstrap.count_units(both[None])[0])
    direction = table.metrics[panel, name]["direction"]
    why = _no_interval(grain, both, n_units) if alike else reasons.OTHER_VERSION
    return {
        "metric": full,
        "direction": direction,
        "a": float(means[0]),
        "b": float(means[1]),
        "diff": float(diff),
        "diff_low": interval.low,
        "diff_high": interval.high,
        "verdict": _verdict(interval.low, interval.high, direction) if alike else "other version",
        "n_conditions": int(both.sum()),
        "n_undefined": int((~both).sum()),
        "n_units": n_units,
        "reason": None if interval.low is not None else why,
    }


def _averaged(places: FoldConditions, values: FloatArray) -> FloatArray:
    """Return values by condition [C, E] of values by condition and fold."""
    return places.by_condition(values.T).T


def _no_interval(grain: int, both: BoolArray, n_units: int) -> str:
    """Return why there is no interval."""
    if not both.any():
        return reasons.NO_PAIR
    if grain == WHOLE:
        return reasons.OF_SEVERAL
    if n_units >= MIN_UNITS:
        return reasons.FEW_DRAWS
    return reasons.ONE_PER_CONTEXT if grain == BY_CONTEXT else reasons.FEW_UNITS


def _verdict(low: float | None, high: float | None, direction: str) -> str:
    """Return what is known of a beside b."""
    if low is None or high is None:
        return "too few units"
    if low <= 0 <= high:
        return "not told apart"
    if direction not in ("max", "min"):
        return "differs"
    return "better" if (low > 0) == (direction == "max") else "worse"


def _differs(a: RunRecord, b: RunRecord) -> dict[str, tuple[Any, Any]]:
    out = {}
    for field in _FIELDS:
        one, two = getattr(a, field), getattr(b, field)
        if isinstance(one, dict):
            for key in sorted({*one, *two}):
                if one.get(key) != two.get(key):
                    out[f"{field}.{key}"] = (one.get(key), two.get(key))
        elif one != two:
            out[field] = (one, two)
    files = [None if r.submission is None else r.submission.sha256 for r in (a, b)]
    return out if files[0] == files[1] else {**out, "file_sha256": (files[0], files[1])}
