"""Flags of predicted cells that are not like measured ones: without noise, with too much of it, of another depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import PredictedCells
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.evaluation.submitted_counts import fingerprints
from perturbfm_core.schema import FloatArray

# Conditions with fewer cells say nothing of their dispersion.
_FEWEST, _FEWEST_GENES = 4, 20
# A prediction consists of control cells if this share of its cells are measured ones.
_PASTED = 0.5
# Genes are left out where more than this share of the well expressed ones is absent.
_ABSENT = 0.1
# Below this share of the controls' dispersion cells are copies of one profile.
_NONE = 0.02
# How far outside of the range of measured conditions a prediction is before it is flagged.
_LESS, _MORE, _DEPTH = 3.0, 3.0, 2.0


@dataclass(frozen=True, eq=False)
class _Spread:
    """Dispersion and depth of a group of cells.

    Attributes
    ----------
    noise
        float64 [G], squared deviations of each gene from its expectation, as a share of what is expected of the gene.
    reach
        float64 [G], what one unit of dispersion adds to `noise`; 0 for log1p values.
    level
        float64 [G], mean of each gene.
    depth
        Median counts of a cell; NaN for log1p values.
    """

    noise: FloatArray
    reach: FloatArray
    level: FloatArray
    depth: float

    def over(self, control: _Spread) -> float:
        """Return the noise as a multiple of what the dispersion of the controls leads to expect at this depth.

        It is the median over the genes that the controls express most: one gene that takes most of a cell's counts
        does not decide, and genes of hardly any count, which are all but Poisson in any cells, do not either.
        """
        n = max(_FEWEST_GENES, len(self.level) // 10)
        genes = np.argsort(-control.level, kind="stable")[:n]
        noise, base, reach = self.noise[genes], control.noise[genes], control.reach[genes]
        expected = base
        if reach.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                expected = 1.0 + np.maximum(base - 1.0, 0.0) / reach * self.reach[genes]
        known = (self.level[genes] > 0) & np.isfinite(expected) & (expected > 0)
        return float(np.median(noise[known] / expected[known])) if known.any() else np.nan


def _of_counts(counts: Any) -> _Spread:
    """Return the spread of counts around each cell's depth times the mean share of each gene."""
    y = sp.csr_array(counts).astype(np.float64)
    depth = np.asarray(y.sum(axis=1)).reshape(-1)
    summed, n = np.asarray(y.sum(axis=0)).reshape(-1), y.shape[0]
    total = max(float(summed.sum()), 1.0)
    share, scale = summed / total, float((depth**2).sum())
    squares = np.asarray(y.multiply(y).sum(axis=0)).reshape(-1)
    squares += share * (share * scale - 2.0 * np.asarray(depth @ y))
    noise = np.divide(squares, summed, out=np.zeros_like(summed), where=summed > 0) * n / (n - 1)
    return _Spread(noise, share * scale / total, summed / n, float(np.median(depth)))


def _of_log_values(X: Any) -> _Spread:
    """Return the variance of log1p expression."""
    y = sp.csr_array(X).astype(np.float64)
    n = y.shape[0]
    mean = np.asarray(y.sum(axis=0)).reshape(-1) / n
    squares = np.asarray(y.multiply(y).sum(axis=0)).reshape(-1)
    noise = np.maximum(squares - n * mean**2, 0.0) / (n - 1)
    return _Spread(noise, np.zeros_like(mean), mean, np.nan)


