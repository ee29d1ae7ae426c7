"""Checks that the means of an external model are in the space, and of the kind, that it declares."""

from __future__ import annotations

from typing import Final

import numpy as np

from perturbfm_core.data.prediction_kind import (
    MANY_GENES,
    SORTED,
    beyond_log1p,
    correlation,
    partly_at_other_genes,
    refuse_counts,
    similarity,
    sorted_correlation,
)
from perturbfm_core.data.prediction_scale import RATIOS, scale_of
from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import FloatArray

# Median Pearson correlation over genes that log1p expression has at least with its control. Over fewer genes than
# `MANY_GENES`, one that may be as high but for two standard errors (after Fisher) is enough.
_CORRELATION: Final = 0.5
# Share of values below 0 that no log1p expression has, even with some noise around 0.
_NEGATIVE: Final = 0.1
# Counts are log1p values if these are so much nearer to the control than log1p of the counts.
_NEARER: Final = 0.5


def log1p_of_counts(
    name: str, counts: FloatArray, control: FloatArray | None, target_sum: float | None
) -> FloatArray:
    """Return log1p of mean counts [C, G] scaled to the depth of the data.

    Parameters
    ----------
    name
        What holds them, for messages.
    counts
        Mean counts.
    control
        Mean log1p expression of the matched controls [C, G], or None.
    target_sum
        Counts per cell that the data are scaled to.

    Raises
    ------
    PredictionError
        If they are no counts, or the depth of the data is unknown.
    """
    if target_sum is None:
        msg = f"{name} is declared as counts, but the data set does not say what its cells are scaled to; predict log1p expression"
        raise PredictionError(msg)
    if below := int((counts < 0).sum()):
        msg = f"{name} is declared as counts and has {below} negative values (lowest {counts.min():.3g}); say what it holds"
        raise PredictionError(msg)
    total = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    if (total == 0).any():
        msg = f"{name} has {int((total == 0).sum())} conditions without any count; predict counts of cells"
        raise PredictionError(msg)
    out: FloatArray = np.log1p(counts / total * target_sum)
    if control is not None and _rms(counts - control) < _NEARER * _rms(out - control):
        msg = (
            f"{name} is declared as counts and looks like log1p expression already (maximum {counts.max():.3g}, differences to the "
            f"control {_rms(counts - control):.2g} as it is, {_rms(out - control):.2g} as counts); declare space log1p"
        )
        raise PredictionError(msg)
    return out


