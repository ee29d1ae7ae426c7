"""Dose-response curve: how strongly a perturbation acts at a dose, relative to the largest dose in train."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.models.baselines.dose_series import dose_series, doses_of
from perturbfm_core.models.baselines.effects import components
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import TrainView

# Half-maximal doses that are tried, relative to the largest dose: from an effect that is the same at all doses to one
# that is proportional to the dose.
_HALVES = np.logspace(-5, 2, 71)


@dataclass(frozen=True)
class DoseResponse:
    """Amounts of doses: d / (d + half), or log(1 + d), divided by that of the largest dose.

    Attributes
    ----------
    top
        Largest dose in train, as a number; 0 where no dose is a number above 0.
    half
        Dose of half the maximal effect, None for the logarithm.
    """

    top: float = 0.0
    half: float | None = None

    @classmethod
    def logarithmic(cls, conditions: pd.DataFrame) -> DoseResponse:
        """Return the logarithmic curve of train conditions."""
        found = doses_of(components(conditions)[0][schema.DOSES])
        return cls(float(found[found > 0].max()) if (found > 0).any() else 0.0)

    @classmethod
    def fit(cls, view: TrainView) -> DoseResponse:
        """Return the curve that best explains the deltas of perturbations with several doses in train.

        One half-maximal dose for all, by least squares, each perturbation relative to the size of its deltas. Where
        perturbations have doses in several contexts, what is explained are the products of deltas of different contexts,
        a_i a_j times a factor per perturbation: noise that the conditions of a context share (their controls, their
        plate) makes doses alike that are not, but has no part in these. Else it is the deltas of a context, a_i times a
        vector. Without several doses of a perturbation, and where deltas of different contexts have nothing in common,
        the curve is logarithmic.
        """
        curve = cls.logarithmic(view.conditions)
        series = dose_series(view)
        if not series:
            return curve
        halves = _HALVES * curve.top
        explained = np.sum([s.explained(halves) for s in series], axis=0)
        return cls(curve.top, float(halves[int(np.argmax(explained))])) if explained.max() > 0 else curve

    def amounts(self, doses: FloatArray) -> FloatArray:
        """Return float64 [parts], the amount of each dose: 1 for the largest and where a dose is no number (NaN)."""
        if self.half is None:
            # Doses of 0 alone are no unit of amounts.
            found = np.log1p(doses) / (np.log1p(self.top) if self.top else 1.0)
        else:
            found = doses * (self.top + self.half) / ((doses + self.half) * self.top)
        return np.where(np.isnan(doses), 1.0, found)

    @classmethod
    def restored(cls, state: dict[str, Any], prefix: str = "") -> DoseResponse:
        """Return the curve of a saved fit; earlier fits had none, and are read where they had no doses.

        Raises
        ------
        KeyError
            If an earlier fit had doses: their amounts were others.
        """
        if f"{prefix}response" in state:
            return cls(**state[f"{prefix}response"])
        if float(state.get(f"{prefix}top_dose", 1.0)) != 1.0:
            msg = "dose-response curve"
            raise KeyError(msg)
        return cls()

    def meta(self) -> dict[str, Any]:
        """Return the curve as JSON."""
        return asdict(self)
