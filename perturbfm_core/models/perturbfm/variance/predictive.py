"""Predictive variance, learned from out-of-fold errors: entry variance times a factor per condition.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.models.perturbfm.network.targets import Targets
from perturbfm_core.models.perturbfm.variance.condition_levels import (
    ConditionLevels,
    effect_traits,
    excess_of,
)
from perturbfm_core.models.scale import USUAL, Scale
from perturbfm_core.progress import OnEpoch
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.training.seeds import derived_seed

if TYPE_CHECKING:
    from perturbfm_core.models.perturbfm.variance.entry import EntryVariance


_SLOPE_ROWS = 500


class PredictiveVariance:
    """The variance of the prediction error beyond sampling noise.

    Parameters
    ----------
    scale
        Sizes beyond which the slope of the entry variance is learnt from some of the rows.
    """

    def __init__(self, scale: Scale = USUAL) -> None:
        self.scale = scale
        self.entries: EntryVariance | None = None
        self.levels = ConditionLevels()
        self.targets = Targets()

    def fit(
        self,
        view: TrainView,
        graphs: Sequence[GeneGraph],
        condition: IntArray,
        mean: FloatArray,
        process: FloatArray,
        error: FloatArray,
        s2: FloatArray,
        fold: IntArray,
        usable: BoolArray,
        seed: int,
        on_epoch: OnEpoch | None = None,
    ) -> FloatArray:
        """Fit on out-of-fold rows and return float32 [m, G], their variance, with levels from other folds.

        Parameters
        ----------
        view, graphs
            Train conditions, and gene graphs.
        condition, fold
            int64 [m], the condition in the view, and the inner fold, of each row.
        mean, process, error, s2
            float32 [m, G]: predicted delta, variance by the set process, error, sampling variance.
        usable
            bool [folds, m], rows whose condition the fold's predictor was fitted on.
        seed
            Seed of the training.
        on_epoch
            Called with a report after every epoch.
        """
        from perturbfm_core.models.perturbfm.variance.entry import EntryVariance

        self.entries = EntryVariance(_SLOPE_ROWS if self.scale.approximates(len(view)) else None)
        var = self.entries.fit(mean, error, s2, fold, usable, derived_seed(seed, "variance"), on_epoch)
        self.targets.fit(view, graphs)
        # Traits [m, 6]: three of the prediction and three of the target genes.
        traits = np.hstack([effect_traits(mean, process), self.targets.read(view.query())[condition]])
        # One factor per row (condition) on the variance of all its entries.
        excess, expected = excess_of(error, s2, var)
        rows = view.conditions.iloc[condition]
        factor = self.levels.fit(rows, traits, excess, expected, fold, usable)
        return np.asarray(var * np.exp(factor)[:, None], dtype=np.float32)

    def predict(self, query: Query, mean: FloatArray, process: FloatArray) -> FloatArray:
        """Return float32 [n, G], the variance of the prediction error beyond sampling noise.

        Parameters
        ----------
        query
            Conditions [n].
        mean
            float32 [n, G], predicted deltas in log1p units.
        process
            float32 [n, G], variance by the set process.

        Raises
        ------
        RuntimeError
            If the variance is not fitted.
        """
        if self.entries is None:
            msg = "the variance is fitted before it predicts"
            raise RuntimeError(msg)
        traits = np.hstack([effect_traits(mean, process), self.targets.read(query)])
        factor = np.exp(self.levels.read(query.conditions, traits))
        return np.asarray(self.entries.predict(mean) * factor[:, None], dtype=np.float32)

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        own = {} if self.entries is None else self.entries.arrays(f"{prefix}.entries")
        return {**own, **self.levels.arrays(f"{prefix}.levels"), **self.targets.arrays(f"{prefix}.targets")}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {**self.levels.meta(f"{prefix}.levels"), **self.targets.meta(f"{prefix}.targets")}

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
        from perturbfm_core.models.perturbfm.variance.entry import EntryVariance

        self.entries = EntryVariance()
        self.entries.restore(f"{prefix}.entries", arrays)
        self.levels.restore(f"{prefix}.levels", arrays, meta)
        self.targets.restore(f"{prefix}.targets", arrays, meta, genes)
