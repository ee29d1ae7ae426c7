"""Ridge regression from the effects of the same genes in another data set to the delta."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import BORROWED, Needs, SideInfo
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.borrowing import Borrowing, without_donor
from perturbfm_core.models.baselines.gene_embedding_ridge import GeneEmbeddingRidge
from perturbfm_core.models.baselines.transfer_mean import TransferMean
from perturbfm_core.models.baselines.tuned import Solution
from perturbfm_core.models.search import Choice, FloatRange, SearchDimension, SearchSpace
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

# A penalty from which on the coefficients are zero: a correlation does not see how small they are.
NO_TRANSLATION = 1e9


@MODELS.register("transfer_ridge")
class TransferRidge(GeneEmbeddingRidge):
    """Predicts what `TransferMean` does, plus a linear function of the donor's effects of the perturbed genes.

    The linear function is of the leading principal components of the donor's effects, summed over the perturbed genes:
    with a large penalty effects carry over as they are, with a small one they are translated. A condition none of whose
    genes the donor has perturbed gets the group's mean alone, and so does every condition where nothing is borrowed.
    """

    search_space: ClassVar[SearchSpace] = {
        "center": Choice(("group", "all")),
        "start": Choice(("effect", "mean")),
        "alphas": FloatRange(1e-1, NO_TRANSLATION, listed=True),
    }

    class Params(Borrowing):
        """Parameters of `TransferRidge`; the penalty is chosen among `alphas` by the inner folds.

        Attributes
        ----------
        borrow
            Other data sets (``DATASET`` or ``DATASET:CONTEXT``) whose effects of the same genes are read.
        center
            Mean from which the effects explain the deviation: that of the condition's ``group`` (context, modality,
            number of parts), or of ``all`` train conditions.
        start
            What the linear function is added to: the donor's scaled ``effect``, or the ``mean`` alone.
        alphas
            Ridge penalties to choose from, by the error on the inner folds; from 1e9 on there is no linear part.
        """

        center: Literal["group", "all"] = "group"
        start: Literal["effect", "mean"] = "effect"
        alphas: tuple[Annotated[float, Field(ge=0)], ...] = Field(
            default=(0.1, 1.0, 10.0, 100.0, 1000.0, NO_TRANSLATION), min_length=1
        )

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        p = self.params
        lent = p.borrow if p.start == "effect" else ()
        self._start = TransferMean(TransferMean.Params(borrow=lent, center=p.center))

    def needs(self) -> Needs:
        """Return the donors."""
        return Needs(borrowed=self.params.borrow)

    def absent(self) -> str | None:
        """Return that there is no donor, None if there is one."""
        return without_donor(self.params)

    def searchable(self) -> dict[str, SearchDimension]:
        """Return the search space."""
        return dict(self.search_space)

    def _tables(self) -> tuple[str, ...]:
        return tuple(BORROWED + name for name in self.params.borrow)

    def _fit_embedding(self, view: TrainView) -> None:
        names, given = self._tables(), self.side_info
        if not names:
            # No gene has this name: every condition is unknown.
            empty = GeneFeatures("nothing", np.asarray([""]), np.zeros((1, 1), dtype=np.float32))
            names, given = ("nothing",), SideInfo(features={"nothing": empty})
        self._embedding.fit(view, given, names, 1)

    def _prepare(self, view: TrainView, seed: int) -> tuple[FloatArray, FloatArray]:
        self._start.genes, self._start.side_info = self.genes, self.side_info
        self._start._fit(view, seed)
        prepared = super()._prepare(view, seed)
        self.training.update(self._start.training)
        return prepared

    def _embed(self, view: TrainView) -> tuple[FloatArray, IntArray, FloatArray]:
        X, code, _ = super()._embed(view)
        return X, code, view.delta - self._start._mean(view.query())

    def _solve(self, prepared: tuple[FloatArray, FloatArray], value: float) -> Solution:
        if value < NO_TRANSLATION:
            return super()._solve(prepared, value)
        X, residual = prepared
        return {"coef": np.zeros((X.shape[1], residual.shape[1]), dtype=np.float32)}

    def _describe(self, query: Query) -> tuple[FloatArray, FloatArray]:
        X, code = self._inputs(query.conditions)
        return self._start._mean(query), self._design(query.conditions, X, code)

    def _state_arrays(self) -> dict[str, FloatArray]:
        start = {f"start.{k}": v for k, v in self._start._state_arrays().items()}
        return {**super()._state_arrays(), **start}

    def _state_meta(self) -> dict[str, Any]:
        return {**super()._state_meta(), "start": self._start._state_meta()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        start = {k.removeprefix("start."): v for k, v in arrays.items() if k.startswith("start.")}
        self._start._restore(start, meta["start"])
