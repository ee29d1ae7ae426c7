"""Ridge regression of log fold changes, which are applied to the controls of the condition itself."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from perturbfm_core.errors import ModelError
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.models.baselines.fold_changes import (
    LogFoldChanges,
    applied_fold_changes,
    pseudocount_at_depth,
)
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
            Added to the levels, in normalised counts (per 10,000, as data are usually normalised; of counts that are
            scaled to fewer, in proportion). With 1 the model is `ridge`.
        """

        pseudocount: float = Field(default=PSEUDOCOUNT, gt=0)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._pseudocount: float = self.params.pseudocount

    def _outcomes(self, view: TrainView) -> LogFoldChanges:
        if view.control is None:
            msg = f"model '{self.name}' needs controls, whose levels its fold changes are of; the train conditions have none"
            raise ModelError(msg)
        self._pseudocount = pseudocount_at_depth(view, self.params.pseudocount)
        return LogFoldChanges(view, self._pseudocount)

    def _delta(self, values: FloatArray, query: Query) -> FloatArray:
        return applied_fold_changes(values, self._controls(query), self._pseudocount)

    def _state_meta(self) -> dict[str, Any]:
        return {"pseudocount": self._pseudocount, **super()._state_meta()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        # Earlier fits took it as it is given.
        self._pseudocount = float(meta.get("pseudocount", self.params.pseudocount))
