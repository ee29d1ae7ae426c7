"""Groups of conditions for calibration, defined by what is known before a condition is observed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import escape, parse_key, pert_parts
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

_FLAT = 1e-3


@dataclass(frozen=True, eq=False)
class Novelty:
    """How much of each condition is new to a predictor.

    Attributes
    ----------
    parts
        int64 [C], number of perturbed genes.
    seen
        int64 [C], how many of them are single perturbations in train, under the same modality.
    known
        bool [C], whether train has the perturbation itself under the same modality (in another context or dose).
    """

    parts: IntArray
    seen: IntArray
    known: BoolArray

    @property
    def strata(self) -> list[str]:
        """Return the stratum of each condition, e.g. ``single:seen-0``, ``combo:seen-2``, ``combo:known``."""
        kinds = np.where(self.parts > 1, "combo", "single")
        return [
            f"{kind}:known" if known else f"{kind}:seen-{seen}"
            for kind, seen, known in zip(kinds, self.seen, self.known, strict=True)
        ]


def perturbations(keys: Iterable[str]) -> frozenset[str]:
    """Return the perturbations of condition keys with their modality, since activation and repression differ."""
    fields = map(parse_key, keys)
    return frozenset(_label(x[schema.PERT_ID], x[schema.MODALITY]) for x in fields)


def _label(pert: str, modality: str) -> str:
    return f"{escape(pert)}|{escape(modality)}"


def novelty(conditions: pd.DataFrame, fitted: frozenset[str]) -> Novelty:
    """Return how much of each condition [C] is new to a predictor fitted on `fitted` (see `perturbations`)."""
    perts, modality = (conditions[c].astype(str).tolist() for c in (schema.PERT_ID, schema.MODALITY))
    parts = [pert_parts(p) for p in perts]

    def has(pert: str, how: str) -> bool:
        # Calibrators saved without the modality have the perturbation alone.
        return _label(pert, how) in fitted or pert in fitted

    return Novelty(
        np.asarray([len(p) for p in parts], dtype=np.int64),
        np.asarray(
            [sum(has(x, how) for x in p) for p, how in zip(parts, modality, strict=True)], dtype=np.int64
        ),
        np.asarray([has(p, how) for p, how in zip(perts, modality, strict=True)], dtype=np.bool_),
    )


def novelty_of_residuals(residuals: OutOfFold) -> Novelty:
    """Return how much of each row is new to its own predictor."""
    n = len(residuals)
    out = Novelty(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_))
    for fold, seen in enumerate(residuals.fitted):
        rows = np.flatnonzero(residuals.fold == fold)
        mine = novelty(residuals.conditions.iloc[rows], perturbations(seen))
        out.parts[rows], out.seen[rows], out.known[rows] = mine.parts, mine.seen, mine.known
    return out


def effect_size(mean: FloatArray) -> FloatArray:
    """Return float64 [C], the Euclidean norm of the predicted delta [C, G] over genes, in log1p units."""
    return np.asarray(np.linalg.norm(mean.astype(np.float64), axis=1))


def varies(size: FloatArray, group: IntArray) -> bool:
    """Return whether effect sizes [n] differ by more than rounding within any group [n] of one predictor."""
    return any(
        bool(np.ptp(size[group == g]) > _FLAT * max(float(np.abs(size).max()), 1e-300))
        for g in np.unique(group)
    )


def effect_edges(size: FloatArray, weights: FloatArray, fold: IntArray) -> FloatArray:
    """Return the weighted tercile boundaries of predicted effect sizes, none if no predictor's sizes differ.

    Parameters
    ----------
    size
        float64 [n], predicted effect sizes.
    weights
        float64 [n], weights of the rows.
    fold
        int64 [n], the predictor of each row.
    """
    if not len(size) or not varies(size, fold):
        return np.zeros(0)
    order = np.argsort(size, kind="stable")
    cumulative = np.cumsum(weights[order]) / weights.sum()
    at = np.minimum(np.searchsorted(cumulative, [1 / 3, 2 / 3]), len(size) - 1)
    return np.unique(size[order][at])


def effect_groups(size: FloatArray, edges: FloatArray) -> list[str]:
    """Return ``low``, ``middle`` or ``high`` for each predicted effect size, ``all`` without boundaries."""
    names = {0: ["all"], 1: ["low", "high"], 2: ["low", "middle", "high"]}[len(edges)]
    return [names[i] for i in np.searchsorted(edges, size, side="left")]


def features(prediction: Prediction, new: Novelty) -> FloatArray:
    """Return float64 [C, 4], features that measure the similarity of conditions before they are observed.

    Log of the predicted effect size, log of the predicted standard deviation, number of parts that train
    lacks, and number of parts.
    """
    sigma = np.sqrt(prediction.var.astype(np.float64).mean(axis=1))
    lacking = np.where(new.known, 0, new.parts - new.seen)
    return np.stack(
        [np.log(effect_size(prediction.mean) + 1e-6), np.log(sigma + 1e-6), lacking, new.parts], axis=1
    ).astype(np.float64)
