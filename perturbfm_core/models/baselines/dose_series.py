"""Series of doses: products of the deltas of a perturbation at several doses, from which their amounts follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.quantities import canonical_dose
from perturbfm_core.models.baselines.effects import group_names, is_single
from perturbfm_core.schema import FloatArray, IntArray, StrArray
from perturbfm_core.splits.view import TrainView

_NUMBER = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_PERTURBATION = (schema.PERT_ID, schema.MODALITY, schema.COVARIATES)


@dataclass(frozen=True, eq=False)
class DoseSeries:
    """Products of the deltas of a perturbation at several doses.

    Attributes
    ----------
    doses
        float64 [k].
    products
        float64 [k, k], sums of products of deltas of two doses.
    counts
        float64 [k, k], how many products each is the sum of; None where they are the products of k deltas.
    size
        Mean square of the deltas.
    """

    doses: FloatArray
    products: FloatArray
    counts: FloatArray | None
    size: float

    def explained(self, halves: FloatArray) -> FloatArray:
        """Return float64 [h], the share of squares, or of squared products, that half-maximal doses [h] explain."""
        a = self.doses / (self.doses + halves[:, None])
        fit = np.maximum(((a @ self.products) * a).sum(axis=1), 0.0)
        if self.counts is None:
            # Least squares of the rows on amounts leave trace - a' products a / a' a.
            return np.asarray(fit / (a**2).sum(axis=1) / self.size)
        # Of the mean products P on a a': (sum of n P a a')^2 / sum of n (a a')^2.
        return np.asarray(fit**2 / ((a**2 @ self.counts) * a**2).sum(axis=1) / self.size**2)


def dose_series(view: TrainView, unit: str) -> list[DoseSeries]:
    """Return the series of singles over contexts, or those within contexts where no perturbation is in several.

    Only doses of the given unit count.
    """
    conditions = view.conditions
    doses, units = read_doses(conditions[schema.DOSES])
    doses = np.where(units == unit, doses, np.nan)
    at = np.flatnonzero(is_single(conditions) & (doses > 0))
    if len(np.unique(doses[at])) < 2:
        return []
    contexts = conditions[schema.CONTEXT_ID].to_numpy(dtype=np.str_)
    found = [
        s
        for rows in _groups(conditions, at, _PERTURBATION)
        if (s := _across(view.delta, doses, contexts, rows)) is not None
    ]
    if not found:
        groups = _groups(conditions, at, (schema.CONTEXT_ID, *_PERTURBATION))
        found = [_within(view.delta[rows], doses[rows]) for rows in groups if len(set(doses[rows])) > 1]
    # A small delta is mostly noise: it counts by its size in relation to the median one.
    typical = float(np.median([s.size for s in found])) if found else 0.0
    return [replace(s, size=s.size + typical) for s in found if s.size + typical > 0]


def _groups(conditions: pd.DataFrame, at: IntArray, columns: tuple[str, ...]) -> list[IntArray]:
    """Return the positions of each group of conditions with equal values in some columns, of those at `at`."""
    names = np.asarray(group_names(conditions.iloc[at], columns), dtype=object)
    return [group.to_numpy() for _, group in pd.Series(at).groupby(names, sort=True)]


def _within(delta: FloatArray, doses: FloatArray) -> DoseSeries:
    rows = delta.astype(np.float64)
    products = rows @ rows.T
    return DoseSeries(doses, products, None, float(np.trace(products)) / len(rows))


def _across(delta: FloatArray, doses: FloatArray, contexts: StrArray, rows: IntArray) -> DoseSeries | None:
    """Return the products of different contexts; None without several contexts and doses in different ones."""
    levels, level = np.unique(doses[rows], return_inverse=True)
    names, context = np.unique(contexts[rows], return_inverse=True)
    if len(levels) < 2 or len(names) < 2:
        return None
    sums = np.zeros((len(names), len(levels), delta.shape[1]))
    n = np.zeros((len(names), len(levels)))
    np.add.at(sums, (context, level), delta[rows])
    np.add.at(n, (context, level), 1.0)
    # All products less those of a context with itself.
    total, count = sums.sum(axis=0), n.sum(axis=0)
    products = total @ total.T - np.einsum("cig,cjg->ij", sums, sums, optimize=True)
    counts = np.outer(count, count) - n.T @ n
    if np.count_nonzero(counts) < 3:
        return None
    return DoseSeries(
        levels, products, counts, float((delta[rows].astype(np.float64) ** 2).sum()) / len(rows)
    )


def doses_of(texts: Sequence[str] | pd.Series[str]) -> FloatArray:
    """Return float64 [parts], the numbers at the start of doses, NaN where there is none."""
    return read_doses(texts)[0]


def read_doses(texts: Sequence[str] | pd.Series[str]) -> tuple[FloatArray, StrArray]:
    """Return (float64 [parts] numbers of doses, NaN where there is none; [parts] their units, empty for none).

    Units that can be converted are one: 500 nM is 0.5 of the unit "uM".
    """
    found = [_number_and_unit(str(text)) for text in texts]
    numbers = np.asarray([number for number, _ in found], dtype=np.float64)
    return numbers, np.asarray([unit for _, unit in found], dtype=object)


@lru_cache(maxsize=1 << 16)
def _number_and_unit(text: str) -> tuple[float, str]:
    written = canonical_dose(text)[0]
    found = _NUMBER.match(written)
    return (np.nan, "") if found is None else (float(found[1]), written[found.end() :].strip())
