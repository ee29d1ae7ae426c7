"""Standings: per split or cross-validation and metric, every entry's mean with its interval.

Conditions of all folds are pooled; a condition that is tested in two folds, or by several seeds, enters once
with its mean. Folds whose data carry no signal rank nothing and are left out of the pool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.condition import parse_key, pert_genes
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap, Interval
from perturbfm_core.leaderboard.collect import Runs
from perturbfm_core.schema import CONTEXT_ID, PERT_ID

STANDING_COLUMNS = (
    "board",
    "dataset",
    "split_kind",
    "n_splits",
    "n_splits_expected",
    "n_splits_no_signal",
    "ranked",
    "entry",
    "model",
    "family",
    "n_seeds",
    "panel",
    "metric",
    "metric_version",
    "direction",
    "value",
    "ci_low",
    "ci_high",
    "n_conditions",
    "n_undefined",
    "n_units",
    "best_baseline",
    "diff",
    "diff_low",
    "diff_high",
    "badness",
    "no_signal",
    "shared_control",
    "ceiling",
    "ceiling_noise_free",
    "null_floor",
    "train_mean_floor",
)


def standings(runs: Runs, splits: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `STANDING_COLUMNS`.

    Parameters
    ----------
    runs
        All runs; the current ones of each entry's newest configuration count.
    splits
        One row per split: ``split_hash, board, cv_k, unit, ceiling, floor`` (the last two as dicts or None).
    """
    current = runs.table[runs.table["is_current"]]
    if current.empty:
        return pd.DataFrame(columns=list(STANDING_COLUMNS))
    newest = current.groupby(["split_hash", "entry"])["entry_hash"].transform("last")
    current = current[current["entry_hash"] == newest]
    current = current.merge(splits, on="split_hash", how="left", suffixes=("", "_split"))
    current["board"] = current["board"].fillna(current["split_key"])
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
    signal = members[~members["no_signal"].fillna(False).astype(bool)]
    no_signal = signal.empty
    counted = members if no_signal else signal
    scores = scores[scores["split_hash"].isin(counted["split_hash"])]
    keys = sorted(scores["key"].unique())
    units = [_units(key, str(members["unit"].iloc[0])) for key in keys]
    bootstrap = ClusteredBootstrap(units)
    entries = {str(e): g for e, g in counted.groupby("entry", sort=True)}
    k = members["cv_k"].dropna()
    shared: dict[str, Any] = {
        "board": board,
        "dataset": members["dataset"].iloc[0],
        "split_kind": members["split_kind"].iloc[0],
        "n_splits_expected": int(k.iloc[0]) if len(k) else 1,
        "n_splits_no_signal": members.loc[
            members["no_signal"].fillna(False).astype(bool), "split_hash"
        ].nunique(),
        "n_units": bootstrap.n_units,
        "no_signal": no_signal,
        "shared_control": bool(members["shared_control"].any()),
    }
    rows = []
    for (panel, name), part in scores.groupby(["panel", "metric"], sort=False):
        table = part.pivot_table(index="key", columns="entry", values="value", aggfunc="mean", dropna=False)
        table = table.reindex(index=keys, columns=list(entries))
        rows += _metric_rows(shared, str(panel), str(name), part, table, entries, bootstrap, counted)
    return rows


def _metric_rows(
    shared: dict[str, Any],
    panel: str,
    name: str,
    part: pd.DataFrame,
    table: pd.DataFrame,
    entries: dict[str, pd.DataFrame],
    bootstrap: ClusteredBootstrap,
    members: pd.DataFrame,
) -> list[dict[str, Any]]:
    full = f"{panel}.{name}"
    metric = METRICS.get(full) if full in METRICS else None
    direction = str(part["direction"].iloc[0])

    def badness(value: float) -> float:
        if metric is not None:
            return metric.badness(value)
        return -value if direction == "max" else value

    values = table.to_numpy(dtype=np.float64)
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means = np.where(
            defined.any(axis=0), np.nansum(values, axis=0) / np.maximum(defined.sum(axis=0), 1), np.nan
        )
    asked = part.groupby("entry")["key"].nunique()
    intervals = bootstrap.intervals(values)
    names = list(entries)
    # A baseline that is defined on fewer conditions is no yardstick.
    most = defined.sum(axis=0).max(initial=0)
    baselines = [
        e
        for e, entry in enumerate(names)
        if (entries[entry]["family"] == "baseline").all()
        and np.isfinite(means[e])
        and defined[:, e].sum() == most
    ]
    best = min(baselines, key=lambda e: badness(float(means[e]))) if baselines else None
    gaps = values - values[:, [best]] if best is not None else np.full_like(values, np.nan)
    gap_intervals = bootstrap.intervals(gaps) if best is not None else [Interval(None, None)] * len(names)
    out = []
    for e, entry in enumerate(names):
        own = entries[entry]
        value = _or_none(means[e])
        gap = gaps[np.isfinite(gaps[:, e]), e]
        out.append(
            {
                **shared,
                "n_splits": own["split_hash"].nunique(),
                # Only entries on the same folds compare; nothing compares on noise.
                "ranked": value is not None
                and not shared["no_signal"]
                and own["split_hash"].nunique() == members["split_hash"].nunique(),
                "entry": entry,
                "model": own["model"].iloc[-1],
                "family": own["family"].iloc[-1],
                "n_seeds": own["seed"].nunique(),
                "panel": panel,
                "metric": name,
                "metric_version": str(part["metric_version"].iloc[0]),
                "direction": direction,
                "value": value,
                "ci_low": intervals[e].low,
                "ci_high": intervals[e].high,
                "n_conditions": int(asked.get(entry, 0)),
                "n_undefined": int(asked.get(entry, 0) - defined[:, e].sum()),
                "best_baseline": names[best] if best is not None else None,
                "diff": float(gap.mean()) if len(gap) else None,
                "diff_low": gap_intervals[e].low,
                "diff_high": gap_intervals[e].high,
                "badness": None if value is None else badness(value),
                "ceiling": _bound(members, "ceiling", name, "half"),
                "ceiling_noise_free": _bound(members, "ceiling", name, "noise_free"),
                "null_floor": _bound(members, "floor", "null", name),
                "train_mean_floor": _bound(members, "floor", "train_mean", name),
            }
        )
    return out


def _units(key: str, unit: str) -> tuple[str, ...]:
    fields = parse_key(key)
    return (fields[CONTEXT_ID],) if unit == "context" else tuple(pert_genes(fields[PERT_ID]))


def _bound(members: pd.DataFrame, column: str, first: str, second: str) -> float | None:
    """Return the mean over a board's splits of one ceiling or floor value, None where any is unknown."""
    values = []
    for bound in members.drop_duplicates("split_hash")[column]:
        inner = bound.get(first) if isinstance(bound, dict) else None
        value = inner.get(second) if isinstance(inner, dict) else None
        if not isinstance(value, int | float):
            return None
        values.append(float(value))
    return float(np.mean(values)) if values else None


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
