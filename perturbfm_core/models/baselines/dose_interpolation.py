"""Baseline that interpolates a perturbation's effect between the doses, or times, that train has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.data.quantities import split_doses
from perturbfm_core.errors import SplitError
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, group_names
from perturbfm_core.models.baselines.means import PerPerturbationContextMean
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.quantity import parse_dose, parse_times
from perturbfm_core.splits.view import Query

# Levels of the table that tell doses and covariates apart, and the columns before those: in the condition's own context,
# and over contexts.
_LEVELS = tuple((i, level[:-2]) for i, level in enumerate(CONTEXT_LEVELS) if level[-1] == schema.COVARIATES)
# Coordinates of a `_Point`.
_AXES = ("dose", "time")


@dataclass(frozen=True)
class _Point:
    """Where a condition stands: logarithms of dose and hours, None if not a number above 0, and all other labels."""

    dose: float | None
    time: float | None
    unit: str
    others: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, doses: str, covariates: str) -> _Point:
        labels = {**parse_covariates(covariates), "dose": doses}
        (dose, unit), time = _log_dose(doses), _log_time(labels.get("time", ""))
        placed = {"dose": dose, "time": time}
        # What is no number is compared as text.
        others = sorted(x for x in labels.items() if placed.get(x[0]) is None)
        return cls(dose, time, unit, tuple(others))


@MODELS.register("dose_interpolation")
class DoseInterpolation(PerPerturbationContextMean):
    """Predicts a perturbation's train delta at a new dose or time: linear between logarithms, constant beyond them.

    In the condition's own context, else over contexts. Where both dose and time are new, or a covariate is, the nearest
    condition counts (sum of the distances of the logarithms). Where neither is a number above 0, and for all that train
    has, it is `PerPerturbationContextMean`.
    """

    def _mean(self, query: Query) -> FloatArray:
        effects = super()._mean(query)
        ladders = [self._ladders(i) for i, _ in _LEVELS]
        names = [group_names(query.conditions, level) for _, level in _LEVELS]
        exact = group_names(query.conditions, CONTEXT_LEVELS[0])
        points = _points(query.conditions)
        for row, point in enumerate(points):
            ladder = next((of[n[row]] for of, n in zip(ladders, names, strict=True) if n[row] in of), None)
            if ladder is None or exact[row] in self._table.keys[0]:
                continue
            weights = _weights(point, [p for p, _ in ladder])
            if weights is not None:
                effects[row] = weights @ self._table.means[[at for _, at in ladder]]
        return effects

    def _ladders(self, level: int) -> dict[str, list[tuple[_Point, int]]]:
        """Return {group without dose and covariates: (point, row of the means) of each of its conditions}."""
        out: dict[str, list[tuple[_Point, int]]] = {}
        for name, at in self._table.keys[level].items():
            *group, doses, covariates = json.loads(name)
            out.setdefault(json.dumps(group, ensure_ascii=False), []).append(
                (_Point.of(doses, covariates), at)
            )
        return out


def _points(conditions: pd.DataFrame) -> list[_Point]:
    columns = (conditions[c].astype(str).tolist() for c in (schema.DOSES, schema.COVARIATES))
    return [_Point.of(doses, covariates) for doses, covariates in zip(*columns, strict=True)]


def _weights(point: _Point, ladder: Sequence[_Point]) -> FloatArray | None:
    """Return float64 [n], the weights of a ladder's conditions for a point; None where nothing places it."""
    comparable = np.asarray([p.unit == point.unit for p in ladder])
    alike = comparable & np.asarray([p.others == point.others for p in ladder])
    same = {axis: np.asarray([getattr(p, axis) == getattr(point, axis) for p in ladder]) for axis in _AXES}
    for axis, other in (_AXES, _AXES[::-1]):
        at, levels = getattr(point, axis), _levels(ladder, axis)
        usable = alike & same[other] & np.isfinite(levels)
        if at is not None and usable.any():
            return _interpolated(at, levels, usable)
    distance = np.zeros(len(ladder))
    for axis in _AXES:
        at = getattr(point, axis)
        if at is not None:
            distance += np.abs(_levels(ladder, axis) - at)
    usable = comparable & np.isfinite(distance) & (alike | ~alike.any())
    if not usable.any() or (point.dose is None and point.time is None):
        return None
    nearest = usable & (distance <= distance[usable].min() + 1e-9)
    return np.asarray(nearest / nearest.sum())


def _levels(ladder: Sequence[_Point], axis: str) -> FloatArray:
    """Return float64 [n], the logarithms along an axis, NaN for none."""
    return np.asarray([getattr(p, axis) for p in ladder], dtype=np.float64)


def _interpolated(at: float, levels: FloatArray, usable: BoolArray) -> FloatArray:
    """Return float64 [n], linear weights of the usable levels around a value; that of the nearest beyond them.

    Parameters
    ----------
    at
        The value.
    levels
        Values [n] of the conditions.
    usable
        bool [n], those that count.
    """
    known, place = np.unique(levels[usable], return_inverse=True)
    # Column j has what level j contributes: the interpolation of its unit vector.
    share = np.asarray([np.interp(at, known, row) for row in np.eye(len(known))])
    out = np.zeros(len(levels))
    out[usable] = share[place] / np.bincount(place)[place]
    return out


def _log_dose(text: str) -> tuple[float | None, str]:
    """Return the logarithm of a dose, and its base unit; None for none, for several and for what is no number."""
    try:
        # Doses of a combination have no place on one axis: 1 with 10 is not 10 with 1.
        found = None if len(split_doses(text)) > 1 else parse_dose(text)
    except SplitError:
        found = None
    return (float(np.log(found[0])), found[1]) if found is not None and found[0] > 0 else (None, "")


def _log_time(text: str) -> float | None:
    try:
        times = parse_times(text)
    except SplitError:
        return None
    return float(np.log(times[0])) if len(times) == 1 and times[0] > 0 else None
