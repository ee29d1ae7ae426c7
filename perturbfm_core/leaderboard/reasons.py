"""Texts that stand beside every missing value of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_SCORED = "not scored by this metric"
UNDEFINED = "undefined in every condition"
NO_BEST = "the metric has no best value"
NO_SIGNAL = "no signal in the data"
OTHER_VERSION = (
    "scored by another version of the metric than others; `perturbfm rescore --all` scores all alike"
)
FEW_UNITS = "fewer than 5 units"
FEW_DRAWS = "defined in too few units or bootstrap samples"
ONE_PER_CONTEXT = "one value for all conditions of a context, and fewer than 5 contexts"
OF_SEVERAL = "a statistic of several conditions together, the mean over runs"
NO_BASELINE = "no baseline with a value"
NO_PAIR = "no condition where both are defined"
NO_CEILING = "no ceiling for this metric"
NO_FLOOR = "no floor for this metric"
NO_NOISE_FREE = "what a noise-free prediction reaches does not follow from halves for this metric"
NOT_RECORDED = "not recorded by this run"
OVER_FOLDS = "means over folds, although some conditions are tested in several"
OVER_FOLDS_YET = f"{OVER_FOLDS}; `perturbfm rescore --all` and a refresh let each count once"
NO_BOUNDS = "nothing is stored beside the split until a run scores it"


def of_folds(done: int, total: int) -> str:
    """Return how much of a cross-validation has been run."""
    return f"{done} of {total} folds"


def of_itself(name: str) -> str:
    """Return why a metric has no value of one floor where it has one of another."""
    return f"undefined for the {name} itself"


def bound_reason(bounds: Sequence[Any], otherwise: str) -> str:
    """Return why ceilings or floors of a board's splits lack a metric.

    Parameters
    ----------
    bounds
        What is stored of each split, which may be a reason itself.
    otherwise
        The reason where none is stored.
    """
    for bound in bounds:
        reason = bound.get("reason") if isinstance(bound, Mapping) else None
        if isinstance(reason, str):
            return " ".join(reason.split())
    return otherwise
