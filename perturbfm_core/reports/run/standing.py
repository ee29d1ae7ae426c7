"""The headline of a run beside the train mean and the best baseline that was run on the same split."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.errors import StoreError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import Metric
from perturbfm_core.evaluation.metric_values import run_metric
from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap, Interval
from perturbfm_core.leaderboard.grain import BY_CONTEXT, CONTEXT, grain_of
from perturbfm_core.reports.run.scores import ReportScores
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.split import Split
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_index import runs_of_split
from perturbfm_core.store.run_record import RunRecord, read_run_record
from perturbfm_core.store.run_requests import request_order, request_times

TRAIN_MEAN = "train mean"
_NONE = Interval(None, None)


@dataclass(frozen=True)
class Rival:
    """Another prediction of the same conditions.

    Attributes
    ----------
    name
        Its name.
    value, interval
        Its headline, and 95 % interval.
    gain, gain_interval
        By how much the run is better, paired by condition, and its 95 % interval; None where it is undefined.
    by_definition
        Whether its value is none of a computation: centred on the train mean, the train mean itself counts as 0.
    """

    name: str
    value: float | None
    interval: Interval
    gain: float | None
    gain_interval: Interval
    by_definition: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes
    ----------
    interval
        95 % interval of its headline, over resampled units.
    n_units, unit
        Number of units with a value, and what one is.
    train_mean, baseline
        What it is compared with; None without one.
    n_baselines
        Number of baselines with a value that were run on the split, other than itself.
    """

    interval: Interval
    n_units: int
    unit: str
    train_mean: Rival | None = None
    baseline: Rival | None = None
    n_baselines: int = 0


@dataclass(frozen=True)
class Baseline:
    """A baseline's values of one metric by condition, and over all of them."""

    name: str
    value: float
    by_condition: pd.Series


def standing_of(
    scores: ReportScores, comparison: Comparison, split: Split, baselines: Sequence[Baseline]
) -> Standing:
    """Return where a run stands.

    Parameters
    ----------
    scores, comparison
        Its scores, and the aligned prediction behind them.
    split
        The split.
    baselines
        What was run on the same split.
    """
    metric = scores.metric
    keys = [str(k) for k in comparison.conditions.index]
    unit: str = split.unit
    bootstrap = ClusteredBootstrap(_units(comparison, unit))
    if metric is None or metric.aggregate != "mean" or metric.direction == "target":
        # Their values are no means over conditions, so that conditions say nothing about their spread.
        return Standing(_NONE, bootstrap.n_units, unit, n_baselines=len(baselines))
    own = scores.by_condition["value"].reindex(keys).to_numpy(dtype=np.float64)
    if unit != CONTEXT and grain_of(own[None], keys)[0] == BY_CONTEXT:
        unit = CONTEXT
        bootstrap = ClusteredBootstrap(_units(comparison, unit))
    best = min(baselines, key=lambda b: metric.badness(b.value), default=None)
    columns, names = [own], []
    mean, by_definition = _train_mean(comparison, metric)
    others: list[tuple[str, FloatArray | None]] = [(TRAIN_MEAN, mean)]
    if best is not None:
        others.append((best.name, best.by_condition.reindex(keys).to_numpy(dtype=np.float64)))
    for name, values in others:
        if values is not None:
            names.append(name)
            columns += [values, values - own if metric.direction == "min" else own - values]
    drawn = np.column_stack(columns)
    intervals = bootstrap.intervals(drawn)
    means = [float(c[np.isfinite(c)].mean()) if np.isfinite(c).any() else None for c in columns]
    rivals = {
        name: Rival(
            name,
            means[at],
            intervals[at],
            means[at + 1],
            intervals[at + 1],
            by_definition and name == TRAIN_MEAN,
        )
        for at, name in zip(range(1, len(columns), 2), names, strict=True)
    }
    return Standing(
        intervals[0],
        int(bootstrap.count_units(np.isfinite(own)[None])[0]),
        unit,
        rivals.get(TRAIN_MEAN),
        None if best is None else rivals.get(best.name),
        len(baselines),
    )


def _units(comparison: Comparison, unit: str) -> list[tuple[str, ...]]:
    """Return the bootstrap units of each condition, as the leaderboard has them."""
    if unit == CONTEXT:
        return [(str(c),) for c in comparison.contexts]
    return [tuple(pert_genes(str(p))) for p in comparison.perturbations]


