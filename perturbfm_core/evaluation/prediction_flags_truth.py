"""Flags of predictions that can only come from the test cells."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.audit.predictions import (
    closer_than_noise_free,
    enough_to_scale,
    scaled_to,
)

# Nearer than the noise allows: squared differences below this share of the sampling variance in the median gene, of so
# many genes at least, in more than this share of the conditions.
_NEAR, _FEWEST_GENES, _MANY = 0.1, 30, 0.1
# The mean of the test conditions of a context is known by chance where there are fewer.
_FEWEST_CONDITIONS = 3


def warnings_of_truth(
    ds: PerturbDataset, side: ObservedSide, delta: FloatArray, present: IntArray, tolerance: float
) -> list[str]:
    """Return whether predictions are the measured means of the test conditions, or nearer to them than a model can be.

    Compared is up to a factor: a copy of another amplitude is a copy. Expression whose own control was subtracted is one, too.

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
    tolerance
        Differences below this are rounding.
    """
    truths, s2 = [side.observed[present]], (side.s2 if side.s2_unseen is None else side.s2_unseen)[present]
    if side.control is not None and side.input_control is not None:
        truths.append(truths[0] + (side.control - side.input_control)[present])
    D, n = delta[present], len(present)
    same, near = np.zeros((2, n), dtype=np.bool_)
    for truth in truths:
        away = np.abs(scaled_to(truth, D) * D - truth).max(axis=1)
        same |= (np.abs(D - truth).max(axis=1) <= tolerance) | ((away <= tolerance) & enough_to_scale(truth))
        near |= _within_noise(scaled_to(truth, D, s2) * D - truth, s2)
    near &= ~same
    out = []
    if same.any():
        out.append(
            f"{int(same.sum())} of {n} predictions are what was measured of the test condition itself; was the file of the "
            "measured cells given in place of the prediction?"
        )
    if near.mean() > _MANY:
        out.append(
            f"{int(near.sum())} of {n} predictions are nearer to what was measured of the test condition than its own "
            "sampling noise allows; did the model see the test cells?"
        )
    if not out:
        found = closer_than_noise_free(ds, side.rows, side.codes, delta, present)
        out += [] if found is None else [f"{found.said}; did the model see the test cells?"]
    if not out:
        out += _means_of_test(side, truths, s2, D, present)
    return out


def _means_of_test(
    side: ObservedSide, truths: list[FloatArray], s2: FloatArray, D: FloatArray, present: IntArray
) -> list[str]:
    """Return in which contexts the predictions have the mean of all measured test conditions in common.

    Train conditions are others: their mean is off by more than the noise of the tested cells.

    Parameters
    ----------
    side
        The observed side of the split.
    truths, s2, D
        Deltas that a copy may have, their sampling variances, and the predicted deltas of the present conditions.
    present
        Positions of these.
    """
    context = side.conditions[schema.CONTEXT_ID].astype(str).to_numpy()[present]
    found, names = [], sorted(set(context))
    groups = {name: context == name for name in names}
    if len(names) > 1:
        groups["all together"] = np.ones(len(context), dtype=np.bool_)
    for name, group in groups.items():
        at = np.flatnonzero(group)
        if len(at) < _FEWEST_CONDITIONS:
            continue
        noise = s2[at].mean(axis=0, keepdims=True) / len(at)
        p = D[at].mean(axis=0, keepdims=True)
        means = [t[at].mean(axis=0, keepdims=True) for t in truths]
        if any(_within_noise(scaled_to(t, p, noise) * p - t, noise).any() for t in means):
            found.append(name)
    if not found:
        return []
    return [
        "the mean of the predictions is nearer to that of the measured test conditions than sampling noise allows, in contexts: "
        f"{', '.join(found[:3])}{', ...' if len(found) > 3 else ''}; did the model see the test cells?"
    ]


def _within_noise(away: FloatArray, s2: FloatArray) -> BoolArray:
    """Return bool [C], whether differences to the observation [C, G] are much smaller than its sampling errors are.

    The truth itself is one standard error away, 0.67 in the median gene: the noise of the test cells is in no prediction.

    Parameters
    ----------
    away, s2
        Differences, and sampling variances of the observation.
    """
    known = s2 > 0
    z = np.divide(away**2, s2, out=np.full(away.shape, np.nan), where=known)
    enough = known.sum(axis=1) >= _FEWEST_GENES
    out = np.zeros(len(away), dtype=np.bool_)
    out[enough] = np.nanmedian(z[enough], axis=1) < _NEAR
    return out