def check_expression(
    name: str, mean: FloatArray, control: FloatArray, own: FloatArray | None, scale: str
) -> list[str]:
    """Refuse expression that is unlike the controls; return what to warn of.

    Where a model's own control has the scale of its predictions, it is the model that is far from the data, which is
    warned of and scored.

    Parameters
    ----------
    name
        What holds the numbers, for messages.
    mean, control
        Predicted means and those of the matched controls [C, G], log1p.
    own
        The model's own controls [C, G], or None.
    scale
        The scale of the data set, in words.

    Raises
    ------
    PredictionError
        If it is not in that scale.
    """
    refuse_counts(name, mean, scale, hint="or declare space counts")
    below = float((mean < 0).mean())
    each = _correlations(mean, control)
    r, ratio = _resemblance(mean, control)
    shown = f"correlation {r:.2f}, ratio of means {ratio:.3g}"
    if below > _NEGATIVE:
        msg = (
            f"{name} is declared as expression, but {below:.0%} of it is negative ({shown} with the control); differences to "
            f"the control are kind delta, anything else must be brought to {scale}"
        )
        raise PredictionError(msg)
    found = scale_of(mean, control)
    if found is not None and found.other is not None and not found.fits:
        msg = f"{name} is in another scale than the data set, {found.other} ({found.sums}); {found.advice(scale)}"
        # A network at the beginning of its training gives all genes much the same value, as roots and logarithms do.
        if own is not None and _is_like(*_resemblance(mean, own), _CORRELATION):
            msg += "; if the worker writes log1p values, train longer: the model's own control is as far from the data"
        raise PredictionError(msg)
    out = [] if below == 0 else [f"{below:.2%} of the predicted expression is negative"]
    least = _least(mean.shape[1])
    if _is_like(r, ratio, least):
        if odd := int((each < least).sum()):
            out.append(
                f"{odd} of {len(mean)} predictions are unlike the control (correlation below {least:.2g})"
            )
        out += partly_at_other_genes(name, mean, control)
        outside = 0 if found is None else found.outside
        if outside:
            out.append(
                f"the expression of {outside} of {len(mean)} predictions sums to less than half or more than twice that of "
                "the control after expm1"
            )
        elif found is not None and found.unusual:
            out.append(f"{name} may be in another scale than the data set: {found.sums}")
        return out
    if r < least and _is_like(sorted_correlation(mean, control), ratio, SORTED):
        msg = f"{name} has the values of expression at other genes than the control ({shown}); name its columns in their order"
        raise PredictionError(msg)
    if own is not None and _is_like(*_resemblance(mean, own), least):
        return [
            *out,
            f"predictions are unlike the real control ({shown}), and so is the model's own control: too little training?",
        ]
    msg = (
        f"{name} does not look like log1p expression of this data set ({shown} with the control, which are above "
        f"{least:.2g} and within {RATIOS[0]:g} to {RATIOS[1]:g}); is it a delta (kind delta), or another normalisation "
        f"than {scale}?"
    )
    raise PredictionError(msg)


def check_delta(
    name: str, delta: FloatArray, control: FloatArray, own: FloatArray | None, scale: str
) -> list[str]:
    """Refuse deltas that look like expression, counts or differences of counts; return what to warn of.

    Parameters are those of `check_expression`.

    Raises
    ------
    PredictionError
        If they do.
    """
    for base in (control, own):
        like = None if base is None else similarity(delta, base)
        if like is not None and like.alike > 0.5:
            msg = (
                f"{name} is declared as delta and looks like expression (its correlation with the control is "
                f"{like.correlation:.2f}); declare kind expression, of which the control is subtracted"
            )
            raise PredictionError(msg)
    if own is not None:
        r, ratio = _resemblance(own, control)
        if r < _least(own.shape[1]) and _is_like(sorted_correlation(own, control), ratio, SORTED):
            msg = (
                f"{name} has a model's own control with its values at other genes than the real one (correlation {r:.2f}); name its "
                "columns in their order"
            )
            raise PredictionError(msg)
    refuse_counts(name, delta, scale, hint="")
    # With values below -1 it is no counts, and may be differences of counts.
    if (beyond := beyond_log1p(name, delta)) is not None:
        msg = f"{beyond}; predict differences in {scale}"
        raise PredictionError(msg)
    if delta.any() and not (delta < 0).any():
        return ["no delta is negative, as of expression or fold changes"]
    return []


def _resemblance(mean: FloatArray, control: FloatArray) -> tuple[float, float]:
    """Return (median correlation over genes, ratio of means) of predictions [C, G] and controls [C, G]."""
    base = float(control.mean())
    return float(np.median(_correlations(mean, control))), float(mean.mean()) / base if base > 0 else np.nan


def _correlations(mean: FloatArray, control: FloatArray) -> FloatArray:
    return np.asarray([correlation(a, b) for a, b in zip(mean, control, strict=True)])


def _least(n_genes: int) -> float:
    """Return the least correlation with the control of expression of so many genes."""
    if n_genes >= MANY_GENES:
        return _CORRELATION
    return float(np.tanh(np.arctanh(_CORRELATION) - 2.0 / np.sqrt(max(n_genes - 3, 1))))


def _is_like(r: float, ratio: float, least: float) -> bool:
    return r >= least and RATIOS[0] <= ratio <= RATIOS[1]


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
