"""Residual of combinations: a smooth function of the prediction and of the effects of the parts, gene by gene.

The kernel compares whole conditions. How two effects on one gene go together, whether they add up, cap at what the gene
can reach or cancel, is alike over genes and conditions, so that one regression over all of them learns it from few
combinations: ridge regression on random Fourier features (Rahimi & Recht 2007) of what predictions from all other
combinations miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, EffectTable
from perturbfm_core.models.perturbfm.agreement import centred_pearson
from perturbfm_core.models.perturbfm.core.other_screens import of_other_screens
from perturbfm_core.models.perturbfm.interventions import active_components, interventions, measured_singles
from perturbfm_core.models.scale import some_rows
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

_FEATURES = 200
# Squared inverse length scale of the features, in units of the inputs' variance times their number.
_BEND = 0.2
# Of ridge regression, per value; the inputs themselves are features too, with this factor.
_PENALTY = 5e-3
_LINEAR = 0.3
# Inputs are divided by half their root mean square and transformed by asinh, so that a few large effects do not dominate.
_HALF = 0.5
# Least deviation after that: what hardly differs in train says nothing of what differs more.
_LEAST_DEVIATION = 0.05
_FOLDS = 4
MIN_COMBINATIONS = 40
# Values that it is fitted on.
_VALUES = 60_000
_CONDITIONS, _BLOCK = 100, 20_000
_SEED = 0
_TINY = 1e-12
_GENE_INPUTS, _CONDITION_INPUTS = 7, 3


def left_out_together(view: TrainView) -> IntArray:
    """Return int64 [n], group of each condition: those of a group are left out together.

    Where a split holds out combinations or perturbations, in whatever context, no other context of theirs is known.
    """
    if view.unit not in ("combo", "perturbation"):
        return np.arange(len(view), dtype=np.int64)
    names = view.conditions[schema.PERT_ID].astype(str).to_numpy(dtype=object)
    groups: IntArray = pd.factorize(names)[0].astype(np.int64)
    return groups


class CombinationResidual:
    """Correction of predicted combinations whose parts train has as singles; zero for all other conditions.

    It is in use where, over four folds of train's combinations, it makes their correlation with the prediction larger by
    more than a standard error, as the gate asks of the network. Beyond the strengths of effects in train it fades out.

    Attributes
    ----------
    gain
        Mean gain in the correlation of train's combinations, less their mean, and its standard error; None where they
        are too few to tell.
    """

    def __init__(self) -> None:
        self.gain: tuple[float, float] | None = None
        self._response = DoseResponse()
        self._singles = EffectTable(CONTEXT_LEVELS)
        # Over train's combinations: mean and root mean square of each gene [2, G].
        self._genes: FloatArray = np.zeros((2, 0))
        # Of each input: half its root mean square; mean and deviation after asinh; least and most of these units.
        self._scale: FloatArray = np.zeros((5, 0))
        self._weights: FloatArray = np.zeros(0)

    @property
    def in_use(self) -> bool:
        """Return whether predictions are corrected."""
        return bool(len(self._weights))

    def fit(self, view: TrainView, left_out: FloatArray, noise: FloatArray) -> CombinationResidual:
        """Fit on train's combinations, and find out whether it helps on those left out.

        Parameters
        ----------
        view
            Train conditions [n], without what is modelled apart.
        left_out
            float [n, G], predictions of the process without the condition and all of its group (see
            `left_out_together`); those of singles do not count.
        noise
            float64 [n], relative noise variance of the conditions.
        """
        other = of_other_screens(view)
        single = measured_singles(view.conditions) & ~other
        if not single.any():
            return self
        self._response = DoseResponse.fit(view)
        amount = interventions(view.conditions[single], self._response).amount
        effects = view.delta[single] / np.maximum(amount, _TINY)[:, None]
        self._singles.fit(view.conditions[single], effects, amount**2)
        known = [(row, part) for row, part in self._known(view.conditions) if not other[row]]
        rows = np.asarray([row for row, _ in known], dtype=np.int64)
        groups = pd.factorize(left_out_together(view)[rows])[0]
        if not len(rows) or groups.max() + 1 < MIN_COMBINATIONS:
            return self
        truth, predicted = (x[rows].astype(np.float64) for x in (view.delta, left_out))
        self._genes = np.stack([truth.mean(axis=0), np.sqrt((truth**2).mean(axis=0))])
        some = some_rows(truth.shape[1], max(1, _VALUES // len(rows)))
        inputs = self._inputs([part for _, part in known], predicted, some)
        self._standardise(inputs)
        features = _features(self._standard(inputs)).reshape(len(rows), len(some), -1)
        weight = noise[rows].mean() / noise[rows]
        self._learn(features, truth[:, some], predicted[:, some], weight, groups)
        return self

    def _learn(
        self,
        features: FloatArray,
        truth: FloatArray,
        predicted: FloatArray,
        weight: FloatArray,
        groups: IntArray,
    ) -> None:
        """Fit on combinations [n, G, features] with their weights and groups [n], where that helps on folds of them."""
        fold = (np.random.default_rng(_SEED).permutation(groups.max() + 1) % _FOLDS)[groups]
        missed, mean = truth - predicted, truth.mean(axis=0)
        # The products of all folds but one are a difference.
        products = [
            _products(features[fold == k], missed[fold == k], weight[fold == k]) for k in range(_FOLDS)
        ]
        gram, product = (np.sum(each, axis=0) for each in zip(*products, strict=True))
        gains = np.zeros(len(truth))
        for k in range(_FOLDS):
            at = fold == k
            own_gram, own_product = products[k]
            weights = _solved(gram - own_gram, product - own_product, missed[~at].size)
            after = predicted[at] + features[at] @ weights
            gains[at] = centred_pearson(after, truth[at], mean) - centred_pearson(
                predicted[at], truth[at], mean
            )
        gains = np.bincount(groups, gains) / np.bincount(groups)
        self.gain = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
        if self.gain[0] > self.gain[1]:
            self._weights = _solved(gram, product, missed.size)

    def predict(self, query: Query, predicted: FloatArray) -> FloatArray:
        """Return float64 [q, G], what is added to predictions [q, G] of the process."""
        out = np.zeros(predicted.shape)
        if not self.in_use:
            return out
        all_genes = np.arange(self._genes.shape[1])
        for row, part in self._known(query.conditions):
            for genes in row_blocks(len(all_genes), _BLOCK):
                at = all_genes[genes]
                units = self._standard(self._inputs([part], predicted[[row]].astype(np.float64), at))
                out[row, genes] = self._trust(units[0]) * (_features(self._clipped(units)) @ self._weights)
        return out

    def _known(self, conditions: pd.DataFrame) -> Iterator[tuple[int, FloatArray]]:
        """Yield the combinations whose parts are all known as singles, and the effects of their parts [parts, G]."""
        owner = active_components(conditions)[1]
        combined = np.flatnonzero(np.bincount(owner, minlength=len(conditions)) > 1)
        for block in row_blocks(len(combined), _CONDITIONS):
            asked = conditions.iloc[combined[block]]
            table, owner = active_components(asked)
            effects, found = self._singles.look_up(table)
            effects *= interventions(asked, self._response).amount[:, None].astype(np.float32)
            for i, row in enumerate(combined[block]):
                at = owner == i
                if found[at].all():
                    yield int(row), effects[at]

    def _inputs(self, parts: Sequence[FloatArray], predicted: FloatArray, genes: IntArray) -> FloatArray:
        """Return float64 [n, genes, inputs]: values of the gene, then strengths and mean cosine of the parts as wholes."""
        mean, spread = self._genes[:, genes]
        out = np.empty((len(parts), len(genes), _GENE_INPUTS + _CONDITION_INPUTS))
        for i, (whole, p) in enumerate(zip(parts, predicted[:, genes], strict=True)):
            sizes = np.sort(np.linalg.norm(whole.astype(np.float64), axis=1))
            squares = float((sizes**2).sum())
            crossed = float(sizes.sum() ** 2) - squares
            # The mean cosine of the parts, 0 where all but one have no effect.
            inner = float((whole.sum(axis=0, dtype=np.float64) ** 2).sum()) - squares
            alike = float(np.clip(inner / crossed, -1.0, 1.0)) if crossed > 1e-6 * squares else 0.0
            effects = whole[:, genes].astype(np.float64)
            total = effects.sum(axis=0)
            largest = np.take_along_axis(effects, np.abs(effects).argmax(axis=0)[None], axis=0)[0]
            of_gene = (p, largest, total - largest, total, p - total, mean, spread)
            for j, column in enumerate((*of_gene, sizes[0], sizes[-1], alike)):
                out[i, :, j] = column
        return out

    def _standardise(self, inputs: FloatArray) -> None:
        flat = inputs.reshape(-1, inputs.shape[-1])
        half = np.maximum(_HALF * np.sqrt((flat**2).mean(axis=0)), _TINY)
        bent = np.arcsinh(flat / half)
        mean, deviation = bent.mean(axis=0), np.maximum(bent.std(axis=0), _LEAST_DEVIATION)
        units = (bent - mean) / deviation
        self._scale = np.stack([half, mean, deviation, units.min(axis=0), units.max(axis=0)])

    def _standard(self, inputs: FloatArray) -> FloatArray:
        """Return float32 [values, inputs] of inputs [n, G, inputs], in units of train."""
        half, mean, deviation = self._scale[:3].astype(np.float32)
        flat = inputs.reshape(-1, inputs.shape[-1]).astype(np.float32)
        return np.asarray((np.arcsinh(flat / half) - mean) / deviation)

    def _clipped(self, units: FloatArray) -> FloatArray:
        return np.clip(units, *self._scale[3:].astype(np.float32))

    def _trust(self, units: FloatArray) -> float:
        """Return 1 where strengths and cosine of the parts [inputs] lie within those of train, less the farther they do not."""
        beyond = (units - self._clipped(units))[_GENE_INPUTS:]
        return float(np.exp(-(beyond**2).sum()))

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names; none where predictions are not corrected."""
        if not self.in_use:
            return {}
        return {
            f"{prefix}.weights": self._weights,
            f"{prefix}.genes": self._genes,
            f"{prefix}.scale": self._scale,
            **self._singles.arrays(f"{prefix}.singles"),
        }

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.gain": self.gain,
            f"{prefix}.response": self._response.meta(),
            **(self._singles.meta(f"{prefix}.singles") if self.in_use else {}),
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned; earlier fits had none.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        """
        gain = meta.get(f"{prefix}.gain")
        self.gain = None if gain is None else (float(gain[0]), float(gain[1]))
        if f"{prefix}.weights" in arrays:
            self._weights, self._genes, self._scale = (
                arrays[f"{prefix}.{name}"] for name in ("weights", "genes", "scale")
            )
            self._response = DoseResponse.restored(meta, f"{prefix}.")
            self._singles.restore(f"{prefix}.singles", arrays, meta)


def _features(units: FloatArray) -> FloatArray:
    """Return float32 [values, features] of standardised inputs [values, inputs]."""
    k = units.shape[1]
    draw = np.random.default_rng(_SEED)
    directions = (draw.normal(size=(k, _FEATURES)) * np.sqrt(2.0 * _BEND / k)).astype(np.float32)
    shifts = draw.uniform(0.0, 2.0 * np.pi, _FEATURES).astype(np.float32)
    waves = np.cos(units @ directions + shifts)
    return np.concatenate([waves, np.float32(_LINEAR) * units, np.ones((len(units), 1), np.float32)], axis=1)


def _products(features: FloatArray, missed: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return X' W X and X' W y of the features [n, G, k] and what is missed [n, G], each condition with its weight [n]."""
    root = np.sqrt(weight)[:, None]
    X = (features * root[..., None].astype(np.float32)).reshape(-1, features.shape[-1])
    return (X.T @ X).astype(np.float64), X.T @ (missed * root).ravel().astype(np.float32)


def _solved(gram: FloatArray, product: FloatArray, values: float) -> FloatArray:
    """Return the weights of ridge regression; the penalty grows with the number of values."""
    return np.asarray(np.linalg.solve(gram + _PENALTY * values * np.eye(len(gram)), product))
