"""Standings: mean and confidence interval of every entry, by metric and board.

A board is a split or a cross-validation. Conditions of all its folds are pooled; a condition that is tested in two
folds, or by several seeds, counts once with its mean. Folds without signal in the data are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.condition import parse_key, pert_genes
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap, Interval
from perturbfm_core.leaderboard.collect import Runs
from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.schema import CONTEXT_ID, PERT_ID, FloatArray, IntArray

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
}


def standings(runs: Runs, splits: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `STANDING_COLUMNS`.

    Parameters
    ----------
    runs
        All runs; of each split and entry, the current runs of the newest configuration count.
    splits
        One row per split: ``split_hash, board, cv_k, unit, ceiling, floor`` (the last two as dicts or None).
    """
    current = runs.table[runs.table["is_current"]]
    if current.empty:
        return pd.DataFrame(columns=list(STANDING_COLUMNS))
    newest = current.groupby(["split_hash", "entry"])["entry_hash"].transform("last")
    current = current[current["entry_hash"] == newest]
    # A run whose split file is missing cannot be verified: it stays in the table of runs but is not ranked.
    current = current.merge(splits, on="split_hash", how="inner", suffixes=("", "_split"))
    scores = runs.scores[
        (runs.scores["scope"] == "condition") & runs.scores["run_id"].isin(current["run_id"])
    ]
    scores = scores.drop(columns=["dataset", "split_hash", "split_kind", "entry", "config_hash", "seed"])
    scores = scores.merge(
        current[["run_id", "board", "entry", "split_hash", "no_signal"]],
        on="run_id",
        how="left",
        validate="m:1",
    )
    rows: list[dict[str, Any]] = []
    for board, members in current.groupby("board", sort=True):
        rows += _board(str(board), members, scores[scores["board"] == board])
    return pd.DataFrame(rows, columns=list(STANDING_COLUMNS))


def _board(board: str, members: pd.DataFrame, scores: pd.DataFrame) -> list[dict[str, Any]]:
    silent = without_signal(members)
    no_signal = bool(silent.all())
    counted = counted_runs(members)
    scores = scores[scores["split_hash"].isin(counted["split_hash"])]
    if scores.empty:
        return []
    table = ConditionTable(scores)
    bootstrap = ClusteredBootstrap([units_of_key(key, str(members["unit"].iloc[0])) for key in table.keys])
    k = members["cv_k"].dropna()
    n_splits = counted["split_hash"].nunique()
    shared: dict[str, Any] = {
        "board": board,
        "dataset": members["dataset"].iloc[0],
        "split_kind": members["split_kind"].iloc[0],
        "n_splits_expected": int(k.iloc[0]) if len(k) else 1,
        "n_splits_no_signal": int(members.loc[silent, "split_hash"].nunique()),
        "n_units": bootstrap.n_units,
        "no_signal": no_signal,
        "shared_control": bool(members["shared_control"].any()),
    }
    about: dict[str, dict[str, Any]] = {}
    for entry, own in counted.groupby("entry", sort=True):
        about[str(entry)] = {
            "n_splits": own["split_hash"].nunique(),
            "entry": str(entry),
            "model": own["model"].iloc[-1],
            "family": own["family"].iloc[-1],
            "n_seeds": own["seed"].nunique(),
        }
    splits = counted.drop_duplicates("split_hash")
    bounds = {c: list(splits[c]) if c in splits else [] for c in ("ceiling", "floor")}
    rows = []
    for (panel, name), info in table.metrics.items():
        first: dict[str, Any] = {**shared, "panel": panel, "metric": name, **info}
        # Ceilings and floors are known for panel `delta` only; other panels have metrics of the same names.
        first |= {
            "ceiling": _bound(bounds["ceiling"], name, "half", panel),
            "ceiling_noise_free": _bound(bounds["ceiling"], name, "noise_free", panel),
            "null_floor": _bound(bounds["floor"], "null", name, panel),
            "train_mean_floor": _bound(bounds["floor"], "train_mean", name, panel),
            "control_mean_floor": _bound(bounds["floor"], "control_mean", name, panel),
        }
        rows += _metric_rows(first, table, about, bootstrap, n_splits)
    return rows


def without_signal(table: pd.DataFrame) -> Any:
    """Return bool [rows], whether the data of each run's split are known to have no signal; False if unknown."""
    return table["no_signal"].astype("boolean").fillna(False).astype(bool)


