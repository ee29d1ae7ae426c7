"""Flags of predictions that predict nothing, or that are laid out to please a metric."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import PredictedCells
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.evaluation.prediction_flags_cells import warnings_of_cells
from perturbfm_core.evaluation.prediction_flags_genes import warnings_of_genes
from perturbfm_core.evaluation.prediction_flags_truth import warnings_of_truth
from perturbfm_core.external.detectors import same_predictions
from perturbfm_core.schema import FloatArray, IntArray

# Differences below this share of the scale of expression are rounding in single precision.
_ROUNDING = 1e-5


def warnings_of(
    ds: PerturbDataset,
    side: ObservedSide,
    delta: FloatArray,
    present: IntArray,
    cells: PredictedCells | None = None,
) -> list[str]:
    """Return what is degenerate of a prediction, or unlike anything measured, as sentences.

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
    cells
        Its cells, if it has some.
    """
    D = delta[present]
    control = side.input_control
    scale = 1.0 if control is None else max(float(np.abs(control).max(initial=0.0)), 1e-6)
    tolerance = _ROUNDING * scale
    copied = np.abs(D).max(axis=1) <= tolerance
    if control is not None and side.control is not None:
        # The control of an expression file may be that of the other role, or all cells of the context.
        for other in (side.control, *_of_context(ds, side)):
            copied |= np.abs(D + (control - other)[present]).max(axis=1) <= tolerance
    out = []
    n = len(present)
    if copied.any():
        out.append(f"{int(copied.sum())} of {n} predictions are a copied control (their delta is 0)")
    flat = ~copied & (np.ptp(D, axis=1) <= tolerance)
    if D.shape[1] > 1 and flat.any():
        out.append(f"{int(flat.sum())} of {n} predictions are constant over genes")
    if n > 1 and not copied.all():
        names = side.conditions[schema.CONTEXT_ID].astype(str).to_numpy()[present]
        if np.ptp(D, axis=0).max() <= tolerance:
            out.append(f"all {n} conditions have the same prediction")
        else:
            same = [c for c in np.unique(names) if _same(D[names == c], tolerance)]
            if same:
                out.append(
                    f"all conditions of a context have the same prediction, in {len(same)} of {len(np.unique(names))} contexts "
                    f"({', '.join(same[:3])})"
                )
            else:
                forms = [D] if control is None else [D, D + control[present]]
                # A slice copies nothing.
                kept = ~copied if copied.any() else slice(None)
                twice = same_predictions([form[kept] for form in forms], side.conditions.iloc[present[kept]])
                out += [] if twice is None else [twice[0]]
    out += warnings_of_truth(ds, side, delta, present, tolerance)
    out += warnings_of_genes(ds, side, delta, present)
    return out if cells is None else out + warnings_of_cells(ds, side, cells)


def _same(D: FloatArray, tolerance: float) -> bool:
    return len(D) > 1 and float(np.ptp(D, axis=0).max()) <= tolerance


def _of_context(ds: PerturbDataset, side: ObservedSide) -> list[FloatArray]:
    """Return [the mean of all control cells of each condition's context], float64 [C, G]; none without controls."""
    if not ds.has_controls:
        return []
    pools = {role: ds.control_pools(role) for role in ("input", "reference")}
    groups = ds.controls
    of = {c: groups.n_groups + i for i, c in enumerate(groups.contexts)}
    at = np.asarray([of[str(c)] for c in side.conditions[schema.CONTEXT_ID]], dtype=np.int64)
    total = sum(p.mean[at] * p.weight[at][:, None] for p in pools.values())
    weight = sum(p.weight[at] for p in pools.values())
    return [np.asarray(total / np.asarray(weight)[:, None])]