def _train_mean(comparison: Comparison, metric: Metric) -> tuple[FloatArray | None, bool]:
    """Return the metric of the train mean by condition, None where it needs more than a mean; and if by definition."""
    if metric.needs != "conditions":
        return None, False
    if "centered" in metric.name and metric.direction == "max":
        # Centred on itself it has no direction, which is worth as much as a random one.
        return np.zeros(len(comparison)), True
    mean = np.broadcast_to(comparison.train_mean, comparison.observed.shape)
    return run_metric(metric, replace(comparison, predicted=mean, shared={}), "condition").values, False


def baselines_of(
    store: ArtifactStore, record: RunRecord, panel: str, metric: str, version: str | None = None
) -> list[Baseline]:
    """Return every other baseline on the same split and data, as it was asked for last, its seeds averaged.

    Those that are undefined in more conditions than another one are left out, as they are on the leaderboard.

    Parameters
    ----------
    store
        The store of the runs.
    record
        Record of the run that they are compared with.
    panel, metric
        The metric.
    version
        The version of the metric that scored the run; what another one scored is left out. Any if None.
    """
    runs = []
    for path in runs_of_split(store, record.split_hash):
        with contextlib.suppress(StoreError):
            r = read_run_record(path)
            same = (r.split_hash, r.data_hash) == (record.split_hash, record.data_hash)
            if same and r.family == "baseline" and r.entry != record.entry:
                runs.append((path, r))
    times = request_times(store)
    runs.sort(key=lambda run: request_order(run[1].run_id, run[1].created, times), reverse=True)
    last: dict[str, tuple[str, dict[str, list[Path]]]] = {}
    for path, r in runs:
        configuration, seeds = last.setdefault(r.entry, (r.entry_hash, {}))
        if r.entry_hash == configuration:
            seeds.setdefault(r.config_hash, _places(store, path, r, panel))
    out = []
    for entry, (_, seeds) in last.items():
        parts = [
            p for p in (_values(files, panel, metric, version) for files in seeds.values()) if p is not None
        ]
        if parts:
            values = pd.concat(parts, axis=1).mean(axis=1)
            out.append(Baseline(entry, float(values.mean()), values))
    # Some conditions have no value for anybody, as their own truth allows none.
    most = max((b.by_condition.notna().sum() for b in out), default=0)
    return [b for b in out if most and b.by_condition.notna().sum() == most]


def _places(store: ArtifactStore, path: Path, record: RunRecord, panel: str) -> list[Path]:
    """Return where the scores of a run's panel lie: alone among the stored objects, and with all others in the run."""
    key = None if record.objects is None else record.objects.panels.get(panel)
    alone = [] if key is None else [store.object(key) / schema.SCORES_FILE]
    return [*(p for p in alone if p.is_file()), path / schema.SCORES_FILE]


def _values(files: Sequence[Path], panel: str, metric: str, version: str | None) -> pd.Series | None:
    """Return the values of one metric by condition from the first file that has them, None if none can be read.

    Parameters
    ----------
    files
        Where they may be.
    panel, metric, version
        See `baselines_of`.
    """
    found = (_read(file, panel, metric, version) for file in files)
    return next((s for s in found if s is not None), None)


def _read(file: Path, panel: str, metric: str, version: str | None) -> pd.Series | None:
    wanted = {"panel": panel, "metric": metric, "scope": "condition"}
    if version is not None:
        wanted["metric_version"] = version
    columns = [*wanted, "key"]
    try:
        with pq.ParquetFile(file, read_dictionary=columns) as opened:
            table = opened.read([*columns, "value"], use_threads=False).combine_chunks()
        rows = np.ones(len(table), dtype=np.bool_)
        for column, value in wanted.items():
            # Codes are compared in place of texts: the table holds every metric of the run.
            names = _dictionary(table, column)
            code = names.dictionary.to_pylist().index(value)
            rows &= names.indices.to_numpy(zero_copy_only=False) == code
        keys = _dictionary(table, "key").filter(pa.array(rows)).to_pylist()
        found = table["value"].to_numpy()[rows].astype(np.float64)
    except (OSError, ValueError, KeyError, ArrowException):
        return None
    series = pd.Series(found, index=keys)
    return None if series.empty else series[~series.index.duplicated()]


def _dictionary(table: pa.Table, column: str) -> pa.DictionaryArray:
    return table[column].unify_dictionaries().combine_chunks()
