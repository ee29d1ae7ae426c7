"""Effects of the same genes in another data set, scaled by one factor per donor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbfm_core.graphs.donor import DonorEffects
from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.borrowing import Borrowing, without_donor
from perturbfm_core.models.baselines.donor_factors import donor_factors
from perturbfm_core.models.baselines.embedding import Centers
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.view import Query, TrainView

if TYPE_CHECKING:
    import pandas as pd


@MODELS.register("transfer_mean")
class TransferMean(Baseline):
    """Predicts the train mean plus the donor's effect of the same genes, less its own mean, times one factor.

    The factor is fitted by least squares, at zero or above, on the train conditions that both screens have. It is zero
    without any, and where conditions left out in turn show no gain beyond its standard error. A combination that the donor lacks has the sum of its genes' effects. A condition that the donor has no
    effect for gets the train mean, and so does every gene that the donor does not measure.
    """

    class Params(Borrowing):
        """Parameters of `TransferMean`.

        Attributes
        ----------
        borrow
            Other data sets (``DATASET`` or ``DATASET:CONTEXT``) whose effects of the same genes are read.
        center
            Means that are taken off on both sides before the factor is fitted: those of the condition's ``group``
            (context, modality, number of parts), of ``all`` train conditions, or ``none``: the donor's effect alone is
            scaled.
        """

        center: Literal["group", "all", "none"] = "group"

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._by: Literal["group", "all"] = "all" if self.params.center == "all" else "group"
        self._donors: list[DonorEffects] = []
        self._mean_delta = Centers(self._by)
        self._donor_means: list[Centers | None] = []
        self._factors: FloatArray = np.zeros(0)

    def needs(self) -> Needs:
        """Return the donors."""
        return Needs(borrowed=self.params.borrow)

    def absent(self) -> str | None:
        """Return that there is no donor, None if there is one."""
        return without_donor(self.params)

    def _fit(self, view: TrainView, seed: int) -> None:
        self._donors = [self.side_info.donor(name) for name in self.params.borrow]
        self._mean_delta = Centers(self._by).fit(view.conditions, view.delta)
        self._donor_means = [self._mean_of(donor, view.conditions) for donor in self._donors]
        parts = [self._deviation(i, view.conditions) for i in range(len(self._donors))]
        target = (
            view.delta if self.params.center == "none" else view.delta - self._mean_delta.of(view.conditions)
        )
        # Without centring, conditions and genes without an effect say nothing about the factor.
        any_known = (
            np.any([known for _, known in parts], axis=0) if parts else np.zeros(len(view), dtype=np.bool_)
        )
        self._factors = donor_factors([d[any_known] for d, _ in parts], target[any_known])
        self.training["borrowed"] = {
            name: {"factor": float(f), "train_conditions": int(known.sum()), "of": len(view)}
            for name, f, (_, known) in zip(self.params.borrow, self._factors, parts, strict=True)
        }

    def _mean_of(self, donor: DonorEffects, conditions: pd.DataFrame) -> Centers | None:
        """Return the donor's means over train conditions that it has, None if it has none or they are not taken off."""
        effects, known = donor.of(conditions)
        if self.params.center == "none" or not known.any():
            return None
        return Centers(self._by).fit(conditions[known], effects[known])

    def _deviation(self, i: int, conditions: pd.DataFrame) -> tuple[FloatArray, BoolArray]:
        """Return (float32 [C, G] effects of a donor less its mean, zero where unknown; bool [C] whether known)."""
        effects, known = self._donors[i].of(conditions)
        mean = self._donor_means[i]
        if known.any() and mean is not None:
            effects[known] -= mean.of(conditions[known])
        return effects, known

    def _mean(self, query: Query) -> FloatArray:
        mean = self._mean_delta.of(query.conditions)
        out, any_known = np.zeros_like(mean), np.zeros(mean.shape, dtype=np.bool_)
        for i, factor in enumerate(self._factors):
            if factor <= 0:
                continue
            effects, known = self._deviation(i, query.conditions)
            out += np.float32(factor) * effects
            any_known |= known[:, None] & self._donors[i].measured
        if self.params.center == "none":
            return np.where(any_known, out, mean)
        return np.asarray(mean + out, dtype=np.float32)

    def _state_arrays(self) -> dict[str, FloatArray]:
        out: dict[str, Any] = {"factors": self._factors, **self._mean_delta.arrays("mean")}
        for i, (donor, mean) in enumerate(zip(self._donors, self._donor_means, strict=True)):
            out[f"donor{i}.effects"] = donor.effects
            out[f"donor{i}.measured"] = donor.measured.astype(np.uint8)
            out[f"donor{i}.direction"] = donor.direction
            out.update({} if mean is None else mean.arrays(f"donor{i}.mean"))
        return out

    def _state_meta(self) -> dict[str, Any]:
        return {
            **self._mean_delta.meta("mean"),
            "donors": [
                {
                    "name": d.name,
                    "content_sha256": d.content_sha256,
                    "perts": list(d.perts),
                    "mean": None if mean is None else mean.meta(f"donor{i}.mean"),
                }
                for i, (d, mean) in enumerate(zip(self._donors, self._donor_means, strict=True))
            ],
        }

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._factors = arrays["factors"]
        self._mean_delta.restore("mean", arrays, meta)
        self._donors, self._donor_means = [], []
        for i, state in enumerate(meta["donors"]):
            self._donors.append(
                DonorEffects(
                    name=state["name"],
                    content_sha256=state["content_sha256"],
                    perts=tuple(state["perts"]),
                    direction=np.asarray(arrays[f"donor{i}.direction"], dtype=np.int8),
                    effects=arrays[f"donor{i}.effects"],
                    measured=arrays[f"donor{i}.measured"].astype(np.bool_),
                )
            )
            mean = None if state["mean"] is None else Centers(self._by)
            if mean is not None:
                mean.restore(f"donor{i}.mean", arrays, state["mean"])
            self._donor_means.append(mean)
