"""Scale of predicted expression, compared with that of the matched control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from perturbfm_core.schema import BoolArray, FloatArray

# Row sums of expression in the scale of the control are a multiple of its sums between these; beyond the inner pair
# it is warned of.
RATIOS: Final = (0.5, 2.0)
_USUAL: Final = (2 / 3, 1.5)
# Another scale is named if in it a prediction is this much nearer to the control than in its own; row sums beside it are
# not needed if it is as much nearer than as it is as the second says, and as close as the third, in units of the spread of
# the control over genes.
_NAMED, _NEARER, _CLOSE = 0.8, 0.5, 0.25
# With fewer expressed genes than the first, one strong gene shifts all others, which a logarithm can look like: another scale
# must be much nearer than that shift as well, and close. With fewer than the second, none is named.
_MANY_GENES, _FEWEST_GENES = 30, 8
# Conditions that are compared in every scale.
_SAMPLE = 64
# Beyond this, the exponential of a double is infinite.
_HIGHEST = 700.0

_LN2, _LN10 = float(np.log(2.0)), float(np.log(10.0))
# Scale -> what undoes it, and what makes log1p values of it.
_OTHERS: Final[dict[str, tuple[Callable[[FloatArray], FloatArray], str]]] = {
    "log2(x + 1)": (lambda x: np.expm1(np.minimum(x * _LN2, _HIGHEST)), "multiply it by ln 2"),
    "log10(x + 1)": (lambda x: np.expm1(np.minimum(x * _LN10, _HIGHEST)), "multiply it by ln 10"),
    "linear expression": (lambda x: x, "take log1p of it after scaling its rows to that sum"),
    "square roots of expression": (
        np.square,
        "square it, scale its rows to that sum, and take log1p",
    ),
}


@dataclass(frozen=True)
class Scale:
    """Scale of predicted expression beside that of the control.

    Attributes
    ----------
    ratio
        Median over conditions of the row sum after `expm1`, divided by that of the control.
    own, control
        The two medians of row sums.
    outside
        Number of conditions whose ratio is outside of `RATIOS`.
    other
        Scale that the prediction may be in, if there is one that is nearer.
    alone
        Whether the values show that it is, whatever the row sums.
    """

    ratio: float
    own: float
    control: float
    outside: int
    other: str | None
    alone: bool

    @property
    def fits(self) -> bool:
        """Whether the prediction can be in the scale of the control."""
        return RATIOS[0] <= self.ratio <= RATIOS[1] and not self.alone

    @property
    def unusual(self) -> bool:
        """Whether the sums differ more than perturbed cells usually do."""
        return not _USUAL[0] <= self.ratio <= _USUAL[1]

    @property
    def sums(self) -> str:
        """The row sums, in words."""
        return f"its rows sum to {self.own:.3g} after expm1, those of the control to {self.control:.3g}"

    def advice(self, scale: str) -> str:
        """Return what to do; `scale` names that of the data set."""
        if self.other is None:
            return f"normalise its rows as the data are ({scale})"
        return f"{_OTHERS[self.other][1]} (the data set is scored in {scale})"


def scale_of(mean: FloatArray, control: FloatArray) -> Scale | None:
    """Return the scale of predicted mean expression [C, G] beside its matched control; None for a control of 0."""
    own = np.asarray([np.expm1(np.clip(row, 0.0, _HIGHEST)).sum() for row in mean])
    other = np.asarray([np.expm1(np.clip(row, 0.0, _HIGHEST)).sum() for row in control])
    known = other > 0
    if not known.any():
        return None
    ratio = own[known] / other[known]
    other_scale, alone = _other_scale(mean[known], control[known])
    outside = int(((ratio < RATIOS[0]) | (ratio > RATIOS[1])).sum())
    return Scale(
        ratio=float(np.median(ratio)),
        own=float(np.median(own[known])),
        control=float(np.median(other[known])),
        outside=outside,
        other=other_scale,
        alone=alone,
    )


def _other_scale(mean: FloatArray, control: FloatArray) -> tuple[str | None, bool]:
    """Return (the scale in which predictions are nearer to the control than in its own, whether they are so alone)."""
    picked = np.unique(np.linspace(0, len(mean) - 1, min(len(mean), _SAMPLE)).astype(np.int64))
    own, truth = np.maximum(mean[picked], 0.0), control[picked]
    genes = int(_expressed(truth).any(axis=0).sum())
    if genes < _FEWEST_GENES:
        return None, False
    total = np.expm1(np.minimum(truth, _HIGHEST)).sum(axis=1, keepdims=True)
    far = {name: _distance(_rescaled(undo(own), total), truth) for name, (undo, _) in _OTHERS.items()}
    best = min(far, key=lambda name: far[name])
    # Another depth in the same logarithm is no other scale.
    rescaled = _distance(_rescaled(np.expm1(np.minimum(own, _HIGHEST)), total), truth)
    as_it_is = _distance(own, truth)
    shifted = _distance(own - _shift(own, truth), truth)
    spread = float(np.median(np.std(truth, axis=1)))
    # A control that hardly differs between genes does not show a scale.
    close = far[best] < _CLOSE * spread
    if far[best] >= _NAMED * min(rescaled, as_it_is):
        return None, False
    if genes < _MANY_GENES and not (close and far[best] < _NEARER * min(rescaled, as_it_is, shifted)):
        return None, False
    return best, close and far[best] < _NEARER * min(as_it_is, shifted)


def _rescaled(linear: FloatArray, total: FloatArray) -> FloatArray:
    """Return log1p of linear expression scaled to row sums."""
    sums = linear.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        out: FloatArray = np.log1p(np.where(sums > 0, linear * (total / sums), 0.0))
    return out


def _distance(own: FloatArray, control: FloatArray) -> float:
    """Return how far expression is from the control: the median of differences in genes that are expressed."""
    apart = np.abs(own - control)[_expressed(control)]
    out = float(np.median(apart)) if len(apart) else np.inf
    return out if np.isfinite(out) else np.inf


def _expressed(control: FloatArray) -> BoolArray:
    """Return bool [C, G], the genes that a control expresses more than its mean."""
    return np.asarray(control > control.mean(axis=1, keepdims=True), dtype=np.bool_)


def _shift(own: FloatArray, control: FloatArray) -> FloatArray:
    """Return [C, 1], the median difference in the genes that are expressed: 0 where there are none."""
    pairs = zip(own - control, _expressed(control), strict=True)
    return np.asarray([[np.median(apart[there]) if there.any() else 0.0] for apart, there in pairs])
