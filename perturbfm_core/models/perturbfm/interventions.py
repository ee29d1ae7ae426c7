"""Interventions: which genes a condition perturbs, in which direction and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import name_of_part
from perturbfm_core.data.modality import switches_off
from perturbfm_core.models.baselines.dose_response import DoseResponse, labels_of
from perturbfm_core.models.baselines.dose_series import doses_of
from perturbfm_core.models.baselines.effects import components, is_single
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.view import Query


@dataclass(frozen=True, eq=False)
class Interventions:
    """The parts of some conditions, as flat arrays; a part at a dose of 0 is no perturbation, and none of them.

    Attributes
    ----------
    n
        Number of conditions.
    owner
        int64 [parts], the condition that each part belongs to.
    genes, modality
        Name of the perturbed gene (or drug), as in tables of genes, and modality of each part.
    amount
        float64 [parts], strength by dose, relative to that of the largest dose in train; 1 where a dose is no number.
    sign
        float64 [parts], -1 where the modality switches its target off, else 1 (activation, a drug, no modality).
    """

    n: int
    owner: IntArray
    genes: list[str]
    modality: list[str]
    amount: FloatArray
    sign: FloatArray

    @cached_property
    def labels(self) -> list[str]:
        """Return gene and modality of each part as one label, since activation and repression differ."""
        return [f"{g}|{m}" for g, m in zip(self.genes, self.modality, strict=True)]

    @property
    def sizes(self) -> IntArray:
        """Return int64 [n], the number of parts of each condition, 0 where all are at a dose of 0."""
        return np.bincount(self.owner, minlength=self.n)

    def incidence(self, names: list[str], *, by: str = "label", signed: bool = False) -> FloatArray:
        """Return float64 [n, names], the amount of each named label (or gene) in each condition.

        Parameters
        ----------
        names
            Labels or genes, one per column; other parts are ignored.
        by
            ``"label"``: names are labels of gene and modality; anything else: names are genes.
        signed
            Whether amounts have the sign of the modality.
        """
        position = {name: i for i, name in enumerate(names)}
        keys = self.labels if by == "label" else self.genes
        out = np.zeros((self.n, len(names)))
        value = self.amount * self.sign if signed else self.amount
        for key, row, amount in zip(keys, self.owner, value, strict=True):
            if key in position:
                out[row, position[key]] += amount
        return out


def active_components(conditions: pd.DataFrame) -> tuple[pd.DataFrame, IntArray]:
    """Return every part of every condition as a single, without those at a dose of 0, and the condition it belongs to."""
    parts, owner = components(conditions)
    at = np.flatnonzero(doses_of(parts[schema.DOSES]) != 0)
    return parts.iloc[at], owner[at]


def measured_singles(conditions: pd.DataFrame) -> BoolArray:
    """Return bool [n], whether a condition perturbs one gene; one at a dose of 0 is no measurement of its effect."""
    return np.asarray(is_single(conditions) & (interventions(conditions).sizes == 1), dtype=np.bool_)


def active_query(query: Query) -> tuple[Query, BoolArray]:
    """Return a query without the parts at a dose of 0, and bool [n], conditions that have no other, which stay."""
    of_every = components(query.conditions)[1]
    parts, owner = active_components(query.conditions)
    left = np.bincount(owner, minlength=len(query))
    fewer = np.flatnonzero((left > 0) & (left < np.bincount(of_every, minlength=len(query))))
    if len(fewer):
        conditions = query.conditions.astype({schema.PERT_ID: str, schema.DOSES: str})
        for name in (schema.PERT_ID, schema.DOSES):
            texts, own = (
                conditions[name].to_numpy(dtype=object, copy=True),
                parts[name].to_numpy(dtype=object),
            )
            texts[fewer] = [schema.COMBO_SEPARATOR.join(own[owner == i]) for i in fewer]
            conditions[name] = texts
        query = replace(query, conditions=conditions)
    return query, left == 0


def interventions(conditions: pd.DataFrame, response: DoseResponse | None = None) -> Interventions:
    """Return the parts of conditions.

    Parameters
    ----------
    conditions
        Condition table [n].
    response
        Amounts of doses (default: logarithmic, relative to the largest dose of these conditions).
    """
    parts, owner = active_components(conditions)
    curves = DoseResponse.logarithmic(conditions) if response is None else response
    modality = [str(m) for m in parts[schema.MODALITY]]
    return Interventions(
        n=len(conditions),
        owner=owner,
        genes=[name_of_part(str(g)) for g in parts[schema.PERT_ID]],
        modality=modality,
        amount=curves.amounts(parts[schema.DOSES], labels_of(parts)),
        sign=np.asarray([-1.0 if switches_off(m) else 1.0 for m in modality]),
    )
