"""Rest that the process leaves of combinations: a smooth function of its prediction and of the effects of the parts, gene by gene.

The kernel compares whole conditions. How two effects on one gene go together, whether they add up, cap at what the gene
can reach or cancel, is alike over genes and conditions, so that one regression over all of them learns it from few
combinations: ridge regression on random Fourier features (Rahimi & Recht 2007), trained on what predictions that leave
a combination out miss of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, EffectTable
from perturbfm_core.models.perturbfm.agreement import centred_pearson
from perturbfm_core.models.perturbfm.core.other_screens import of_other_screens
from perturbfm_core.models.perturbfm.interventions import active_components, interventions, measured_singles
from perturbfm_core.models.scale import some_rows
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

_FEATURES = 200
# Inverse squared length scale of the features, which have unit variance: a function that hardly bends more than twice.
_BEND = 0.2
_PENALTY = 5e-3
_LINEAR = 0.3
# Values are taken by asinh, in half their root mean square: a few large effects would decide else.
_HALF = 0.5
_FOLDS = 4
MIN_COMBINATIONS = 40
# Values that it is learned from, and at a time.
_VALUES = 60_000
_BLOCK = 20_000
_SEED = 0
_TINY = 1e-12


class CombinationResidual:
    """Correction of predicted combinations whose parts train has as singles; zero for all other conditions.

    It is in use where, over four folds of train's combinations, it makes their correlation with the prediction larger by
    more than a standard error, as the gate asks of the network.

    Attributes
    ----------
    gain
        Mean gain in the correlation of train's combinations, less their mean, and its standard error; None where they
        are too few to tell.
    """

    def __init__(self) -> None:
        self.gain: tuple[float, float] | None = None
        self._singles = EffectTable(CONTEXT_LEVELS)
        # Over train's combinations: mean and root mean square of each gene [2, G].
        self._genes: FloatArray = np.zeros((2, 0))
        # Of each input [inputs]: half its root mean square, mean and standard deviation after asinh.
        self._scale: FloatArray = np.zeros((3, 0))
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
            float [n, G], predictions of the process that leave the condition itself out; those of singles do not count.
        noise
            float64 [n], relative noise variance of the conditions.
        """
        single = measured_singles(view.conditions) & ~of_other_screens(view)
        if not single.any():
            return self
        amount = interventions(view.conditions[single]).amount
        effects = view.delta[single] / np.maximum(amount, _TINY)[:, None]
        self._singles.fit(view.conditions[single], effects, amount**2)
        rows, parts = self._known(view.query())
        own = ~of_other_screens(view)[rows]
        rows, parts = rows[own], [part for part, kept in zip(parts, own, strict=True) if kept]
        if len(rows) < MIN_COMBINATIONS:
            return self
        truth, predicted = (x[rows].astype(np.float64) for x in (view.delta, left_out))
        self._genes = np.stack([truth.mean(axis=0), np.sqrt((truth**2).mean(axis=0))])
        some = some_rows(truth.shape[1], max(1, _VALUES // len(rows)))
        inputs = self._inputs(parts, predicted)[:, some]
        self._standardise(inputs)
        features = self._features(inputs).reshape(len(rows), len(some), -1)
        self._learn(features, truth[:, some], predicted[:, some], noise[rows].mean() / noise[rows])
        return self

    def _learn(
        self, features: FloatArray, truth: FloatArray, predicted: FloatArray, weight: FloatArray
    ) -> None:
        """Fit on combinations [n, G, features] with their weights [n], where that helps on folds of them."""
        fold = np.random.default_rng(_SEED).permutation(len(truth)) % _FOLDS
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
        self.gain = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
        if self.gain[0] > self.gain[1]:
            self._weights = _solved(gram, product, missed.size)

    def predict(self, query: Query, predicted: FloatArray) -> FloatArray:
        """Return float64 [q, G], what is added to predictions [q, G] of the process."""
        out = np.zeros(predicted.shape)
        if not self.in_use:
            return out
        rows, parts = self._known(query)
        for row, part in zip(rows, parts, strict=True):
            inputs = self._inputs([part], predicted[[row]].astype(np.float64))
            for start in range(0, inputs.shape[1], _BLOCK):
                out[row, start : start + _BLOCK] = (
                    self._features(inputs[:, start : start + _BLOCK]) @ self._weights
                )
        return out

    def _known(self, query: Query) -> tuple[IntArray, list[FloatArray]]:
        """Return the combinations whose parts are all known as singles, and the effects of their parts [parts, G]."""
        table, owner = active_components(query.conditions)
        effects, found = self._singles.look_up(table)
        effects = effects * interventions(query.conditions).amount[:, None]
        n = np.bincount(owner, minlength=len(query))
        rows = np.flatnonzero((n > 1) & (np.bincount(owner, found, minlength=len(query)) == n))
        return rows, [effects[owner == row].astype(np.float64) for row in rows]

    def _inputs(self, parts: list[FloatArray], predicted: FloatArray) -> FloatArray:
        """Return float64 [n, G, inputs]: values of the gene, then what its whole condition is like."""
        mean, spread = self._genes
        out = np.empty((*predicted.shape, 10))
        for i, (effects, p) in enumerate(zip(parts, predicted, strict=True)):
            total = effects.sum(axis=0)
            largest = np.take_along_axis(effects, np.abs(effects).argmax(axis=0)[None], axis=0)[0]
            sizes = np.sort(np.linalg.norm(effects, axis=1))
            crossed = max(float(sizes.sum() ** 2 - (sizes**2).sum()), _TINY)
            alike = float((total**2).sum() - (sizes**2).sum()) / crossed
            columns = (
                p,
                largest,
                total - largest,
                total,
                p - total,
                mean,
                spread,
                sizes[0],
                sizes[-1],
                alike,
            )
            for j, column in enumerate(columns):
                out[i, :, j] = column
        return out

    def _standardise(self, inputs: FloatArray) -> None:
        flat = inputs.reshape(-1, inputs.shape[-1])
        half = np.maximum(_HALF * np.sqrt((flat**2).mean(axis=0)), _TINY)
        bent = np.arcsinh(flat / half)
        self._scale = np.stack([half, bent.mean(axis=0), np.maximum(bent.std(axis=0), _TINY)])

    def _features(self, inputs: FloatArray) -> FloatArray:
        """Return float32 [values, features] of inputs [n, G, inputs]."""
        half, mean, deviation = self._scale.astype(np.float32)
        flat = inputs.reshape(-1, inputs.shape[-1]).astype(np.float32)
        U = (np.arcsinh(flat / half) - mean) / deviation
        draw = np.random.default_rng(_SEED)
        directions = draw.normal(size=(U.shape[1], _FEATURES)) * np.sqrt(2.0 * _BEND / U.shape[1])
        shifts = draw.uniform(0.0, 2.0 * np.pi, _FEATURES)
        waves = np.cos(U @ directions.astype(np.float32) + shifts.astype(np.float32))
        return np.concatenate([waves, np.float32(_LINEAR) * U, np.ones((len(U), 1), np.float32)], axis=1)

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
            **(self._singles.meta(f"{prefix}.singles") if self.in_use else {}),
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        """
        self.gain = meta[f"{prefix}.gain"]
        if f"{prefix}.weights" in arrays:
            self._weights, self._genes, self._scale = (
                arrays[f"{prefix}.{name}"] for name in ("weights", "genes", "scale")
            )
            self._singles.restore(f"{prefix}.singles", arrays, meta)


def _products(features: FloatArray, missed: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return X' W X and X' W y of the features [n, G, k] and what is missed [n, G], each condition with its weight [n]."""
    root = np.sqrt(weight)[:, None]
    X = (features * root[..., None].astype(np.float32)).reshape(-1, features.shape[-1])
    return (X.T @ X).astype(np.float64), X.T @ (missed * root).ravel().astype(np.float32)


def _solved(gram: FloatArray, product: FloatArray, values: float) -> FloatArray:
    """Return the weights of ridge regression; the penalty grows with the number of values."""
    return np.asarray(np.linalg.solve(gram + _PENALTY * values * np.eye(len(gram)), product))