def warnings_of_cells(ds: PerturbDataset, side: ObservedSide, cells: PredictedCells) -> list[str]:
    """Return how predicted cells differ from any that are measured, as sentences.

    Noise is compared with that of the control cells of the context, and counted only where it is far outside of the range
    of the measured cells of the test conditions.

    Parameters
    ----------
    ds
        The data set.
    side
        The observed side of the split.
    cells
        The predicted cells.
    """
    counted = cells.counts is not None and ds.values.counts is not None
    spread = _of_counts if counted else _of_log_values
    measured: Any = ds.values.counts if counted else ds.expression
    predicted = cells.counts if counted else cells.X
    contexts = side.conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    of_rows = ds.obs[schema.CONTEXT_ID].astype(str).to_numpy()
    control = {}
    for context in np.unique(contexts):
        rows = np.flatnonzero(ds.is_control & (of_rows == context))
        if len(rows) >= _FEWEST:
            control[context] = spread(measured[rows])
    order = np.argsort(side.codes, kind="stable")
    ends = np.searchsorted(side.codes[order], np.arange(len(contexts) + 1))
    noise, depth = [], []
    for i, (key, context) in enumerate(zip(side.conditions.index, contexts, strict=True)):
        mine, truth = cells.rows.get(str(key)), side.rows[order[ends[i] : ends[i + 1]]]
        if context not in control or mine is None or min(len(mine), len(truth)) < _FEWEST:
            continue
        base, pair = control[context], (spread(predicted[mine]), spread(measured[truth]))
        noise.append([s.over(base) for s in pair])
        depth.append([s.depth / base.depth if base.depth else np.nan for s in pair])
    if not noise:
        return []
    n, ratios = len(cells.rows), np.asarray(noise)
    still = ratios[:, 0] < _NONE
    out = []
    if still.any():
        out.append(
            f"{int(still.sum())} of {n} predictions have cells without noise, copies of one profile; measured cells differ"
        )
    if silent := _silent(measured[np.flatnonzero(ds.is_control)], predicted):
        out.append(f"no predicted cell has any of {silent} genes that control cells express more than most")
    if counted and (pasted := _pasted(ds, cells)):
        out.append(f"{pasted} of {n} predictions consist of measured control cells")
    out += _outside(np.where(still[:, None], np.nan, ratios), n, "dispersion", (_LESS, _MORE))
    return out + (_outside(np.asarray(depth), n, "counts", (_DEPTH, _DEPTH)) if counted else [])


def _outside(ratios: FloatArray, n: int, what: str, factors: tuple[float, float]) -> list[str]:
    """Return which predictions are far below and far above the range of measured conditions, as sentences.

    Parameters
    ----------
    ratios
        A quantity of the predicted and of the measured cells of conditions over that of their controls [C, 2].
    n
        Number of predictions.
    what
        Name of the quantity.
    factors
        How far below and above is far.
    """
    known = ratios[:, 1][np.isfinite(ratios[:, 1])]
    # The controls themselves are within the range.
    low, high = float(known.min(initial=1.0)), float(known.max(initial=1.0))
    predicted = ratios[:, 0]
    return [
        f"{int(odd.sum())} of {n} predictions have cells with {np.median(predicted[odd]):.2g} times the {what} of control "
        f"cells, where measured conditions have {low:.2g} to {high:.2g} times"
        for odd in (predicted < low / factors[0], predicted > high * factors[1])
        if odd.any()
    ]


def _pasted(ds: PerturbDataset, cells: PredictedCells) -> int:
    """Return the number of conditions most of whose predicted cells are measured control cells."""
    measured: Any = ds.values.counts
    weights = np.random.default_rng(0).integers(1, 2**40, size=ds.n_genes, dtype=np.int64)
    known = np.unique(fingerprints(measured[ds.is_control], weights))
    found = np.isin(fingerprints(cells.counts, weights), known)
    return sum(bool(found[rows].mean() > _PASTED) for rows in cells.rows.values() if len(rows))


def _silent(control: Any, predicted: Any) -> int:
    """Return the number of genes in the upper half of the controls' that no predicted cell has; 0 if they are few."""
    level, found = (np.asarray(x.sum(axis=0, dtype=np.float64)).reshape(-1) for x in (control, predicted))
    upper = level > np.median(level)
    missing = int((upper & (found == 0)).sum())
    return missing if missing > _ABSENT * upper.sum() else 0
