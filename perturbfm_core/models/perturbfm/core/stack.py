"""The core: a convex combination of the set process and the baselines, weighted by out-of-fold errors.

The network never sees a prediction of a condition by a member that was fitted on it: it is trained on the
delta minus the out-of-fold core. The same rows determine stack weights, gate and calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_parts
from perturbfm_core.graphs.donor import DonorEffects
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.baselines.additive import Additive
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.dose_interpolation import DoseInterpolation
from perturbfm_core.models.baselines.dose_response import labels_of
from perturbfm_core.models.baselines.effects import is_single
from perturbfm_core.models.baselines.fold_change_ridge import FoldChangeRidge
from perturbfm_core.models.baselines.fold_changes import has_levels
from perturbfm_core.models.baselines.means import (
    ContextGeneral,
    ControlOnly,
    GlobalMean,
    PerPerturbationContextMean,
    PerPerturbationMean,
)
from perturbfm_core.models.baselines.ridge import RidgeRegression
from perturbfm_core.models.baselines.scaled_additive import ScaledAdditive
from perturbfm_core.models.baselines.set_kernel_ridge import SetKernelRidge
from perturbfm_core.models.baselines.transfer_ridge import TransferRidge
from perturbfm_core.models.perturbfm.core.direct_effect import Direct
from perturbfm_core.models.perturbfm.core.donor_process import DonorProcess
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess, relative_weights
from perturbfm_core.models.perturbfm.core.gene_process import GeneProcess, applies
from perturbfm_core.models.perturbfm.core.strata_weights import (
    ALL,
    MIN_UNITS,
    StratumErrors,
    error_products_of_strata,
    summed,
    weights_of_strata,
)
from perturbfm_core.models.perturbfm.core.weights import weights_of_few
from perturbfm_core.models.perturbfm.interventions import active_query
from perturbfm_core.models.scale import USUAL, Scale, some_held
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.split import units_of
from perturbfm_core.splits.view import Query, TrainView

# Classes rather than names, so that code digests, which follow imports, include the code of the baselines.
_KINDS: tuple[type[Baseline], ...] = (
    ControlOnly,
    GlobalMean,
    PerPerturbationMean,
    DoseInterpolation,
    Additive,
    ScaledAdditive,
    ContextGeneral,
    RidgeRegression,
    FoldChangeRidge,
    SetKernelRidge,
)
BASELINES = tuple(kind.name for kind in _KINDS)
_OF_CONTROLS = {kind.name for kind in _KINDS if kind.requires.controls}
PROCESS = "set_process"
# The same process with the donors' conditions.
LENT = "donor_process"
# The same process with a kernel of each gene.
OF_GENES = "gene_process"


@dataclass(frozen=True, eq=False)
class CoreFold:
    """The core on one inner fold.

    Attributes
    ----------
    fit, held
        bool [n], conditions that it was fitted on, and held-out conditions that it predicts.
    mean, var
        float32 [held, G], core, and its variance by the set process, from members that did not see these
        conditions.
    best
        float32 [held, G], prediction of the single best member.
    """

    fit: BoolArray
    held: BoolArray
    mean: FloatArray
    var: FloatArray
    best: FloatArray


class Core:
    """A stack of members with one weight vector per stratum.

    Parameters
    ----------
    members
        Names of registered baselines; those that require controls are left out where train has none, or z-scores.
    tables
        Gene features for the set process.
    direct
        How the set process models effects on the targets themselves.
    donors
        {name: effects of another data set}; if there are any and there are members, `TransferRidge` and
        `DonorProcess` are two more.
    scale
        Sizes beyond which members approximate, and weights come from some of the held-out conditions.
    """

    def __init__(
        self,
        members: Sequence[str] = BASELINES,
        tables: Sequence[GeneFeatures] = (),
        direct: Direct = "none",
        donors: Mapping[str, DonorEffects] | None = None,
        scale: Scale = USUAL,
    ) -> None:
        self.scale = scale
        self.donors = dict(donors or {})
        self.names = [*members, *([TransferRidge.name, LENT] if members and self.donors else []), PROCESS]
        self.process = SetProcess(tables, direct, scale=scale)
        self.lent = DonorProcess(tables, direct, self.donors, scale)
        self.of_genes: GeneProcess | None = None
        self.weights: dict[str, FloatArray] = {}
        self.best = PROCESS
        self.errors: dict[str, float] = {}
        self.folds: list[CoreFold] = []
        self._known: set[str] = set()
        self._fitted: dict[str, Baseline] = {}

    def fit(self, view: TrainView, seed: int) -> Core:
        """Predict the inner folds, fit the stack weights, then fit the members on all conditions."""
        if not has_levels(view):
            self.names = [n for n in self.names if n not in _OF_CONTROLS]
        self.process.choose(view)
        if len(self.names) > 1 and applies(self.process.kernel, len(view)) and _units(view) >= MIN_UNITS:
            self.names.insert(-1, OF_GENES)
        if LENT in self.names:
            self.lent.choose(view)
        self._known = _known_singles(view)
        judged = some_held(view, self.scale.held) if self.scale.approximates(len(view)) else view
        per_fold = [self._predict_fold(judged, j, seed) for j in range(len(judged.inner))]
        self._weigh(judged, per_fold)
        used = self._used()
        self._fitted = {
            name: self._fit_baseline(name, view, seed) for name in used if name not in (LENT, OF_GENES)
        }
        self.process.fit(view)
        if OF_GENES in used:
            self.of_genes = GeneProcess(self.process).fit(view)
        if LENT in used:
            self.lent.fit(view)
        return self

    def _fit_baseline(self, name: str, view: TrainView, seed: int) -> Baseline:
        model = _new_baseline(name, [str(g) for g in view.genes], self.donors)
        model.scale = self.scale
        model._fit(view, seed)
        return model

    def _used(self) -> list[str]:
        """Return the members beside the process that have weight in any stratum."""
        total = np.sum(list(self.weights.values()), axis=0)
        return [n for n, w in zip(self.names, total, strict=True) if w > 0 and n != PROCESS]

    def _predict_fold(self, view: TrainView, j: int, seed: int) -> tuple[FloatArray, FloatArray, list[str]]:
        """Return [members, held, G] means, [held, G] variance of the process, strata of the held-out rows."""
        fit, held = view.inner[j]
        part, query = view.subset(fit), view.subset(held).query()
        mean, var = self.process.for_fold(view, j).predict(query)

        def member(name: str) -> FloatArray:
            if name == LENT:
                return _or_else(self.lent.for_fold(view, j).predict(query), mean)
            if name == OF_GENES:
                return GeneProcess(self.process).fit(part).predict(query)
            return self._fit_baseline(name, part, seed)._mean(query)

        means = [member(name) for name in self.names[:-1]]
        return (
            np.stack([*(np.asarray(m, dtype=np.float32) for m in means), mean]),
            var,
            _strata(query, _known_singles(part)),
        )

    def _weigh(self, view: TrainView, per_fold: list[tuple[FloatArray, FloatArray, list[str]]]) -> None:
        k = len(self.names)
        if not per_fold:
            self.weights = {ALL: np.eye(k)[-1]}
            return
        grams: list[dict[str, StratumErrors]] = []
        centre = view.delta.mean(axis=0)
        for (_, held), (means, _, strata) in zip(view.inner, per_fold, strict=True):
            truth = view.delta[held]
            weight = relative_weights(truth - centre)
            units = units_of(view.conditions[held], view.unit)
            grams.append(error_products_of_strata(means - truth[None], weight, strata, units))
        total = summed(grams)
        self.weights, best = weights_of_strata(total, k)
        self.best = self.names[best]
        few = len(total[ALL][2]) < MIN_UNITS
        if few:
            self.weights = {ALL: weights_of_few([g[ALL][0] for g in grams])}
        gram = total[ALL][0]
        self.errors = {n: float(gram[i, i] / max(total[ALL][1][0], 1)) for i, n in enumerate(self.names)}
        for j, ((fit, held), (means, var, strata)) in enumerate(zip(view.inner, per_fold, strict=True)):
            # Cross-fitting: the weights for a fold are fitted on the other folds, so that its predictions
            # stay out of fold.
            rest = [g for i, g in enumerate(grams) if i != j] if len(grams) > 1 else grams
            crossed, crossed_best = weights_of_strata(summed(rest), k)
            if few:
                crossed = {ALL: weights_of_few([g[ALL][0] for g in rest])}
            W = np.asarray([crossed.get(s, crossed[ALL]) for s in strata], dtype=np.float32)
            mean = np.einsum("hk,khg->hg", W, means, optimize=True)
            self.folds.append(CoreFold(fit, held, mean, var, means[crossed_best]))

    def predict(self, query: Query) -> tuple[FloatArray, FloatArray]:
        """Return float32 [q, G] each: mean, and variance of the noise-free delta by the set process."""
        query, unperturbed = active_query(query)
        process, var = self.process.predict(query)
        strata = _strata(query, self._known)
        W = np.asarray([self.weights.get(s, self.weights[ALL]) for s in strata], dtype=np.float32)
        out = W[:, [-1]] * process
        for i, name in enumerate(self.names[:-1]):
            if name == LENT and W[:, i].any():
                out += W[:, [i]] * _or_else(self.lent.predict(query), process)
            if name == OF_GENES and self.of_genes is not None and W[:, i].any():
                out += W[:, [i]] * self.of_genes.predict(query)
            if name in self._fitted and W[:, i].any():
                out += W[:, [i]] * np.asarray(self._fitted[name]._mean(query), dtype=np.float32)
        out[unperturbed] = 0.0
        return out, var

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        out = self.process.arrays(f"{prefix}.{PROCESS}")
        for name, model in self._fitted.items():
            out.update({f"{prefix}.{name}.{k}": v for k, v in model.arrays().items()})
        if LENT in self.names:
            out.update(self.lent.arrays(f"{prefix}.{LENT}"))
        if self.of_genes is not None:
            out.update(self.of_genes.arrays(f"{prefix}.{OF_GENES}"))
        return out

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.weights": {k: v.tolist() for k, v in self.weights.items()},
            f"{prefix}.names": self.names,
            f"{prefix}.known": sorted(self._known),
            f"{prefix}.members": {name: model.meta() for name, model in self._fitted.items()},
            **self.process.meta(f"{prefix}.{PROCESS}"),
            **(self.lent.meta(f"{prefix}.{LENT}") if LENT in self.names else {}),
            **({} if self.of_genes is None else self.of_genes.meta(f"{prefix}.{OF_GENES}")),
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
        self.names = list(meta[f"{prefix}.names"])
        self.weights = {k: np.asarray(v) for k, v in meta[f"{prefix}.weights"].items()}
        self._known = set(meta[f"{prefix}.known"])
        self.process.restore(f"{prefix}.{PROCESS}", arrays, meta, genes)
        if LENT in self.names:
            self.lent.restore(f"{prefix}.{LENT}", arrays, meta, genes)
        if f"{prefix}.{OF_GENES}.parts" in meta:
            self.of_genes = GeneProcess(self.process)
            self.of_genes.restore(f"{prefix}.{OF_GENES}", arrays, meta, genes)
        for name, state in meta[f"{prefix}.members"].items():
            model = _new_baseline(name, genes)
            head = f"{prefix}.{name}."
            model.restore({k[len(head) :]: v for k, v in arrays.items() if k.startswith(head)}, state)
            self._fitted[name] = model

    def summary(self) -> dict[str, Any]:
        """Return the summary for ``training.json``."""
        return {
            "members": {
                stratum: {n: round(float(w), 4) for n, w in zip(self.names, weights, strict=True) if w > 0}
                for stratum, weights in self.weights.items()
            },
            "best_baseline": self.best,
            "relative_error": self.errors,
            "set_process": self.process.choice,
            **({"donor_process": self.lent.summary()} if LENT in self.names else {}),
            **({} if self.of_genes is None else {"gene_process": self.of_genes.summary}),
        }


def _or_else(found: FloatArray, other: FloatArray) -> FloatArray:
    """Return the values found, and others where there are none."""
    return np.where(np.isnan(found), other, found).astype(np.float32)


def _new_baseline(name: str, genes: list[str], donors: Mapping[str, DonorEffects] | None = None) -> Baseline:
    """Return an unfitted baseline of the stack."""
    if name == TransferRidge.name:
        model: Baseline = TransferRidge(TransferRidge.Params(borrow=tuple(donors or {})))
        model.side_info = SideInfo(donors=donors or {})
    else:
        # Earlier fits may have the mean without interpolation.
        kinds: tuple[type[Baseline], ...] = (*_KINDS, PerPerturbationContextMean)
        model = next(kind for kind in kinds if kind.name == name)()
    model.genes = genes
    return model


def _units(view: TrainView) -> int:
    """Return the number of units that inner folds hold out."""
    held = np.any([h for _, h in view.inner], axis=0) if len(view.inner) else np.zeros(len(view), dtype=bool)
    units = units_of(view.conditions[held], view.unit)
    return len({u for of_row in units for u in of_row} or units)


def _known_singles(view: TrainView) -> set[str]:
    return set(labels_of(view.conditions[is_single(view.conditions)]))


def _strata(query: Query, known: set[str]) -> list[str]:
    """Return the stratum of each condition: number of perturbed genes, and how many train has alone, by modality."""
    rows = query.conditions[[schema.PERT_ID, schema.MODALITY]].astype(str).itertuples(index=False)
    # Earlier fits know names alone.
    found = [[f"{x}|{how}" in known or x in known for x in pert_parts(pert)] for pert, how in rows]
    return [f"{len(parts)} perturbed, {sum(parts)} seen" for parts in found]


def folds_of(core: Core) -> tuple[IntArray, IntArray]:
    """Return int64 ([m] condition, [m] fold) of every out-of-fold row of a fitted core, fold by fold."""
    rows = [np.flatnonzero(f.held) for f in core.folds]
    if not rows:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(r) for r in rows])
