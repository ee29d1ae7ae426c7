"""Set process whose kernel and noise are those of each gene: a mean over kernels, by how likely they make its deltas.

Some genes add up over perturbations, others saturate, and some hardly follow the measured effects at all. A single kernel
for all genes cannot say so. Here every gene averages over a grid of kernels and noise levels, weighted by the
likelihood of its train deltas times a prior that all genes share and that is found by expectation maximisation
(empirical Bayes; Robbins 1956, Carlin and Louis 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from perturbfm_core.models.perturbfm.core.combination_residual import (
    MIN_COMBINATIONS,
    CombinationResidual,
    left_out_together,
)
from perturbfm_core.models.perturbfm.core.direct_effect import Direct, DirectEffect
from perturbfm_core.models.perturbfm.core.exact import condition_noise
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.gene_likelihood import (
    decomposed,
    likeliest_noise,
    noise_deviation,
    shared_prior,
)
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.core.other_screens import apart, centred
from perturbfm_core.models.perturbfm.core.strata_mean import StrataMean
from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.models.scale import some_rows
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

# Weights of the parts of the kernel that the grid is made of.
_GRID: dict[str, tuple[float, ...]] = {
    "identity": (0.1, 1.0),
    "effect": (0.1, 1.0, 8.0),
    "pair": (0.0, 1.0),
    "linear": (0.1, 1.0, 8.0),
}
# Axes on which effects are compared: in units of the noise, smaller ones tell more than they do otherwise.
_COMPONENTS = 120
# The prior comes from some genes; kernels that get less of it are left out for all genes.
_PRIOR_GENES = 500
_LEAST_PRIOR = 0.005
# Every kernel of the grid is decomposed, which takes too long for more conditions.
MAX_CONDITIONS = 500


def applies(kernel: Kernel, n: int) -> bool:
    """Return whether a kernel is made of measured effects, and `n` train conditions are few enough."""
    return bool(kernel.effect or kernel.pair or kernel.linear) and n <= MAX_CONDITIONS


@dataclass(frozen=True)
class _Candidates:
    """A grid of kernels.

    Attributes
    ----------
    parts
        Kernels of one part each, with weight 1.
    weights
        float64 [kernels, parts], weights of the parts.
    """

    parts: tuple[Kernel, ...]
    weights: FloatArray


class GeneProcess:
    """A Gaussian process over interventions with a kernel and a noise level of each gene.

    It models deltas less the mean and the direct effects of a `SetProcess`, and shares its tables, contexts and
    covariates. Effects of singles are compared with every gene in units of its noise.

    Parameters
    ----------
    process
        The process, its options chosen; its kernel has to be made of effects (see `applies`).
    """

    def __init__(self, process: SetProcess) -> None:
        self.direct: Direct = process.direct
        self.kernel = process.kernel
        self.similarity = SimilarityKernel(process.tables, process.scale, _COMPONENTS)
        self.mean = StrataMean()
        self._scale = process.scale
        self._targets: DirectEffect | None = None
        self._parts: tuple[Kernel, ...] = ()
        self._duals: list[FloatArray] = []
        self.combinations = CombinationResidual()
        self.summary: dict[str, Any] = {}

    def fit(self, view: TrainView) -> GeneProcess:
        """Fit on the conditions of a view."""
        view, self._targets = apart(view, self.direct)
        self.mean, residual = centred(view, by_size=self.kernel.by_size)
        residual = residual.astype(np.float64)
        K = SimilarityKernel(self.similarity.tables, self._scale).fit(view).blocks()(self.kernel)
        noise = likeliest_noise(K, residual, condition_noise(K, residual))
        deviation = noise_deviation(K, residual, noise)
        in_units = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        self.similarity.fit(replace(view, delta=(view.delta * in_units).astype(np.float32)))
        combined = np.flatnonzero(interventions(view.conditions).sizes > 1)
        combined = combined if len(combined) >= MIN_COMBINATIONS else combined[:0]
        predicted = view.delta - residual
        groups = left_out_together(view)[combined]
        predicted[combined] += self._condition(residual, noise, combined, groups)
        self.combinations = CombinationResidual()
        if len(combined):
            self.combinations.fit(view, predicted, noise)
        if self.combinations.gain is not None:
            mean, error = self.combinations.gain
            self.summary["combinations"] = {
                "gain": round(mean, 5),
                "error": round(error, 5),
                "used": self.combinations.in_use,
            }
        return self

    def _condition(
        self, residual: FloatArray, noise: FloatArray, asked: IntArray, groups: IntArray
    ) -> FloatArray:
        """Weigh the kernels for each gene and condition the process on the residuals [n, G].

        Returns what is predicted of some of them, at positions `asked`, without their groups [asked, G].
        """
        grid = _candidates(self.kernel)
        blocks = self.similarity.blocks()
        of_parts = np.stack([blocks(part) for part in grid.parts])
        rows = residual / np.sqrt(noise)[:, None]
        found = [decomposed(np.tensordot(w, of_parts, axes=1), noise) for w in grid.weights]
        some = rows[:, some_rows(rows.shape[1], _PRIOR_GENES)]
        prior = shared_prior(np.stack([d.log_likelihood(some) for d in found]))
        kept = np.flatnonzero(prior.sum(axis=1) >= _LEAST_PRIOR)
        log_posterior = (
            np.stack([found[i].log_likelihood(rows) for i in kept])
            + np.log(np.maximum(prior[kept], 1e-12))[..., None]
        )
        posterior = np.exp(log_posterior - log_posterior.max(axis=(0, 1)))
        posterior /= posterior.sum(axis=(0, 1))
        # A prediction is linear in the parts of the kernel, so that one matrix per part holds the mean over all kernels.
        duals, left_out = np.zeros((len(grid.parts), *rows.shape)), np.zeros((len(asked), rows.shape[1]))
        for i, weight in zip(kept, posterior, strict=True):
            dual = found[i].dual(rows, weight) / np.sqrt(noise)[:, None]
            left_out += found[i].left_out(rows, weight, asked, groups)
            for part in np.flatnonzero(grid.weights[i]):
                duals[part] += grid.weights[i, part] * dual
        used = [i for i in range(len(grid.parts)) if grid.weights[kept, i].any()]
        self._parts = tuple(grid.parts[i] for i in used)
        self._duals = [duals[i].astype(np.float32) for i in used]
        self.summary = {"kernels": len(kept), "weights": _mean_weights(grid, kept, posterior)}
        return np.asarray(left_out * np.sqrt(noise[asked])[:, None])

    def predict(self, query: Query) -> FloatArray:
        """Return float32 [q, G], the mean in log1p units; 0 for conditions without any part above a dose of 0."""
        mean = self.mean.predict(query)
        blocks = self.similarity.blocks(query)
        for part, dual in zip(self._parts, self._duals, strict=True):
            mean = mean + blocks(part).astype(np.float32) @ dual
        mean = mean + self.combinations.predict(query, mean)
        if self._targets is not None:
            mean = mean + self._targets.predict(query)
        mean[interventions(query.conditions).sizes == 0] = 0.0
        return np.asarray(mean, dtype=np.float32)

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {
            **{f"{prefix}.dual{i}": dual for i, dual in enumerate(self._duals)},
            **self.similarity.arrays(f"{prefix}.similarity"),
            **self.mean.arrays(f"{prefix}.mean"),
            **self.combinations.arrays(f"{prefix}.combinations"),
            **({} if self._targets is None else self._targets.arrays(f"{prefix}.direct")),
        }

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.parts": [asdict(part) for part in self._parts],
            f"{prefix}.treated": self.direct,
            f"{prefix}.summary": self.summary,
            **self.similarity.meta(f"{prefix}.similarity"),
            **self.mean.meta(f"{prefix}.mean"),
            **self.combinations.meta(f"{prefix}.combinations"),
            **({} if self._targets is None else self._targets.meta(f"{prefix}.direct")),
        }

    def restore(
        self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any], genes: list[str]
    ) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        genes
            Gene ids [G] in the order of fitting.
        """
        self.direct = meta[f"{prefix}.treated"]
        self._parts = tuple(Kernel(**{**p, "tables": tuple(p["tables"])}) for p in meta[f"{prefix}.parts"])
        self._duals = [arrays[f"{prefix}.dual{i}"] for i in range(len(self._parts))]
        self.summary = meta[f"{prefix}.summary"]
        self.similarity.restore(f"{prefix}.similarity", arrays, meta)
        self.mean.restore(f"{prefix}.mean", arrays, meta)
        self.combinations.restore(f"{prefix}.combinations", arrays, meta)
        if self.direct != "none":
            self._targets = DirectEffect(state=self.direct == "state")
            self._targets.restore(f"{prefix}.direct", arrays, meta, genes)


def _candidates(kernel: Kernel) -> _Candidates:
    """Return the grid; features, contexts and covariates count as they do in the kernel."""
    none: dict[str, Any] = dict.fromkeys((*_GRID, "features", "level"), 0.0)
    names = [*_GRID, *(["features"] if kernel.features else [])]
    parts = [replace(kernel, **{**none, name: 1.0}) for name in names]
    rows: list[Sequence[float]] = [
        (*weights, kernel.features) if kernel.features else weights for weights in product(*_GRID.values())
    ]
    if kernel.level:
        parts.append(replace(kernel, **{**none, "level": 1.0}))
        rows = [(*row, kernel.level) for row in rows]
    return _Candidates(tuple(parts), np.asarray(rows, dtype=np.float64))


def _mean_weights(grid: _Candidates, kept: np.ndarray[Any, Any], posterior: FloatArray) -> dict[str, float]:
    """Return the weight of each part of the grid, averaged over genes, for the record of a fit."""
    of_kernels = posterior.sum(axis=1).mean(axis=1)
    weights = of_kernels @ grid.weights[kept]
    named = zip((*_GRID, "features"), weights, strict=False)
    return {name: round(float(w), 3) for name, w in named if w}
