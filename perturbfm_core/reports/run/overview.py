"""Pictures of all conditions together: heatmap of perturbations and genes, principal components of the changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.reports.run.conditions import single, titles_of
from perturbfm_core.reports.run.values import compact
from perturbfm_core.schema import FloatArray, IntArray

HEAT_ROWS, HEAT_GENES = 50, 40
MOST_POINTS, MOST_GENES = 500, 2_000
_STEPS, _WIDTH = 6, 8


def heatmap(comparison: Comparison) -> dict[str, Any]:
    """Return observed and predicted changes of the conditions and genes of largest observed change, neighbours alike."""
    all_seen = single(comparison, "observed")
    rows = _largest(np.einsum("ij,ij->i", all_seen, all_seen), HEAT_ROWS)
    genes = _largest(np.square(comparison.observed[rows]).sum(axis=0), HEAT_GENES)
    seen, given = comparison.observed[np.ix_(rows, genes)], comparison.predicted[np.ix_(rows, genes)]
    # Ordered along the first principal axis, so that alike rows and columns lie together.
    left, _, right = np.linalg.svd(seen - seen.mean(axis=0), full_matrices=False)
    i, j = np.argsort(left[:, 0], kind="stable"), np.argsort(right[0], kind="stable")
    titles = titles_of(comparison)
    return {
        "rows": [titles[r] for r in rows[i]],
        "columns": [str(comparison.genes[g]) for g in genes[j]],
        "observed": compact(seen[np.ix_(i, j)], 3),
        "predicted": compact(given[np.ix_(i, j)], 3),
        "limit": float(f"{max(np.quantile(np.abs(seen), 0.99), 1e-9):.3g}"),
        "rule": f"The {len(rows)} of {len(comparison)} conditions and {len(genes)} of {len(comparison.genes)} genes of "
        "largest observed change, ordered so that alike ones are neighbours.",
    }


def _largest(size: FloatArray, most: int) -> IntArray:
    return np.asarray(np.sort(np.argsort(-size, kind="stable")[:most]))


def components(comparison: Comparison) -> dict[str, Any] | None:
    """Return the first two principal components of the observed changes, and where the predicted ones lie on them.

    None with fewer than three conditions or two genes, or where nothing differs.
    """
    n, genes = comparison.observed.shape
    if n < 3 or genes < 2:
        return None
    both = single(comparison, "observed"), single(comparison, "predicted")
    seen, predicted = both if genes <= MOST_GENES else _most_variable(*both)
    center = seen.mean(axis=0)
    seen = seen - center
    total = float(np.square(seen, dtype=np.float64).sum())
    if total <= 0:
        return None
    axes = _axes(seen)
    shown: IntArray = np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).round().astype(np.int64))
    at = seen @ axes
    given = (predicted[shown] - center) @ axes
    titles = titles_of(comparison)
    share = np.square(at, dtype=np.float64).sum(axis=0) / total
    parts = [f"{len(shown)} of {n} conditions"] if len(shown) < n else []
    parts += [f"the {MOST_GENES} of {genes} genes of largest variance"] if genes > MOST_GENES else []
    return {
        "titles": [titles[i] for i in shown],
        "observed": compact(at[shown].T),
        "predicted": compact(given.T),
        "share": [round(100 * float(s)) for s in share],
        "rule": f"Shown are {', on '.join(parts)}." if parts else "",
    }


def _most_variable(seen: FloatArray, given: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return both sides with the genes of largest observed variance alone."""
    kept = _largest(seen.var(axis=0), MOST_GENES)
    return seen[:, kept], given[:, kept]


def _axes(centred: FloatArray) -> FloatArray:
    """Return [G, 2], the first two right singular vectors, by subspace iteration from a fixed start."""
    genes = centred.shape[1]
    width = min(_WIDTH, *centred.shape)
    basis = np.random.default_rng(0).normal(size=(genes, width)).astype(np.float32)
    for _ in range(_STEPS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    turn = np.linalg.svd(centred @ basis, full_matrices=False)[2]
    axes = (basis @ turn.T)[:, :2]
    # The sign of an axis is free: its largest entry is positive.
    sign = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return np.asarray(axes * np.where(sign == 0, 1, sign))
