"""Weighted conformal intervals: calibration units weighted by their similarity to the query.

Source: Tibshirani et al. 2019 (density ratio), Guan 2023 (localisation by distance). With a known density
ratio the interval would be valid; estimated weights make it approximate. Where too few units carry the
weight, the interval is at least as wide as that of all units, is widened further, and is flagged. Fewer than
10 queries have no density to estimate: they are weighted by distance under either kind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.uncertainty.config import GENE_SCALE, ConformalConfig, Weights
from perturbfm_core.uncertainty.conformal import scores_of
from perturbfm_core.uncertainty.groups import features, novelty, novelty_of_residuals
from perturbfm_core.uncertainty.quantiles import SortedScores, unit_weights

_POINTS = 512
_MIN_QUERIES = 10
_RIDGE = 1.0
_FARTHEST = 50.0


@dataclass(frozen=True, eq=False)
class WeightedConformal:
    """A fitted weighted conformal predictor.

    Attributes
    ----------
    weights, min_effective
        As in the configuration.
    levels
        float64 [L], nominal coverage.
    scores
        float32 [n, bins, points]: the scores of each calibration row and gene bin, as quantiles.
    base
        float64 [n], weight of each row when every unit has the same weight; sums to 1.
    owner
        int64 [n], unit of each row (a row of several units counts as a separate unit).
    features
        float64 [n, F], standardised features of the calibration rows.
    shift, spread
        float64 [F], mean and standard deviation that standardise the features.
    bandwidth
        Bandwidth of the Gaussian kernel, in standardised feature units.
    gene_bin
        int16 [G], bin of each gene.
    fitted
        Perturbations that the final model was fitted on.
    """

    weights: Weights
    min_effective: float
    levels: FloatArray
    scores: FloatArray
    base: FloatArray
    owner: IntArray
    features: FloatArray
    shift: FloatArray
    spread: FloatArray
    bandwidth: float
    gene_bin: IntArray
    fitted: frozenset[str]

    @classmethod
    def fit(
        cls,
        residuals: OutOfFold,
        config: ConformalConfig,
        levels: FloatArray,
        gene_bin: IntArray,
        fitted: frozenset[str],
    ) -> WeightedConformal:
        """Store the scores and features of the calibration rows.

        Parameters
        ----------
        residuals
            Residuals [n, G] of conditions that their predictor was not fitted on.
        config
            Kind of weights, minimum effective number of units, and whether genes are binned.
        levels
            float64 [L], nominal coverage.
        gene_bin
            int16 [G], bin of each gene.
        fitted
            Perturbations that the final model was fitted on.
        """
        bins = gene_bin if GENE_SCALE in config.groups else np.zeros_like(gene_bin)
        raw = features(residuals.prediction, novelty_of_residuals(residuals))
        base, _ = unit_weights(residuals.units)
        shift = np.average(raw, axis=0, weights=base)
        spread = np.sqrt(np.average((raw - shift) ** 2, axis=0, weights=base))
        spread = np.where(spread > 1e-6, spread, 1.0)
        points = (raw - shift) / spread
        owner = np.unique(["|".join(u) for u in residuals.units], return_inverse=True)[1]
        return cls(
            weights=config.weights,
            min_effective=config.min_effective,
            levels=levels,
            scores=_compressed(scores_of(residuals), bins),
            base=base,
            owner=owner.astype(np.int64),
            features=points,
            shift=shift,
            spread=spread,
            bandwidth=_bandwidth(points),
            gene_bin=bins,
            fitted=fitted,
        )

    def apply(self, prediction: Prediction, conditions: pd.DataFrame) -> Prediction:
        """Return the prediction with intervals.

        The interval of a row is widened and flagged if the effective number of similar units is too small.
        """
        queries = (features(prediction, novelty(conditions, self.fitted)) - self.shift) / self.spread
        ratio, at_query = self.likelihood_ratio(queries)
        effective = self.effective_size(ratio)
        flag = effective < self.min_effective
        n_bins = self.scores.shape[1]
        ordered = [SortedScores(self.scores[:, b]) for b in range(n_bins)]
        everywhere = np.stack([o.quantiles(self.base, self.levels) for o in ordered], axis=1)
        factor = np.empty((len(self.levels), len(queries), n_bins))
        n_owners = len(np.unique(self.owner))
        for r in range(len(queries)):
            mine = self.base * ratio[r]
            total = float(mine.sum())
            # The query's own weight lies at infinity (Tibshirani et al. 2019). `base` sums to 1 over the
            # units, so one unit has base weight 1 / number of units, times the query's own likelihood ratio.
            infinity = float(at_query[r] / n_owners)
            infinity /= infinity + total
            for b in range(n_bins):
                local = ordered[b].quantiles(mine, self.levels, at_infinity=infinity)
                if flag[r] or not np.isfinite(local).all():
                    flag[r] = True
                    # Heuristic: the half-width grows by the root of the missing share of units, as a standard
                    # error does.
                    wide = np.sqrt(max(self.min_effective / max(effective[r], 1.0), 1.0))
                    local = np.fmax(np.where(np.isfinite(local), local, 0.0), everywhere[:, b]) * wide
                    # A level without a finite quantile of its own is at least as wide as the lower ones.
                    local = np.maximum.accumulate(local)
                factor[:, r, b] = local
        intervals = Intervals(
            self.levels, factor.astype(np.float32), self.gene_bin, flag, effective.astype(np.float32)
        )
        return replace(prediction, intervals=intervals)

    def likelihood_ratio(self, asked: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the weights of calibration rows for each query and the query's own weight, up to scale.

        Parameters
        ----------
        asked
            float64 [R, F], standardised features of the queries.

        Returns
        -------
        tuple
            (float64 [R, n] weight of every calibration row for each query, float64 [R] weight of the query
            itself).
        """
        if self.weights == "distance" or len(asked) < _MIN_QUERIES:
            gap = ((asked[:, None, :] - self.features[None]) ** 2).sum(axis=2) / (2 * self.bandwidth**2)
            # Gaussian kernel weights, divided by that of the nearest row: far from all rows they would
            # underflow.
            nearest = gap.min(axis=1)
            return np.exp(nearest[:, None] - gap), np.exp(np.minimum(nearest, _FARTHEST))
        from sklearn.linear_model import LogisticRegression

        points = np.concatenate([self.features, asked])
        label = np.repeat([0, 1], [len(self.features), len(asked)])
        # Both classes have the same total weight, so the odds p / (1 - p) of the classifier are the density
        # ratio.
        share = np.concatenate([self.base, np.full(len(asked), 1.0 / len(asked))]) * len(points) / 2
        model = LogisticRegression(C=_RIDGE).fit(points, label, sample_weight=share)
        ratio = np.exp(model.decision_function(points))
        cut = len(self.features)
        return np.broadcast_to(ratio[:cut], (len(asked), cut)).copy(), ratio[cut:]

    def effective_size(self, ratio: FloatArray) -> FloatArray:
        """Return float64 [R], Kish's effective number of units for each query.

        It is (sum of weights)^2 divided by the sum of squared weights.
        """
        n = int(self.owner.max()) + 1
        by_unit = np.zeros((len(ratio), n))
        np.add.at(by_unit.T, self.owner, (ratio * self.base).T)
        return np.asarray(by_unit.sum(axis=1) ** 2 / np.maximum((by_unit**2).sum(axis=1), 1e-300))

    def describe(self) -> dict[str, Any]:
        """Return the content for ``calibration.json``."""
        return {
            "weights": self.weights,
            **({"distance_below": _MIN_QUERIES} if self.weights == "density" else {}),
            "min_effective": self.min_effective,
            "bandwidth": self.bandwidth,
            "gene_bins": int(self.scores.shape[1]),
        }

    def arrays(self) -> dict[str, Any]:
        """Return the arrays to save."""
        names = ("levels", "scores", "base", "owner", "features", "shift", "spread", "gene_bin")
        return {f"weighted.{name}": getattr(self, name) for name in names}

    def meta(self) -> dict[str, Any]:
        """Return the rest to save."""
        return {
            "weights": self.weights,
            "min_effective": self.min_effective,
            "bandwidth": self.bandwidth,
            "fitted": sorted(self.fitted),
        }

    @classmethod
    def restore(cls, arrays: dict[str, Any], meta: dict[str, Any]) -> WeightedConformal:
        """Restore the state that `arrays` and `meta` returned."""
        mine = {k.removeprefix("weighted."): v for k, v in arrays.items() if k.startswith("weighted.")}
        return cls(**mine, **{**meta, "fitted": frozenset(meta["fitted"])})


def _compressed(scores: FloatArray, bins: IntArray) -> FloatArray:
    """Return float32 [n, bins, points]: each row's scores in each bin, as evenly spaced order statistics."""
    n_bins = int(bins.max(initial=0)) + 1
    points = int(min(_POINTS, max(np.bincount(bins, minlength=n_bins).max(), 1)))
    out = np.empty((len(scores), n_bins, points), dtype=np.float32)
    for b in range(n_bins):
        mine = np.sort(scores[:, bins == b], axis=1)
        # Midpoints of equal slices of the sorted scores: a fixed number of points per row bounds the memory.
        at = ((np.arange(points) + 0.5) / points * mine.shape[1]).astype(np.int64)
        out[:, b] = mine[:, at]
    return out


def _bandwidth(points: FloatArray) -> float:
    """Return the median distance between calibration rows, 1 if they are all equal."""
    gaps = np.sqrt(((points[:, None, :] - points[None]) ** 2).sum(axis=2))
    apart = gaps[np.triu_indices(len(points), 1)]
    return float(np.median(apart)) if len(apart) and np.median(apart) > 0 else 1.0
