"""Comparison of learned entries with the baseline chosen on inner folds, corrected for multiple testing.

The best baseline *on test* is selected by its test score, which is therefore biased upwards. Here the reference of each
split is the baseline with the highest score on that split's inner folds: the baseline that a user would have chosen.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import ConfigError
from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap
from perturbfm_core.leaderboard.condition_table import units_of_key
from perturbfm_core.leaderboard.database import query
from perturbfm_core.leaderboard.declared_metrics import registered
from perturbfm_core.leaderboard.headline import HEADLINE_PANEL
from perturbfm_core.leaderboard.multiple_testing import LEVEL, holm
from perturbfm_core.leaderboard.reasons import of_folds
from perturbfm_core.leaderboard.run_marks import counted_runs, without_signal
from perturbfm_core.leaderboard.run_rows import INNER_METRICS
from perturbfm_core.schema import FloatArray
from perturbfm_core.store.artifacts import ArtifactStore

DRAWS = 10_000
COLUMNS = (
    "board",
    "entry",
    "reference",
    "folds",
    "value",
    "reference_value",
    "diff",
    "diff_low",
    "diff_high",
    "p_worse",
    "p_worse_holm",
    "p_better",
    "p_better_holm",
    "verdict",
    "n_conditions",
    "n_undefined",
    "n_units",
    "no_signal",
)


def against_baseline(
    store: ArtifactStore, metric: str = "pearson_centered", family: str | None = None
) -> pd.DataFrame:
    """Return `compare_entries` on the published leaderboard, for a metric of panel ``delta``.

    Parameters
    ----------
    store
        The store of the leaderboard.
    metric
        Metric of panel ``delta`` that runs also record on inner folds (`INNER_METRICS`).
    family
        Compare the entries of this family; all that are no baselines by default.

    Raises
    ------
    ConfigError
        If runs do not record that metric on inner folds.
    StoreError
        If there is no leaderboard.
    """
    if metric not in INNER_METRICS:
        msg = f"runs keep no {metric!r} of their inner folds, which choose the baseline; they keep: {', '.join(INNER_METRICS)}"
        raise ConfigError(msg)
    runs = query(
        store,
        f"SELECT run_id, split_hash, entry, family, seed, inner_{metric} FROM runs WHERE counted "
        "ORDER BY created, run_id",
    )
    # As the board has it: runs know of a signal where nothing is stored beside the split.
    splits = query(
        store,
        "SELECT s.split_hash, s.board, s.unit, s.cv_k, any_value(r.no_signal) AS no_signal FROM splits AS s "
        "JOIN runs AS r ON r.split_hash = s.split_hash GROUP BY ALL",
    )
    scores = query(
        store,
        "SELECT run_id, key, value, metric_version FROM scores WHERE scope = 'condition' AND panel = 'delta' "
        f"AND metric = '{metric}'",
    )
    return compare_entries(runs, splits, scores, metric, family)


def compare_entries(
    runs: pd.DataFrame,
    splits: pd.DataFrame,
    scores: pd.DataFrame,
    metric: str = "pearson_centered",
    family: str | None = None,
) -> pd.DataFrame:
    """Return the table of `COLUMNS`, one row per board and entry; ``reference`` names those of the entry's own splits.

    The difference of a condition is that of its two values, each averaged over seeds and folds; folds without signal
    are left out as on the leaderboard. p-values are one-sided, from a bootstrap over the split's units, and corrected
    over all rows by the method of Holm (1979). With fewer than five units there is no p-value and the verdict is
    ``too few units``; on a board without signal it is ``no signal``, and of an entry that another version of the metric
    scored than the board's (see `ScoreGrid.other_version`) ``other version``.

    Parameters
    ----------
    runs
        Runs that count on their boards: ``run_id, split_hash, entry, family, seed, inner_<metric>``.
    splits
        ``split_hash, board, unit, no_signal``, and of folds ``cv_k``, their number.
    scores
        Values of the metric by condition: ``run_id, key, value``, and where it is known ``metric_version``.
    metric
        The metric, which names the column ``inner_<metric>`` of `runs`.
    family
        Compare the entries of this family; all that are no baselines by default.
    """
    table = runs.merge(
        splits.reindex(columns=["split_hash", "board", "unit", "cv_k", "no_signal"]),
        on="split_hash",
        how="inner",
    )
    values = scores.reindex(columns=["run_id", "key", "value", "metric_version"]).merge(table, on="run_id")
    rows: list[dict[str, Any]] = []
    for board, members in table.groupby("board", sort=True):
        own = values[values["board"] == board]
        older = _of_other_version(members, own, metric)
        rows += _board(str(board), members, own, f"inner_{metric}", family, older)
    out = pd.DataFrame(rows, columns=list(COLUMNS))
    for side in ("worse", "better"):
        out[f"p_{side}_holm"] = holm(out[f"p_{side}"].to_numpy(dtype=np.float64))
    known = out["p_worse"].notna()
    worse = known & (out["p_worse_holm"] < LEVEL)
    better = known & (out["p_better_holm"] < LEVEL)
    out["verdict"] = np.select(
        [out["no_signal"].astype(bool), out["reference"].isna(), ~known, worse, better],
        ["no signal", "other version", "too few units", "worse", "better"],
        "not told apart",
    )
    return out


def _of_other_version(members: pd.DataFrame, values: pd.DataFrame, metric: str) -> set[str]:
    """Return the entries of a board that another version of the metric scored, by the rule of `ScoreGrid.other_version`.

    Parameters
    ----------
    members, values
        The runs of the board, oldest first, and their values.
    metric
        The metric.
    """
    version = values.dropna(subset="metric_version").groupby("run_id")["metric_version"].first()
    found = members["run_id"].map(version).dropna()
    known = registered(HEADLINE_PANEL, metric)
    if found.empty:
        return set()
    wanted = known.version if known is not None and (found == known.version).any() else found.iloc[-1]
    return set(members.loc[found.index[found != wanted], "entry"])


def _board(
    board: str,
    members: pd.DataFrame,
    values: pd.DataFrame,
    inner: str,
    family: str | None,
    older: Collection[str],
) -> list[dict[str, Any]]:
    """Return the rows of a board.

    Parameters
    ----------
    board, members, values
        The board, its runs and their values.
    inner, family
        Column of the scores on inner folds; the family of the entries, all that are no baselines for None.
    older
        Entries that another version of the metric scored.
    """
    counted, silent = counted_runs(members), bool(without_signal(members).all())
    values = values[values["split_hash"].isin(counted["split_hash"])]
    chosen = _chosen(counted[~counted["entry"].isin(older)], inner)
    if not chosen:
        return []
    mean = values.groupby(["split_hash", "entry", "key"])["value"].mean()
    reference = pd.concat([mean.loc[s, b] for s, b in chosen.items()], keys=list(chosen))
    unit = str(members["unit"].iloc[0])
    total = 1 if members["cv_k"].isna().all() else int(members["cv_k"].max())
    rows = []
    wanted = members["family"] != "baseline" if family is None else members["family"] == family
    # An entry may have run on folds without signal alone.
    scored = set(mean.index.get_level_values("entry"))
    for entry in sorted(members.loc[wanted, "entry"].unique()):
        if entry not in scored:
            continue
        # Only splits that the entry has run on; undefined values are left out on both sides, and counted.
        own = mean.xs(entry, level="entry")
        paired = pd.concat([own, reference], axis=1, keys=["own", "reference"], join="inner")
        both = paired.dropna().groupby(level="key").mean()
        mine = set(paired.index.get_level_values(0))
        row = {
            "board": board,
            "entry": entry,
            "folds": of_folds(len(mine), total) if total > 1 else "one split",
            "no_signal": silent,
        }
        if entry in older:
            rows.append({**row, "n_conditions": 0, "n_units": 0, "n_undefined": 0})
            continue
        rows.append(
            {
                **row,
                "reference": ", ".join(sorted({chosen[s] for s in mine})),
                **_difference(both, unit, silent),
                "n_conditions": len(both),
                "n_undefined": paired.index.get_level_values("key").nunique() - len(both),
            }
        )
    return rows


def _difference(both: pd.DataFrame, unit: str, silent: bool) -> dict[str, Any]:
    """Return the means of an entry and of its reference, and their difference with interval, p-values and units.

    Parameters
    ----------
    both
        Values ``own`` and ``reference`` of the conditions that have both; index = condition key.
    unit
        What the bootstrap draws.
    silent
        Whether the data have no signal.
    """
    diff = (both["own"] - both["reference"]).to_numpy(dtype=np.float64)
    bootstrap = ClusteredBootstrap([units_of_key(str(k), unit) for k in both.index], draws=DRAWS)
    drawn = bootstrap.means(diff[:, None])
    (interval,) = bootstrap.intervals(diff[:, None])
    return {
        "value": float(both["own"].mean()),
        "reference_value": float(both["reference"].mean()),
        "diff": float(diff.mean()) if len(diff) else float("nan"),
        "diff_low": interval.low,
        "diff_high": interval.high,
        # Where the data have no signal there is nothing to tell apart, and no test is counted.
        **_p_values(None if silent else drawn),
        "n_units": bootstrap.n_units,
    }


def _chosen(members: pd.DataFrame, inner: str) -> dict[str, str]:
    """Return {split: baseline with the highest score on its inner folds}, without splits that have no such scores."""
    baselines = members[(members["family"] == "baseline") & members[inner].notna()]
    means = baselines.groupby(["split_hash", "entry"])[inner].mean()
    return {str(s): str(part.idxmax()[1]) for s, part in means.groupby(level="split_hash")}


def _p_values(drawn: FloatArray | None) -> dict[str, float]:
    if drawn is None:
        return {"p_worse": float("nan"), "p_better": float("nan")}
    # One is added to both counts: the observed sample counts as one of the draws, so that p is never 0.
    finite = drawn[np.isfinite(drawn)]
    n = len(finite) + 1
    return {
        "p_worse": float((1 + (finite >= 0).sum()) / n),
        "p_better": float((1 + (finite <= 0).sum()) / n),
    }
