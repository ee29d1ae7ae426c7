"""Posterior of the set process: similarity of conditions to train, and their covariance given train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.core.other_screens import apart
from perturbfm_core.models.similarity import Posterior, take
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

_BLOCK = 512


@dataclass(frozen=True, eq=False)
class SetProcessPosterior:
    """A fitted set process with the interface `ConditionProcess`."""

    process: SetProcess

    @property
    def conditions(self) -> pd.DataFrame:
        """Return the train conditions [n]."""
        return self.process.similarity.conditions

    def similarity(self, query: Query) -> FloatArray:
        """Return float64 [q, n], the prior correlation of each condition with each train condition."""
        space, kernel = self.process.similarity, self.process.kernel
        return _correlation(space, kernel, query, _own(space, kernel))

    def out_of_fold(self, view: TrainView) -> FloatArray:
        """Return float64 [m], the similarity of every held-out condition to its nearest fitted condition.

        The kernel is fitted anew without the held-out conditions of each inner fold, so that a held-out
        single counts as unmeasured, like a gene that was never perturbed.
        """
        p = self.process
        out = []
        for fit, held in view.inner:
            part, rest = view.subset(fit), view.subset(held)
            without, _ = apart(part, p.direct)
            space = SimilarityKernel(p.similarity.tables, p.scale).fit(without)
            own = _own(space, p.kernel)
            out.append(_correlation(space, p.kernel, rest.query(), own).max(axis=1))
        return np.concatenate(out) if out else np.zeros(0)

    def describable(self) -> list[str]:
        """Return the genes of the feature tables, none if the kernel does not use them."""
        if not self.process.kernel.features:
            return []
        return sorted({str(g) for table in self.process.similarity.tables for g in table.genes})

    def posterior(self, query: Query) -> Posterior:
        """Return the posterior covariance of conditions [q] given train, by noise level of the genes."""
        p = self.process
        levels, counts = np.unique(p.lambdas, return_counts=True)
        given: Any = p.given
        projected = given.projected(query)
        prior = p.similarity.diagonal(query, p.kernel)
        explained = given.explained(projected, levels)

        def column(i: int) -> FloatArray:
            one = take(query, slice(i, i + 1))
            covariance = _in_blocks(query, lambda part: p.similarity.blocks(part, one)(p.kernel))[:, 0]
            return np.stack([covariance - e for e in given.between(projected, i, levels)])

        return Posterior(levels, counts / counts.sum(), np.maximum(prior[None] - explained, 0.0), column)


def _own(space: SimilarityKernel, kernel: Kernel) -> FloatArray:
    """Return float64 [n], the kernel of each train condition with itself."""
    if space.scale.approximates(len(space.conditions)):
        return space.diagonal(space.train, kernel)
    return np.diag(space.blocks()(kernel))


def _correlation(space: SimilarityKernel, kernel: Kernel, query: Query, own: FloatArray) -> FloatArray:
    cross = _in_blocks(query, lambda part: space.blocks(part)(kernel))
    size = np.sqrt(np.outer(np.maximum(space.diagonal(query, kernel), 0.0), np.maximum(own, 0.0)))
    return np.asarray(np.divide(cross, size, out=np.zeros_like(cross), where=size > 0))


def _in_blocks(query: Query, compute: Callable[[Query], FloatArray]) -> FloatArray:
    """Return the rows of `compute(part)` for blocks of the query.

    Blocks bound the memory of the kernel's dense intermediate matrices.
    """
    blocks = [compute(take(query, slice(i, i + _BLOCK))) for i in range(0, len(query), _BLOCK)]
    return np.concatenate(blocks)
