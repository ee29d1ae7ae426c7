"""What a model may tell of the conditions themselves: which are alike, and what is left unknown of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@dataclass(frozen=True, eq=False)
class Posterior:
    """Covariance of some conditions given train, in units of each gene's process.

    Attributes
    ----------
    noise
        float64 [L], noise variance of one more observation, by noise level.
    weights
        float64 [L], share of the genes that have each level.
    variance
        float64 [L, q].
    column
        ``column(i)`` is float64 [L, q], the covariance with condition i.
    """

    noise: FloatArray
    weights: FloatArray
    variance: FloatArray
    column: Callable[[int], FloatArray]


class ConditionProcess(Protocol):
    """A Gaussian process over conditions that a fitted model rests on."""

    @property
    def conditions(self) -> pd.DataFrame:
        """Return the train conditions [n]."""

    def similarity(self, query: Query) -> FloatArray:
        """Return float64 [q, n], the correlation of each condition with each of train, at most 1."""

    def out_of_fold(self, view: TrainView) -> FloatArray:
        """Return float64 [m], the highest similarity of every held-out condition to what is left, fold by fold."""

    def describable(self) -> list[str]:
        """Return the genes that features describe, where the process uses them."""

    def posterior(self, query: Query) -> Posterior:
        """Return the covariance of conditions [q] given train."""
