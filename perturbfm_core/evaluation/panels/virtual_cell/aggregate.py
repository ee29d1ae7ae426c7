"""Summaries of per-perturbation values by cell-eval: statistics, mean baseline, normalised scores and ceilings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from perturbfm_core.evaluation.panels.virtual_cell.profiles import FULL, NOT_SCORED, SCORED_BY_ZERO
from perturbfm_core.schema import FloatArray, IntArray, StrArray

STATISTICS = ("count", "null_count", "mean", "std", "min", "25%", "50%", "75%", "max")
# cell-eval leaves these out where a perturbation has no DE gene; any other undefined value makes a mean undefined.
NULL_WITHOUT_DE = ("de_direction_match", "de_spearman_lfc_sig", "de_sig_genes_recall")
SPEARMAN_BROWN = tuple(
    name for name in FULL if name not in (*NOT_SCORED, *SCORED_BY_ZERO, "pearson_edistance")
)


def describe(values: Mapping[str, FloatArray]) -> dict[str, dict[str, float]]:
    """Return {metric: {statistic: number}} of per-perturbation values [P], as cell-eval summarises them.

    Values of `NULL_WITHOUT_DE` are left out where a perturbation has no DE gene (this needs ``de_nsig_counts_real``
    among the values). Any other undefined value makes mean and standard deviation undefined, counts as the largest in
    quantiles, and is ignored by min and max. A metric without any value has no entry. Quantiles are the nearest values,
    halves rounded up.
    """
    without = values["de_nsig_counts_real"] == 0 if "de_nsig_counts_real" in values else None
    out = {}
    for name, column in values.items():
        kept = column[~without] if without is not None and name in NULL_WITHOUT_DE else column
        if len(kept):
            out[name] = _summary(kept, len(column) - len(kept))
    return out


def _summary(kept: FloatArray, nulls: int) -> dict[str, float]:
    ordered = np.sort(kept)
    defined = ordered[~np.isnan(ordered)]
    low, high = (defined[0], defined[-1]) if len(defined) else (np.nan, np.nan)
    spread = float(np.std(kept, ddof=1)) if len(kept) > 1 else np.nan
    quantiles = [float(ordered[int(np.floor((len(kept) - 1) * q + 0.5))]) for q in (0.25, 0.5, 0.75)]
    numbers = [len(kept), nulls, float(kept.mean()), spread, float(low), *quantiles, float(high)]
    return dict(zip(STATISTICS, numbers, strict=True))


def mean_vector(means: FloatArray) -> FloatArray:
    """Return [G], the mean baseline: the unweighted mean of all group means [P + 1, G], controls included."""
    return np.asarray(means.mean(axis=0))


def normalised_scores(entry: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Return {metric: score, "avg_score": their mean}: 0 for the baseline or worse, 1 for a perfect entry.

    Undefined scores count as 0, including those against a baseline that is perfect.

    Parameters
    ----------
    entry, baseline
        Mean of each metric over perturbations; counts of DE genes have no score.
    """
    out = {}
    for name in (*(m for m in entry if m in SCORED_BY_ZERO), *(m for m in entry if m not in SCORED_BY_ZERO)):
        if name in NOT_SCORED:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            u, b = np.float64(entry[name]), np.float64(baseline[name])
            # The share of the way from the baseline b to the best value, 0 for errors and otherwise 1.
            score = 1.0 - u / b if name in SCORED_BY_ZERO else (u - b) / (1.0 - b)
        out[name] = 0.0 if np.isnan(score) else max(0.0, float(score))
    out["avg_score"] = float(np.mean(list(out.values())))
    return out


def disjoint_halves(
    labels: StrArray, seed: int = 0, order: Sequence[str] | None = None
) -> tuple[IntArray, IntArray, StrArray]:
    """Return the rows of two disjoint halves of every group of cells, and the groups that have them.

    The last cell of an odd group and groups of one cell are left out.

    Parameters
    ----------
    labels
        Group of each cell.
    seed
        Of the draw.
    order
        The groups, the controls among them, as they are drawn one after the other; None: by name.
    """
    rng = np.random.default_rng(seed)
    first: list[IntArray] = []
    second: list[IntArray] = []
    kept = []
    for name in np.unique(labels).tolist() if order is None else order:
        drawn = rng.permutation(np.flatnonzero(labels == name))
        half = len(drawn) // 2
        if half:
            first.append(drawn[:half])
            second.append(drawn[half : 2 * half])
            kept.append(name)
    return np.concatenate(first), np.concatenate(second), np.unique(np.asarray(kept, dtype=np.str_))


def split_half_ceiling(halves: Mapping[str, FloatArray]) -> dict[str, float]:
    """Return {metric: ceiling} of values [P] that compare two disjoint halves of the observed cells.

    The metrics of `SPEARMAN_BROWN` get the Spearman-Brown correction 2 r / (1 + r) of their mean r, undefined for
    r <= 0; errors, counts and the correlation of E-distances have no ceiling.
    """
    out = {}
    for name, summary in describe(halves).items():
        r = summary["mean"]
        out[name] = 2.0 * r / (1.0 + r) if name in SPEARMAN_BROWN and r > 0 else np.nan
    return out