def counted_runs(members: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of a board on splits with signal; all runs if no split has any."""
    silent = without_signal(members)
    return members if silent.all() else members[~silent]


class ConditionTable:
    """Condition values of a board as one array per metric, averaged over seeds and folds.

    Attributes
    ----------
    keys, entries
        Conditions and entries, sorted.
    metrics
        {(panel, metric): its direction and version}, in order of appearance.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        key_codes, keys = pd.factorize(scores["key"], sort=True)
        entry_codes, entries = pd.factorize(scores["entry"], sort=True)
        names = pd.MultiIndex.from_frame(scores[["panel", "metric"]])
        metric_codes, metrics = pd.factorize(names)
        self.keys, self.entries = [str(k) for k in keys], [str(e) for e in entries]
        first = scores[~pd.Series(metric_codes, index=scores.index).duplicated()]
        self.metrics = {
            (str(row.panel), str(row.metric)): {
                "direction": str(row.direction),
                "metric_version": str(row.metric_version),
            }
            for row in first.itertuples(index=False)
        }
        self._position = {(str(p), str(m)): i for i, (p, m) in enumerate(metrics)}
        shape = (len(metrics), len(keys), len(entries))
        flat = (metric_codes * shape[1] + key_codes) * shape[2] + entry_codes
        values = scores["value"].to_numpy(dtype=np.float64)
        good = np.isfinite(values)
        size = int(np.prod(shape))
        n = np.bincount(flat[good], minlength=size)
        total = np.bincount(flat[good], weights=values[good], minlength=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._values = np.where(n > 0, total / n, np.nan).reshape(shape)
        self._scored = (np.bincount(flat, minlength=size) > 0).reshape(shape)

    def values(self, panel: str, metric: str) -> FloatArray | None:
        """Return float64 [C, E], None if the metric was not scored."""
        at = self._position.get((panel, metric))
        return None if at is None else self._values[at]

    def n_scored(self, panel: str, metric: str) -> IntArray:
        """Return int64 [E], number of conditions that each entry was scored on, defined or not."""
        return np.asarray(self._scored[self._position[panel, metric]].sum(axis=0))


def _metric_rows(
    first: dict[str, Any],
    table: ConditionTable,
    about: dict[str, dict[str, Any]],
    bootstrap: ClusteredBootstrap,
    n_splits: int,
) -> list[dict[str, Any]]:
    panel, name = first["panel"], first["metric"]
    full = f"{panel}.{name}"
    metric = METRICS.get(full) if full in METRICS else None
    rankable = first["direction"] != "target" or (metric is not None and metric.target is not None)

    def badness(value: float) -> float:
        if metric is not None:
            return metric.badness(value)
        return -value if first["direction"] == "max" else value

    values = table.values(panel, name)
    if values is None:
        return []
    defined = np.isfinite(values)
    parts = ratio_parts(table, panel, metric)
    ones = defined.astype(np.float64)
    numerators, denominators = ([values], [ones]) if parts is None else parts
    means = bootstrap.ratio(numerators, denominators)
    intervals = bootstrap.ratio_intervals(numerators, denominators)
    scored = table.n_scored(panel, name)
    names = table.entries
    # A baseline that is defined on fewer conditions is not used as the reference.
    most = defined.sum(axis=0).max(initial=0)
    baselines = [
        e
        for e, entry in enumerate(names)
        if about[entry]["family"] == "baseline" and np.isfinite(means[e]) and defined[:, e].sum() == most
    ]
    best = min(baselines, key=lambda e: badness(float(means[e]))) if baselines and rankable else None
    gaps, gap_intervals = np.full(len(names), np.nan), [Interval(None, None)] * len(names)
    if best is not None:
        # Paired differences, over the conditions where both entries are defined.
        upper = [n - n[:, [best]] for n in numerators]
        lower = [np.where(np.isfinite(u), d, np.nan) for u, d in zip(upper, denominators, strict=True)]
        gaps = bootstrap.ratio(upper, lower)
        gap_intervals = bootstrap.ratio_intervals(upper, lower)
    out = []
    for e, entry in enumerate(names):
        value = _or_none(means[e])
        out.append(
            {
                **first,
                **about[entry],
                # Only entries on the same folds are comparable, and nothing is ranked on noise.
                "ranked": value is not None
                and rankable
                and not first["no_signal"]
                and about[entry]["n_splits"] == n_splits,
                "value": value,
                "ci_low": intervals[e].low,
                "ci_high": intervals[e].high,
                "n_conditions": int(scored[e]),
                "n_undefined": int(scored[e] - defined[:, e].sum()),
                "best_baseline": names[best] if best is not None else None,
                "diff": _or_none(gaps[e]),
                "diff_low": gap_intervals[e].low,
                "diff_high": gap_intervals[e].high,
                "badness": None if value is None or not rankable else badness(value),
            }
        )
    return out


def ratio_parts(
    table: ConditionTable, panel: str, metric: Metric | None
) -> tuple[list[FloatArray], list[FloatArray]] | None:
    """Return numerators and denominators [C, E] of a ratio of means, None for a plain mean.

    Parameters
    ----------
    table
        Values by condition and entry.
    panel, metric
        Name of the panel; the metric, None if it is not registered.
    """
    if metric is None or not metric.ratio_of:
        return None
    pairs = [(table.values(panel, above), table.values(panel, below)) for above, below in metric.ratio_of]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(whole) < len(pairs):
        return None
    return [a for a, _ in whole], [b for _, b in whole]


def units_of_key(key: str, unit: str) -> tuple[str, ...]:
    """Return the bootstrap units of a condition: its context if `unit` is ``context``, otherwise its genes."""
    fields = parse_key(key)
    return (fields[CONTEXT_ID],) if unit == "context" else tuple(pert_genes(fields[PERT_ID]))


def _bound(bounds: list[Any], first: str, second: str, panel: str) -> float | None:
    """Return the mean over a board's splits of one ceiling or floor value, None where any is unknown."""
    values = []
    for bound in bounds if panel == "delta" else []:
        inner = bound.get(first) if isinstance(bound, dict) else None
        value = inner.get(second) if isinstance(inner, dict) else None
        if not isinstance(value, int | float):
            return None
        values.append(float(value))
    return float(np.mean(values)) if values else None


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
