"""Condition scores of a run or an entry as one array of metrics by conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perturbfm_core.leaderboard.grain import WHOLE, grain_of
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

MATRIX_COLUMNS = ("panel", "metric", "direction", "metric_version", "key", "value")


class ScoredMetric(NamedTuple):
    """A metric as a run was scored by it."""

    panel: str
    metric: str
    direction: str
    version: str


@dataclass(frozen=True, eq=False)
class ConditionMatrix:
    """Values by metric and condition.

    Attributes
    ----------
    metrics, keys
        The M metrics, in the order of the file; the C condition keys, sorted.
    total, count, scored
        Sum and number of defined values, and whether there is a value or a reason for none, each [M, C].
    grain
        How many conditions one value is about, [M] (see `grain`).
    """

    metrics: tuple[ScoredMetric, ...]
    keys: tuple[str, ...]
    total: FloatArray
    count: IntArray
    scored: BoolArray
    grain: IntArray

    @property
    def nbytes(self) -> int:
        """Return the memory of the arrays."""
        return self.total.nbytes + self.count.nbytes + self.scored.nbytes

    @property
    def mean(self) -> FloatArray:
        """Return float64 [M, C], NaN where no value is defined."""
        return _mean(self.total, self.count)


def _mean(total: FloatArray, count: IntArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count > 0, total / count, np.nan))


def matrix_of(
    table: pa.Table, rows: BoolArray | None = None, whole: BoolArray | None = None
) -> ConditionMatrix:
    """Return the matrix of a table of `MATRIX_COLUMNS`.

    A statistic of several conditions together has no value of a single one; that of the run stands with each of them,
    so that folds are pooled by their numbers of conditions, as those of other metrics are.

    Parameters
    ----------
    table
        Scores of one run.
    rows
        Those of scope ``condition``, bool [rows]; all by default.
    whole
        Those of scope ``global``, bool [rows]; none by default.
    """
    at = slice(None) if rows is None else np.flatnonzero(rows)
    panel, panels = _coded(table["panel"], at)
    metric, metrics = _coded(table["metric"], at)
    key, keys = _coded(table["key"], at)
    pair = panel.astype(np.int64) * max(len(metrics), 1) + metric
    first = np.full(len(panels) * max(len(metrics), 1), -1)
    # Written from the end, so that the first row of a metric stays.
    first[pair[::-1]] = np.arange(len(pair))[::-1]
    pairs = np.flatnonzero(first >= 0)
    pairs = pairs[np.argsort(first[pairs], kind="stable")]
    place = np.zeros(len(first), dtype=np.int64)
    place[pairs] = np.arange(len(pairs))
    direction, directions = _coded(table["direction"], at)
    version, versions = _coded(table["metric_version"], at)
    texts = (tuple(panels), tuple(metrics), tuple(directions), tuple(versions))
    infos = _infos(texts, pairs.tobytes(), direction[first[pairs]].tobytes(), version[first[pairs]].tobytes())
    used = np.flatnonzero(np.bincount(key, minlength=len(keys)))
    names, by_name = _sorted(tuple(keys[k] for k in used))
    column = np.zeros(len(keys), dtype=np.int64)
    column[used[by_name]] = np.arange(len(used))
    shape = (len(infos), len(names))
    flat = place[pair] * shape[1] + column[key]
    # A value that is not finite is no value.
    values = pc.fill_null(table["value"], float("nan")).to_numpy()[at]
    good = np.isfinite(values)
    size = shape[0] * shape[1]
    total = np.asarray(np.bincount(flat[good], values[good], size), dtype=np.float64).reshape(shape)
    count = np.bincount(flat[good], minlength=size).astype(np.int32).reshape(shape)
    scored = (np.bincount(flat, minlength=size) > 0).reshape(shape)
    grain = grain_of(_mean(total, count), names)
    if whole is not None:
        for i, value in _whole_values(table, whole, infos, np.asarray(~count.any(axis=1))):
            total[i], count[i], grain[i] = np.where(scored[i], value, 0.0), scored[i], WHOLE
    return ConditionMatrix(infos, names, total, count, scored, grain)


def _whole_values(
    table: pa.Table, rows: BoolArray, infos: Sequence[ScoredMetric], wanted: BoolArray
) -> Iterator[tuple[int, float]]:
    """Yield (position, value of the run) of the wanted metrics that have one.

    Parameters
    ----------
    table, rows
        Scores, and those of scope ``global``.
    infos, wanted
        The M metrics, and which of them are wanted [M].
    """
    places = {(m.panel, m.metric): i for i, m in enumerate(infos) if wanted[i]}
    if not places:
        return
    found = table.select(["panel", "metric", "value"]).take(pa.array(np.flatnonzero(rows)))
    for panel, metric, value in zip(*(found[c].to_pylist() for c in found.column_names), strict=True):
        at = places.get((panel, metric))
        if at is not None and value is not None and np.isfinite(value):
            yield at, float(value)


# Runs of one kind of split share these, and equal ones are then one object, which is cheap to compare.
@lru_cache(maxsize=64)
def _infos(
    texts: tuple[tuple[str, ...], ...], pairs: bytes, direction: bytes, version: bytes
) -> tuple[ScoredMetric, ...]:
    """Return the metrics of positions (panel by metric), directions and versions among texts."""
    panels, metrics, directions, versions = texts
    at = np.frombuffer(pairs, dtype=np.int64)
    d, v = np.frombuffer(direction, dtype=np.int32), np.frombuffer(version, dtype=np.int32)
    return tuple(
        ScoredMetric(panels[p // len(metrics)], metrics[p % len(metrics)], directions[i], versions[j])
        for p, i, j in zip(at, d, v, strict=True)
    )


@lru_cache(maxsize=64)
def _sorted(names: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    """Return (names sorted, their places before)."""
    order = sorted(range(len(names)), key=names.__getitem__)
    return tuple(names[i] for i in order), order


def _coded(column: Any, at: Any) -> tuple[IntArray, list[str]]:
    """Return (code of each row, the texts that the codes stand for) of some rows of a column of dictionaries."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return np.asarray(array.indices, dtype=np.int32)[at], array.dictionary.to_pylist()


