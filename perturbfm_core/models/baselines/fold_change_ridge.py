"""Ridge regression of log fold changes, which are applied to the controls of the condition itself."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.models.baselines.fold_changes import LogFoldChanges, applied_fold_changes
from perturbfm_core.models.baselines.ridge import RidgeRegression
from perturbfm_core.models.search import FloatRange, SearchSpace
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

# Of .1, .2 and .5 none predicts simulated contexts better than another; the smaller, the noisier are genes of few counts.
PSEUDOCOUNT = 0.2


@MODELS.register("fold_change_ridge")
class FoldChangeRidge(RidgeRegression):
    """Predicts log fold changes linearly, as `ridge` does deltas: a gene that a context hardly expresses changes little.

    What doubles a transcript in one context is taken to double it in another, whatever its level there.
    """

    requires = Requires(controls=True)
    search_space: ClassVar[SearchSpace] = {
        **RidgeRegression.search_space,
        "pseudocount": FloatRange(0.02, 1.0),
    }

    class Params(RidgeRegression.Params):
        """Parameters of `FoldChangeRidge`: those of `RidgeRegression`, and what is added before ratios are taken.

        Attributes
        ----------
        pseudocount
            Added to the levels, in normalised counts (per 10,000, as data are usually normalised). With 1 the model
            is `ridge`.
        """

        pseudocount: float = Field(default=PSEUDOCOUNT, gt=0)

    def _outcomes(self, view: TrainView) -> LogFoldChanges:
        return LogFoldChanges(view, self.params.pseudocount)

    def _delta(self, values: FloatArray, query: Query) -> FloatArray:
        return applied_fold_changes(values, self._controls(query), self.params.pseudocount)
