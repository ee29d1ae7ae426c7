"""Set process: the Gaussian process over interventions that every PerturbFM core rests on.

A condition is a set of perturbed genes in a context. Two conditions are similar if they perturb the same
genes, genes with similar measured effects or genes with similar features, in similar contexts (see
`SimilarityKernel`). The process models deltas minus a mean and minus the direct effects on the targets
themselves; every gene has its own noise level, and every condition its own precision:

    delta_g - mean_g - direct_g ~ N(0, K + lambda_g diag(noise))

up to a scale per gene, with K [n, n] the kernel of the train conditions. Kernel weights (a preset of
`PRESETS`) and noise levels are those with the smallest error on inner folds, which hold out whole units.
Errors are relative to the size of the condition's effect, so that a few strong effects do not decide alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.perturbfm.core.condition_noise import DEFAULT_LEVEL
from perturbfm_core.models.perturbfm.core.direct_effect import Direct, DirectEffect
from perturbfm_core.models.perturbfm.core.exact import ExactSolver, ExactTrain, condition_noise
from perturbfm_core.models.perturbfm.core.inducing import InducingTrain
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import PRESETS, Kernel
from perturbfm_core.models.perturbfm.core.noise_levels import LAMBDAS, POOLING, crossed_score, noise_levels
from perturbfm_core.models.perturbfm.core.other_screens import (
    apart,
    centred,
    least_errors,
    of_other_screens,
    sure_of_borrowing,
)
from perturbfm_core.models.perturbfm.core.strata_mean import StrataMean
from perturbfm_core.models.perturbfm.core.table_weights import likeliest_weights
from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.models.scale import USUAL, Scale, sample_of, some_rows
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

_SIMPLER: dict[Direct, tuple[Direct, ...]] = {
    "none": ("none",),
    "constant": ("none", "constant"),
    "state": ("none", "constant", "state"),
}

# Conditions on which the weights of feature tables are learned.
TABLE_CONDITIONS = 400
# Least and greatest weight of shared genes beside feature tables of weight 1.
_IDENTITY = (0.01, 10.0)
_CONTEXT_SHARES = ((0.0, 0.0), (0.3, 0.3), (0.7, 0.3))
# Share of the effects that is a time point's own, or that of other covariates.
_COVARIATE_SHARES = (0.3, 0.7)
# With conditions of other screens, which may have nothing in common with train.
_SCREEN_SHARES = (*_CONTEXT_SHARES, (1.0, 0.0))


class SetProcess:
    """A Gaussian process over interventions.

    Parameters
    ----------
    tables
        Gene-feature tables, for genes whose effects were not measured.
    direct
        How effects on the targets themselves may be modelled apart: not at all, as a constant per modality,
        or as a function of the target's control expression (see `DirectEffect`). Inner folds may choose a
        simpler model than this.
    presets
        Kernel weights to choose from (default: those of `PRESETS` that the data can distinguish).
    scale
        Sizes beyond which the process is conditioned by inducing conditions, and its options are chosen on some
        conditions, at fixed noise.
    """

    def __init__(
        self,
        tables: Sequence[GeneFeatures] = (),
        direct: Direct = "none",
        presets: Sequence[Kernel] | None = None,
        scale: Scale = USUAL,
    ) -> None:
        self.scale = scale
        self.tables = tuple(tables)
        self.direct: Direct = direct
        self.presets = None if presets is None else tuple(presets)
        self._targets: DirectEffect | None = None
        self._fold_errors: FloatArray | None = None
        self.kernel = PRESETS[0]
        self.pooling = POOLING[-1]
        self.lambdas: FloatArray = np.zeros(0)
        self.similarity = SimilarityKernel(self.tables, self.scale)
        self.mean = StrataMean()
        self.given: ExactTrain | InducingTrain = ExactTrain(self.similarity, self.kernel)
        self.choice: dict[str, Any] = {}

    @property
    def noise(self) -> FloatArray:
        """Return float64 [n], the relative noise variance of each train condition."""
        return self.given.noise

    @property
    def _scale(self) -> FloatArray:
        return self.given.scale

    # ---- choosing ------------------------------------------------------------------------------------

    def choose(self, view: TrainView) -> SetProcess:
        """Choose kernel, noise levels and model of direct effects on the inner folds of the view.

        With fewer than two inner folds, defaults are kept. Of many conditions, kernel and direct effects are chosen on
        some conditions and genes, and the noise levels on these conditions, which all count as equally precise.
        """
        some = self.scale.approximates(len(view))
        n = len(view)
        view = sample_of(view, self.scale.sample) if some else view
        presets = self._candidates(view)
        self.lambdas = np.full(len(view.genes), DEFAULT_LEVEL)
        self.kernel, self.pooling = presets[-1], POOLING[-1]
        if len(view.inner) < 2:
            self.choice = {"by": "default", **self._described()}
            return self
        genes = some_rows(len(view.genes), self.scale.genes) if some else None
        options, errors = list[tuple[Direct, Kernel]](), list[FloatArray]()
        for direct in _SIMPLER[self.direct]:
            options += [(direct, kernel) for kernel in presets]
            errors += self._errors(view, direct, presets, genes, equal=some)
        scores = np.asarray([[crossed_score(e, p) for p in POOLING] for e in errors])
        best, pooling = map(int, np.unravel_index(int(np.argmin(scores)), scores.shape))
        borrows = bool(of_other_screens(view).any())
        if borrows:
            alone = self._errors_of_train(view, genes, equal=some)
            best, pooling = sure_of_borrowing(options, errors, scores, (best, pooling), alone)
        self.direct, self.kernel = options[best]
        self.pooling, self._fold_errors = POOLING[pooling], errors[best]
        least = float(scores[best, pooling])
        # Tables that all count alike may do worse than none; with their own weights they are tried once more.
        featured = [i for i, (_, kernel) in enumerate(options) if kernel.features and not borrows]
        of_tables = min(featured, key=lambda i: scores[i].min(), default=best)
        for i in dict.fromkeys((best, of_tables)):
            direct, kernel = options[i]
            weighed = self._weighed(view, direct, kernel)
            if weighed == kernel:
                continue
            (found,) = self._errors(view, direct, [weighed], genes, equal=some)
            of_pooling = [crossed_score(found, p) for p in POOLING]
            if min(of_pooling) < least:
                least, self._fold_errors = min(of_pooling), found
                self.direct, self.kernel = direct, weighed
                self.pooling = POOLING[int(np.argmin(of_pooling))]
        if genes is not None:
            (self._fold_errors,) = self._errors(view, self.direct, [self.kernel], None, equal=True)
        self.lambdas = noise_levels(self._fold_errors.sum(axis=0), self.pooling)
        self.choice = {
            "by": f"{len(view.inner)} inner folds" + (f" of {len(view)} of {n} conditions" if some else ""),
            **self._described(),
            "direct": self.direct,
            "pooling": self.pooling,
            "relative_error": least,
            **({"inducing": min(n, self.scale.inducing)} if some else {}),
        }
        return self

    def _described(self) -> dict[str, Any]:
        """Return the weights of the kernel, those of tables by name where they are not alike."""
        weights = zip((t.name for t in self.tables), self.kernel.tables, strict=False)
        return {**asdict(self.kernel), "tables": dict(weights)}

    def _candidates(self, view: TrainView) -> list[Kernel]:
        if self.presets is not None:
            return list(self.presets)
        space = SimilarityKernel(self.tables, self.scale).fit(view)
        kept = [k for k in PRESETS if space.can(k)]
        shares = [(0.0, 0.0, 0.0)]
        if space.contexts > 1:
            of_contexts = _SCREEN_SHARES if of_other_screens(view).any() else _CONTEXT_SHARES
            shares = [(*share, 0.0) for share in of_contexts]
        # Shares of both would be too many to try.
        if view.conditions[~of_other_screens(view)][schema.COVARIATES].nunique() > 1:
            shares += [(0.0, 0.0, share) for share in _COVARIATE_SHARES]
        return [replace(k, context=c, level=level, covariates=v) for k in kept for c, level, v in shares]

    def _weighed(self, view: TrainView, direct: Direct, kernel: Kernel) -> Kernel:
        """Return a kernel with the weights of its tables that make the train deltas most likely.

        Where it has no other part than shared genes, their weight beside the tables is found with them. Parts that are
        made of the effects themselves would explain everything, so that the weights beside them are left as they are.
        """
        made_of_effects = bool(kernel.effect or kernel.pair or kernel.linear)
        if not kernel.features or (made_of_effects and len(self.tables) < 2):
            return kernel
        # Weights are few, so that some conditions tell them.
        part, _ = apart(sample_of(view, TABLE_CONDITIONS), direct)
        space = SimilarityKernel(self.tables, self.scale).fit(part)
        _, residual = centred(part, by_size=kernel.by_size)
        blocks = space.blocks()
        alone = [tuple(float(i == j) for j in range(len(self.tables))) for i in range(len(self.tables))]
        tables = [
            blocks(
                replace(
                    kernel, identity=0.0, effect=0.0, pair=0.0, linear=0.0, level=0.0, features=1.0, tables=t
                )
            )
            for t in alone
        ]
        rest = blocks(replace(kernel, features=0.0))
        rows = residual * np.sqrt(relative_weights(residual))[:, None]
        weights, beside = likeliest_weights(tables, rest, rows)
        found = replace(kernel, tables=weights if len(weights) > 1 else ())
        if made_of_effects:
            return found
        least, most = (x / kernel.identity for x in _IDENTITY)
        ratio = min(max(beside * kernel.features, least), most)
        return replace(
            found, identity=round(kernel.identity * ratio, 6), level=round(kernel.level * ratio, 6)
        )

    def _errors_of_train(self, view: TrainView, genes: IntArray | None, *, equal: bool) -> FloatArray:
        """Return float64 [folds], the errors of the best option without the conditions of other screens.

        Parameters
        ----------
        view, genes, equal
            As of `_errors`.
        """
        own = view.subset(~of_other_screens(view))
        presets = self._candidates(own)
        return least_errors(
            errors
            for direct in _SIMPLER[self.direct]
            for errors in self._errors(own, direct, presets, genes, equal=equal)
        )

    def _errors(
        self,
        view: TrainView,
        direct: Direct,
        presets: Sequence[Kernel],
        genes: IntArray | None,
        *,
        equal: bool,
    ) -> list[FloatArray]:
        """Return float64 [folds, lambdas, G] per preset, summed relative squared errors of held-out rows.

        Parameters
        ----------
        view, direct, presets
            Train conditions, model of direct effects, and kernel weights to try.
        genes
            Positions of the genes whose errors count (default: all).
        equal
            Whether all conditions count as equally precise; else their noise is estimated for each kernel and fold.
        """
        at = slice(None) if genes is None else genes
        shape = (len(view.inner), len(LAMBDAS), len(view.genes) if genes is None else len(genes))
        out: list[FloatArray] = [np.zeros(shape) for _ in presets]
        own = ~of_other_screens(view)
        for j, (fit, held) in enumerate(view.inner):
            part, rest = view.subset(fit), view.subset(held)
            part, targets = apart(part, direct)
            # The predicted direct effect is subtracted from the truth, so that errors are errors of the total
            # delta.
            truth = rest.delta if targets is None else rest.delta - targets.predict(rest.query())
            weight = relative_weights(rest.delta - part.delta[own[fit]].mean(axis=0)).astype(np.float32)[
                :, None
            ]
            space = SimilarityKernel(self.tables, self.scale).fit(part)
            train, cross = space.blocks(), space.blocks(rest.query())
            # All presets share the components of the kernel, and all noise levels share one
            # eigendecomposition.
            for e, kernel in zip(out, presets, strict=True):
                mean, centred_deltas = centred(part, by_size=kernel.by_size)
                K, residual = train(kernel), centred_deltas[:, at]
                solver = ExactSolver(
                    K, residual, np.ones(len(part)) if equal else condition_noise(K, residual)
                )
                C, target = cross(kernel), (truth - mean.predict(rest.query()))[:, at]
                for i, lam in enumerate(LAMBDAS):
                    e[j, i] = (weight * (target - solver.predict(C, lam)) ** 2).sum(axis=0)
        return out

    # ---- fitting and predicting ------------------------------------------------------------------------

    def fit(self, view: TrainView, lambdas: FloatArray | None = None) -> SetProcess:
        """Fit on a view with the chosen kernel and noise levels (default: the current ones)."""
        if lambdas is not None:
            self.lambdas = lambdas
        view, self._targets = apart(view, self.direct)
        self.similarity = SimilarityKernel(self.tables, self.scale).fit(view)
        self.mean, residual = centred(view, by_size=self.kernel.by_size)
        kind = InducingTrain if self.scale.approximates(len(view)) else ExactTrain
        self.given = kind(self.similarity, self.kernel).fit(residual, self.lambdas)
        return self

    def for_fold(self, view: TrainView, fold: int) -> SetProcess:
        """Return the process fitted without the held-out conditions of inner fold `fold`.

        With more than two folds, its noise levels are chosen on the other folds only.
        """
        other = SetProcess(self.tables, self.direct, self.presets, self.scale)
        other.kernel = self.kernel
        levels = self.lambdas
        errors = self._fold_errors
        # Of some conditions only, a fold may have none.
        if errors is not None and 2 < len(errors) == len(view.inner):
            levels = noise_levels(errors.sum(axis=0) - errors[fold], self.pooling)
        return other.fit(view.subset(view.inner[fold][0]), levels)

    def predict(self, query: Query) -> tuple[FloatArray, FloatArray]:
        """Return float32 ([q, G] mean, [q, G] variance of the noise-free delta), in log1p units.

        Without any part above a dose of 0 the mean is 0.
        """
        levels, which = np.unique(self.lambdas, return_inverse=True)
        beyond, explained = self.given.predict(query, levels)
        mean = self.mean.predict(query) + beyond
        if self._targets is not None:
            mean = mean + self._targets.predict(query)
        mean[interventions(query.conditions).sizes == 0] = 0.0
        prior = self.similarity.diagonal(query, self.kernel)
        # Posterior variance k(x, x) - c' (K + lambda D)^-1 c.
        left = np.stack([prior - e for e in explained], axis=1)
        var = np.maximum(left, 1e-6)[:, which] * self.given.scale
        return mean.astype(np.float32), var.astype(np.float32)

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        own = {**self.given.arrays(), "lambdas": self.lambdas}
        return {
            **{f"{prefix}.{k}": v for k, v in own.items()},
            **self.similarity.arrays(f"{prefix}.similarity"),
            **self.mean.arrays(f"{prefix}.mean"),
            **({} if self._targets is None else self._targets.arrays(f"{prefix}.direct")),
        }

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.kernel": asdict(self.kernel),
            f"{prefix}.choice": self.choice,
            f"{prefix}.treated": self.direct,
            **self.similarity.meta(f"{prefix}.similarity"),
            **self.mean.meta(f"{prefix}.mean"),
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
        self.lambdas = arrays[f"{prefix}.lambdas"]
        self.direct = meta[f"{prefix}.treated"]
        kernel = meta[f"{prefix}.kernel"]
        self.kernel = Kernel(**{**kernel, "tables": tuple(kernel["tables"])})
        self.choice = meta[f"{prefix}.choice"]
        self.similarity.restore(f"{prefix}.similarity", arrays, meta)
        kind = InducingTrain if f"{prefix}.inducing" in arrays else ExactTrain
        self.given = kind(self.similarity, self.kernel)
        self.given.restore(
            {k.removeprefix(f"{prefix}."): v for k, v in arrays.items() if k.startswith(f"{prefix}.")}
        )
        self.mean.restore(f"{prefix}.mean", arrays, meta)
        if self.direct != "none":
            self._targets = DirectEffect(state=self.direct == "state")
            self._targets.restore(f"{prefix}.direct", arrays, meta, genes)


def relative_weights(centred: FloatArray) -> FloatArray:
    """Return float64 [n], weights 1 / (squared norm of the row + median squared norm).

    Squared errors with these weights are relative to the size of the effect; the median bounds the weights of
    the smallest effects. `centred` is float [n, G], deltas minus a common mean.
    """
    size = (centred.astype(np.float64) ** 2).sum(axis=1)
    out: FloatArray = 1.0 / (size + np.median(size) + 1e-12)
    return out
