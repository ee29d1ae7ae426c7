"""Interface to a model's Gaussian process over conditions: similarity to train and posterior covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import pandas as pd

from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior covariance of some conditions given train, in units of each gene's process variance.

    Attributes
    ----------
    noise
        float64 [L], noise variance of one more observation, by noise level.
    weights
        float64 [L], share of the genes that have each level.
    variance
        float64 [L, q], posterior variance of each condition.
    column
        ``column(i)`` is float64 [L, q], the posterior covariance of all conditions with condition i.
    """

    noise: FloatArray
    weights: FloatArray
    variance: FloatArray
    column: Callable[[int], FloatArray]


class ConditionProcess(Protocol):
    """A Gaussian process over conditions on which the predictions of a fitted model are based."""

    @property
    def conditions(self) -> pd.DataFrame:
        """Return the train conditions [n]."""

    def similarity(self, query: Query) -> FloatArray:
        """Return float64 [q, n], the prior correlation of each condition with each train condition."""

    def out_of_fold(self, view: TrainView) -> FloatArray:
        """Return float64 [m], the similarity of every held-out condition to its nearest fitted condition.

        The rows are the held-out conditions of the inner folds, fold by fold.
        """

    def describable(self) -> list[str]:
        """Return the genes that have features, if the process uses features."""

    def posterior(self, query: Query) -> Posterior:
        """Return the posterior covariance of conditions [q] given train."""


def take(query: Query, rows: slice) -> Query:
    """Return some of the conditions of a query."""
    control = None if query.control is None else query.control[rows]
    return replace(query, conditions=query.conditions.iloc[rows], control=control)