def pooled(parts: Iterable[ConditionMatrix], keys: Sequence[str]) -> ConditionMatrix:
    """Return the sum of matrices over the given conditions, with the metrics of all in order of appearance.

    Parameters
    ----------
    parts
        Matrices of runs, oldest first.
    keys
        Sorted keys, of which those of every part are some.
    """
    some = iter(parts)
    ahead = list(islice(some, 2))
    if len(ahead) == 1 and ahead[0].keys == tuple(keys):
        return ahead[0]
    places: dict[tuple[str, str], int] = {}
    infos: list[ScoredMetric] = []
    column = {k: i for i, k in enumerate(keys)}
    total = np.zeros((0, len(keys)))
    count = np.zeros((0, len(keys)), dtype=np.int32)
    scored = np.zeros((0, len(keys)), dtype=np.bool_)
    grain = np.zeros(0, dtype=np.int64)
    known: tuple[Any, ...] | None = None
    at: Any = ()
    rows: list[int] = []
    for part in chain(ahead, some):
        if known != (part.metrics, part.keys):
            for m in part.metrics:
                if (m.panel, m.metric) not in places:
                    places[m.panel, m.metric] = len(infos)
                    infos.append(m)
            more = (len(infos) - len(total), len(keys))
            total = np.vstack([total, np.zeros(more)])
            count = np.vstack([count, np.zeros(more, dtype=np.int32)])
            scored = np.vstack([scored, np.zeros(more, dtype=np.bool_)])
            grain = np.r_[grain, np.zeros(more[0], dtype=np.int64)]
            rows = [places[m.panel, m.metric] for m in part.metrics]
            at = np.ix_(rows, [column[k] for k in part.keys])
            known = (part.metrics, part.keys)
        total[at] += part.total
        count[at] += part.count
        scored[at] |= part.scored
        grain[rows] = np.maximum(grain[rows], part.grain)
    return ConditionMatrix(tuple(infos), tuple(keys), total, count, scored, grain)


class MatrixCache:
    """Matrices that are asked for several times, as many as fit into a limit.

    Parameters
    ----------
    load
        (name) -> matrix.
    limit
        Bytes that are kept at most.
    """

    def __init__(self, load: Callable[[str], ConditionMatrix], limit: int = 1 << 28) -> None:
        self._load, self._limit = load, limit
        self._kept: dict[str, ConditionMatrix] = {}
        self._size = 0

    def put(self, name: str, matrix: ConditionMatrix) -> None:
        """Keep a matrix if there is room."""
        if name not in self._kept and self._size + matrix.nbytes <= self._limit:
            self._kept[name] = matrix
            self._size += matrix.nbytes

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self._size = 0

    def get(self, name: str) -> ConditionMatrix:
        """Return a matrix, kept or loaded."""
        found = self._kept.get(name)
        if found is None:
            found = self._load(name)
            self.put(name, found)
        return found
