"""Flags of genes that a prediction raises whatever the condition: unexpressed ones, and the targets of other conditions."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Unexpressed: at most so many counts per million in the controls, or in the lowest tenth of all genes if these have less
# than a part of what the median gene has.
_LOW_CPM, _LOW_SHARE, _LOW_PART = 5.0, 0.1, 0.2
# Raised: nearly all of them are beyond so many times the highest of them, which is so of no measured condition.
_RAISED, _NEARLY_ALL = 2.0, 0.9
# Fewer genes than this say nothing.
_FEWEST = 5
# Targets of others are spiked where they are further from the other genes than so many times what is measured, and this.
_BEYOND, _SMALLEST = 3.0, 0.25


def warnings_of_genes(
    ds: PerturbDataset, side: ObservedSide, delta: FloatArray, present: IntArray
) -> list[str]:
    """Return which predictions raise unexpressed genes or the genes that other conditions perturb, as sentences.

    Parameters
    ----------
    ds
        The data set.
    side
        The observed side of the split.
    delta
        Predicted deltas of the test conditions [C, G].
    present
        Positions of the conditions that the prediction has.
    """
    out, n = [], len(present)
    raised = _low_raised(ds, side, delta, present)[present]
    if raised.any():
        out.append(
            f"{int(raised.sum())} of {n} predictions raise nearly every gene that control cells hardly express, as no "
            "measured condition does"
        )
    spiked = _targets_moved(ds, side, delta, present)[present]
    if spiked.any():
        out.append(
            f"{int(spiked.sum())} of {n} predictions move the genes that other conditions perturb together, further than "
            "any measured condition"
        )
    return out


def _low_raised(ds: PerturbDataset, side: ObservedSide, delta: FloatArray, present: IntArray) -> BoolArray:
    """Return bool [C], whether nearly all unexpressed genes are predicted to be expressed and measured not to be.

    Parameters are those of `warnings_of_genes`.
    """
    control, reference = side.input_control, side.control
    out = np.zeros(len(delta), dtype=np.bool_)
    if control is None or reference is None or ds.metadata.space not in ("counts", "log1p"):
        return out
    scaled = ds.metadata.normalization
    gate = _LOW_CPM / 1e6 * (1e4 if scaled is None else scaled.target_sum)
    for i in present:
        level = np.expm1(control[i])
        lowest, median = np.quantile(level, (_LOW_SHARE, 0.5))
        bound = max(gate, float(lowest)) if lowest < _LOW_PART * median else gate
        low = level <= bound
        if low.sum() >= _FEWEST:
            limit = np.log1p(_RAISED * bound)
            predicted, measured = (
                float(((base[i] + change[i])[low] > limit).mean())
                for base, change in ((control, delta), (reference, side.observed))
            )
            out[i] = predicted >= _NEARLY_ALL > measured
    return out


def _targets_moved(ds: PerturbDataset, side: ObservedSide, delta: FloatArray, present: IntArray) -> BoolArray:
    """Return bool [C], whether the genes that other conditions perturb are predicted to move away from all others.

    Parameters are those of `warnings_of_genes`.
    """
    position = {str(g): j for j, g in enumerate(ds.genes)}
    own = [
        [position[g] for g in pert_genes(str(p)) if g in position]
        for p in side.conditions[schema.PERT_ID].astype(str)
    ]
    target = np.zeros(ds.n_genes, dtype=np.bool_)
    target[[j for genes in own for j in genes]] = True
    gap = np.full((2, len(delta)), np.nan)
    for i in present:
        others = target.copy()
        others[own[i]] = False
        rest = ~target
        if others.sum() >= _FEWEST <= rest.sum():
            gap[:, i] = [
                float(np.median(change[i][others]) - np.median(change[i][rest]))
                for change in (delta, side.observed)
            ]
    usual = float(np.abs(gap[1][np.isfinite(gap[1])]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(gap[0]) > _BEYOND * usual + _SMALLEST)
