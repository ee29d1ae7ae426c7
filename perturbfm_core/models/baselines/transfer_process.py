"""Gaussian process over interventions that sees another screen's conditions beside its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.borrowing import Borrowing, without_donor
from perturbfm_core.models.perturbfm.core.donor_process import DonorProcess
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("transfer_process")
class TransferProcess(Baseline):
    """Predicts the posterior mean of a process over the conditions of train and of the donors, with a joint covariance.

    What a donor measured of the same genes, or of genes with like effects, counts as much as inner folds say (see
    `DonorProcess`). Genes that a donor does not measure are predicted by the same process without donors.
    """

    class Params(Borrowing):
        """Parameters of `TransferProcess`.

        Attributes
        ----------
        borrow
            Other data sets (``DATASET`` or ``DATASET:CONTEXT``) whose effects of the same genes are read.
        """

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._own = SetProcess((), "constant")
        self._lent = DonorProcess((), "constant")

    def needs(self) -> Needs:
        """Return the donors."""
        return Needs(borrowed=self.params.borrow)

    def absent(self) -> str | None:
        """Return that there is no donor, None if there is one."""
        return without_donor(self.params)

    def _fit(self, view: TrainView, seed: int) -> None:
        donors = {name: self.side_info.donor(name) for name in self.params.borrow}
        self._own = SetProcess((), "constant", scale=self.scale).choose(view).fit(view)
        self._lent = DonorProcess((), "constant", donors, self.scale).choose(view).fit(view)
        self.training["own"] = self._own.choice
        self.training["with_donors"] = self._lent.summary()

    def _mean(self, query: Query) -> FloatArray:
        own, _ = self._own.predict(query)
        lent = self._lent.predict(query)
        return np.where(np.isnan(lent), own, lent).astype(np.float32)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {**self._own.arrays("own"), **self._lent.arrays("lent")}

    def _state_meta(self) -> dict[str, Any]:
        return {**self._own.meta("own"), **self._lent.meta("lent")}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._own.restore("own", arrays, meta, self.genes)
        self._lent.restore("lent", arrays, meta, self.genes)
