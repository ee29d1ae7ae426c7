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
from perturbfm_core.models.perturbfm.core.weights import (
    best_member,
    error_products,
    simplex_weights,
    weights_of_few,
)
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
# A stratum with fewer units than this has no weights of its own; with fewer in total see `weights_of_few`.
MIN_UNITS = 10
# Strength of shrinkage to the single best member, in numbers of units.
_SHRINK_UNITS = 10.0
_ALL = "all"


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
        if LENT in self.names:
            self.lent.choose(view)
        self._known = _known_singles(view)
        judged = some_held(view, self.scale.held) if self.scale.approximates(len(view)) else view
        per_fold = [self._predict_fold(judged, j, seed) for j in range(len(judged.inner))]
        self._weigh(judged, per_fold)
        used = self._used()
        self._fitted = {name: self._fit_baseline(name, view, seed) for name in used if name != LENT}
        self.process.fit(view)
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
            self.weights = {_ALL: np.eye(k)[-1]}
            return
        grams: list[dict[str, tuple[FloatArray, FloatArray, set[str]]]] = []
        centre = view.delta.mean(axis=0)
        for (_, held), (means, _, strata) in zip(view.inner, per_fold, strict=True):
            truth = view.delta[held]
            weight = relative_weights(truth - centre)
            units = units_of(view.conditions[held], view.unit)
            grams.append(_grams(means - truth[None], weight, strata, units))
        total = _sum(grams)
        self.weights, best = _stack(total, k)
        self.best = self.names[best]
        few = len(total[_ALL][2]) < MIN_UNITS
        if few:
            self.weights = {_ALL: weights_of_few([g[_ALL][0] for g in grams])}
        gram = total[_ALL][0]
        self.errors = {n: float(gram[i, i] / max(total[_ALL][1][0], 1)) for i, n in enumerate(self.names)}
        for j, ((fit, held), (means, var, strata)) in enumerate(zip(view.inner, per_fold, strict=True)):
            # Cross-fitting: the weights for a fold are fitted on the other folds, so that its predictions
            # stay out of fold.
            rest = [g for i, g in enumerate(grams) if i != j] if len(grams) > 1 else grams
            crossed, crossed_best = _stack(_sum(rest), k)
            if few:
                crossed = {_ALL: weights_of_few([g[_ALL][0] for g in rest])}
            W = np.asarray([crossed.get(s, crossed[_ALL]) for s in strata], dtype=np.float32)
            mean = np.einsum("hk,khg->hg", W, means, optimize=True)
            self.folds.append(CoreFold(fit, held, mean, var, means[crossed_best]))

    def predict(self, query: Query) -> tuple[FloatArray, FloatArray]:
        """Return float32 [q, G] each: mean, and variance of the noise-free delta by the set process."""
        query, unperturbed = active_query(query)
        process, var = self.process.predict(query)
        strata = _strata(query, self._known)
        W = np.asarray([self.weights.get(s, self.weights[_ALL]) for s in strata], dtype=np.float32)
        out = W[:, [-1]] * process
        for i, name in enumerate(self.names[:-1]):
            if name == LENT and W[:, i].any():
                out += W[:, [i]] * _or_else(self.lent.predict(query), process)
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


def _known_singles(view: TrainView) -> set[str]:
    return set(labels_of(view.conditions[is_single(view.conditions)]))


def _strata(query: Query, known: set[str]) -> list[str]:
    """Return the stratum of each condition: number of perturbed genes, and how many train has alone, by modality."""
    rows = query.conditions[[schema.PERT_ID, schema.MODALITY]].astype(str).itertuples(index=False)
    # Earlier fits know names alone.
    found = [[f"{x}|{how}" in known or x in known for x in pert_parts(pert)] for pert, how in rows]
    return [f"{len(parts)} perturbed, {sum(parts)} seen" for parts in found]


Gram = tuple[FloatArray, FloatArray, set[str]]


def _grams(
    errors: FloatArray, weight: FloatArray, strata: list[str], units: list[tuple[str, ...]]
) -> dict[str, Gram]:
    """Return products of the members' weighted errors, number of rows, and units, per stratum and over all.

    For mixture weights w the squared error is w' gram w, so that the [k, k] products are all that fitting
    needs.
    """
    k = len(errors)
    row = np.asarray(strata)
    out: dict[str, Gram] = {}
    for name in [_ALL, *sorted(set(strata))]:
        at = np.flatnonzero(row == name) if name != _ALL else np.arange(len(row))
        E = errors[:, at] * np.sqrt(weight[at]).astype(np.float32)[None, :, None]
        flat = E.reshape(k, -1)
        found = {u for i in at for u in units[i]} or {str(i) for i in at}
        out[name] = (
            error_products(flat) if name != _ALL else np.zeros((k, k)),
            np.asarray([float(len(at))]),
            found,
        )
    out[_ALL] = (np.sum([g[0] for n, g in out.items() if n != _ALL], axis=0), out[_ALL][1], out[_ALL][2])
    return out


def _sum(grams: Sequence[dict[str, Gram]]) -> dict[str, Gram]:
    out: dict[str, Gram] = {}
    for one in grams:
        for name, (gram, n, units) in one.items():
            if name in out:
                out[name] = (out[name][0] + gram, out[name][1] + n, out[name][2] | units)
            else:
                out[name] = (gram, n, units)
    return out


def _stack(grams: dict[str, Gram], k: int) -> tuple[dict[str, FloatArray], int]:
    """Return ({stratum: weights [k]}, the member that is best alone).

    The weights minimise the error of the mixture under the constraints w >= 0 and sum 1, and are shrunk to
    the single best member of the stratum. A stratum with few units takes the weights of all; with few units
    in total the best member stands alone (but see `weights_of_few`).
    """
    best = best_member(grams[_ALL][0])
    out = {_ALL: np.eye(k)[best]}
    if len(grams[_ALL][2]) < MIN_UNITS:
        return out, best
    for name, (gram, _, units) in grams.items():
        if len(units) < MIN_UNITS:
            continue
        alone = np.eye(k)[best_member(gram)]
        share = _SHRINK_UNITS / (len(units) + _SHRINK_UNITS)
        mixed = (1.0 - share) * simplex_weights(gram) + share * alone
        out[name] = np.where(mixed < 1e-3, 0.0, mixed) / mixed[mixed >= 1e-3].sum()
    return out, best


def folds_of(core: Core) -> tuple[IntArray, IntArray]:
    """Return int64 ([m] condition, [m] fold) of every out-of-fold row of a fitted core, fold by fold."""
    rows = [np.flatnonzero(f.held) for f in core.folds]
    if not rows:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(r) for r in rows])
