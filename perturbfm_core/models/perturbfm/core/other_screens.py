"""Conditions of other screens among those of train: their own means, sizes and effects on targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from perturbfm_core import schema
from perturbfm_core.models.perturbfm.core.direct_effect import Direct, DirectEffect
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.core.noise_levels import POOLING, crossed_errors
from perturbfm_core.models.perturbfm.core.strata_mean import StrataMean
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.view import TrainView

# Contexts of conditions of other screens start so: no context of a data set does.
OTHER_SCREEN = "borrowed from "
# Bounds of the factor that brings the effects of another screen to the size of train's.
_SMALLEST, _LARGEST = 0.2, 5.0


def of_other_screens(view: TrainView) -> BoolArray:
    """Return bool [n], whether each condition is one of another screen."""
    contexts = view.conditions[schema.CONTEXT_ID].astype(str)
    return np.asarray(contexts.str.startswith(OTHER_SCREEN).to_numpy(), dtype=np.bool_)


def without_direct_effects(view: TrainView, *, state: bool) -> tuple[TrainView, DirectEffect]:
    """Return the view without effects on the targets themselves, and those of train; each screen has its own.

    Parameters
    ----------
    view
        Train conditions, those of other screens among them.
    state
        Whether train's depend on the target's control expression.
    """
    others = of_other_screens(view)
    own = view.subset(~others) if others.any() else view
    targets = DirectEffect(state=state).fit(own)
    if not others.any():
        return replace(view, delta=targets.without(view)), targets
    delta = np.empty_like(view.delta)
    delta[~others] = targets.without(own)
    for rows in _screens(view, others):
        lent = view.subset(rows)
        delta[rows] = DirectEffect(state=False).fit(lent).without(lent)
    return replace(view, delta=delta), targets


def apart(view: TrainView, direct: Direct) -> tuple[TrainView, DirectEffect | None]:
    """Return the view without effects on the targets themselves, and these effects; None where they are not modelled."""
    return (view, None) if direct == "none" else without_direct_effects(view, state=direct == "state")


def centred(view: TrainView, *, by_size: bool) -> tuple[StrataMean, FloatArray]:
    """Return the mean of train, and deltas [n, G] less their mean.

    Those of another screen are less its own mean, and scaled to the size of train's.

    Parameters
    ----------
    view
        Train conditions, those of other screens among them.
    by_size
        Whether there is a mean for each number of perturbed genes.
    """
    others = of_other_screens(view)
    own = view.subset(~others) if others.any() else view
    mean = StrataMean(by_size=by_size).fit(own)
    residual = own.delta - mean.predict(own.query())
    if not others.any():
        return mean, residual
    out = np.empty_like(view.delta)
    out[~others] = residual
    for rows in _screens(view, others):
        lent = view.subset(rows)
        left = lent.delta - StrataMean(by_size=by_size).fit(lent).predict(lent.query())
        found = _size(left)
        out[rows] = left * (np.clip(_size(residual) / found, _SMALLEST, _LARGEST) if found > 0 else 1.0)
    return mean, out


def _screens(view: TrainView, others: BoolArray) -> list[BoolArray]:
    contexts = view.conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    return [contexts == name for name in np.unique(contexts[others])]


def _size(residual: FloatArray) -> float:
    return float(np.sqrt(np.mean(residual**2, dtype=np.float64)))


def least_errors(options: Iterable[FloatArray]) -> FloatArray:
    """Return float64 [folds], the errors of the best option, from those of each by noise level and gene."""
    found = [crossed_errors(errors, pooling) for errors in options for pooling in POOLING]
    return min(found, key=lambda of_folds: float(of_folds.sum()))


def sure_of_borrowing(
    options: Sequence[tuple[Direct, Kernel]],
    errors: Sequence[FloatArray],
    scores: FloatArray,
    best: tuple[int, int],
    without: FloatArray,
) -> tuple[int, int]:
    """Return the position of the best option, or of one that borrows nothing if train alone is no worse beyond error.

    Parameters
    ----------
    options
        Model of direct effects and kernel of each option.
    errors
        float64 [folds, lambdas, G] per option, summed relative squared errors.
    scores
        float64 [options, poolings], their errors with crossed noise levels.
    best
        Position of the least score.
    without
        float64 [folds], errors of train alone. Those of options that borrow nothing are not its own: their contexts
        share no more with each other than with the other screens.
    """
    alone = [i for i, (_, kernel) in enumerate(options) if kernel.context == 1.0]
    if best[0] in alone or not alone:
        return best
    i, pooling = np.unravel_index(int(np.argmin(scores[alone])), scores[alone].shape)
    other = (alone[int(i)], int(pooling))
    lent = crossed_errors(errors[best[0]], POOLING[best[1]])
    if len(lent) != len(without):
        return other
    gain = without - lent
    sure = gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain))
    return best if sure else other
