"""Dose-response curves: how strongly a perturbation acts at a dose, relative to the largest dose in train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.models.baselines.dose_series import dose_series, read_doses
from perturbfm_core.models.baselines.effects import components
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import TrainView

# Half-maximal doses that are tried, relative to the largest dose: from an effect that is the same at all doses to one
# that is proportional to the dose.
_HALVES = np.logspace(-5, 2, 71)
# In place of a unit, in fits from before units had curves of their own.
_ANY = "*"


@dataclass(frozen=True)
class DoseCurve:
    """Amounts of doses of one unit: d / (d + half), or log(1 + d), divided by that of the largest dose.

    Attributes
    ----------
    top
        Largest dose in train, above 0.
    half
        Dose of half the maximal effect, None for the logarithm.
    own
        {label: largest dose of a perturbation}, where these differ and nothing in train tells how effects depend on
        doses. Screens often have every drug at a dose of its own: these count as 1 then, as do all doses in their range
        of a perturbation that train lacks.
    """

    top: float
    half: float | None = None
    own: Mapping[str, float] = field(default_factory=dict)

    def amounts(self, doses: FloatArray, labels: Sequence[str] = ()) -> FloatArray:
        """Return float64 [parts], the amount of each dose of the perturbations of these labels (default: others)."""
        amount = self._of_curve(doses)
        if not self.own:
            return amount
        least = min(self.own.values())
        names = labels or [""] * len(doses)
        low, high = (np.asarray([self.own.get(x, other) for x in names]) for other in (least, self.top))
        # Beyond its own doses a perturbation gains what the logarithm gains, not a multiple of its measured effect.
        above = np.where(doses > high, 1.0 + amount - self._of_curve(high), 1.0)
        return np.where(doses < low, amount / self._of_curve(low), above)

    def _of_curve(self, doses: FloatArray) -> FloatArray:
        if self.half is None:
            out: FloatArray = np.log1p(doses) / (np.log1p(self.top) if self.top else 1.0)
        else:
            out = doses * (self.top + self.half) / ((doses + self.half) * self.top)
        return out


@dataclass(frozen=True)
class DoseResponse:
    """Curves of the doses in train, one for each unit: numbers of different units do not compare.

    Attributes
    ----------
    curves
        {unit: its curve}; none where train has no dose that is a number above 0.
    """

    curves: Mapping[str, DoseCurve] = field(default_factory=dict)

    @classmethod
    def logarithmic(cls, conditions: pd.DataFrame) -> DoseResponse:
        """Return the logarithmic curves of train conditions."""
        doses, unit = read_doses(components(conditions)[0][schema.DOSES])
        found = doses > 0
        return cls({u: DoseCurve(float(doses[found & (unit == u)].max())) for u in sorted(set(unit[found]))})

    @classmethod
    def fit(cls, view: TrainView) -> DoseResponse:
        """Return the curves that best explain the deltas of perturbations with several doses in train.

        One half-maximal dose for all of a unit, by least squares, each perturbation relative to the size of its deltas.
        Where perturbations have doses in several contexts, what is explained are the products of deltas of different
        contexts, a_i a_j times a factor per perturbation: noise that the conditions of a context share (their controls,
        their plate) makes doses alike that are not, but has no part in these. Else it is the deltas of a context, a_i
        times a vector. Without several doses of a perturbation, and where deltas of different contexts have nothing in
        common, the curve is logarithmic, relative to the largest dose of each perturbation.
        """
        plain = cls.logarithmic(view.conditions)
        return cls({unit: _fitted(curve, view, unit) for unit, curve in plain.curves.items()})

    def amounts(self, texts: Sequence[str] | pd.Series[str], labels: Sequence[str] = ()) -> FloatArray:
        """Return float64 [parts], the amount of each dose as written: 1 for the largest of its unit, 0 for 0.

        It is also 1 where a dose is no number, or of a unit that train lacks. `labels` (`labels_of`) are those of the
        perturbations.
        """
        doses, unit = read_doses(texts)
        out = np.ones(len(doses))
        for name, curve in self.curves.items():
            at = np.isfinite(doses) & ((unit == name) | (name == _ANY))
            out[at] = curve.amounts(
                doses[at], [labels[i] for i in np.flatnonzero(at).tolist()] if labels else ()
            )
        out[doses == 0] = 0.0
        return out

    @classmethod
    def restored(cls, state: dict[str, Any], prefix: str = "") -> DoseResponse:
        """Return the curves of a saved fit; earlier fits had one for all units, or none without doses.

        Raises
        ------
        KeyError
            If an earlier fit had doses: their amounts were others.
        """
        if f"{prefix}response" in state:
            saved = state[f"{prefix}response"]
            given = {_ANY: saved} if "top" in saved else saved["curves"]
            return cls({unit: DoseCurve(**curve) for unit, curve in given.items()})
        if float(state.get(f"{prefix}top_dose", 1.0)) != 1.0:
            msg = "dose-response curve"
            raise KeyError(msg)
        return cls()

    def meta(self) -> dict[str, Any]:
        """Return the curves as JSON."""
        return {"curves": {unit: asdict(curve) for unit, curve in self.curves.items()}}


def labels_of(parts: pd.DataFrame) -> list[str]:
    """Return gene (or drug) and modality of each part as one label, since activation and repression differ."""
    return [f"{g}|{m}" for g, m in zip(parts[schema.PERT_ID], parts[schema.MODALITY], strict=True)]


def _fitted(curve: DoseCurve, view: TrainView, unit: str) -> DoseCurve:
    """Return the curve of a unit with the half-maximal dose that train decides, else the doses of each perturbation."""
    series = dose_series(view, unit)
    halves = _HALVES * curve.top
    explained = np.sum([s.explained(halves) for s in series], axis=0) if series else np.zeros(1)
    if explained.max() > 0:
        return replace(curve, half=float(halves[int(np.argmax(explained))]))
    parts, _ = components(view.conditions)
    doses, units = read_doses(parts[schema.DOSES])
    own: dict[str, float] = {}
    for label, dose in zip(labels_of(parts), np.where(units == unit, doses, 0.0).tolist(), strict=True):
        if dose > 0:
            own[label] = max(dose, own.get(label, 0.0))
    return replace(curve, own=own) if len(set(own.values())) > 1 else curve
