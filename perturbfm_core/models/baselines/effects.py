"""Average effects by group of conditions, looked up from the finest group that train has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import canonical_json
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.schema import BoolArray, FloatArray

# The same gene switched on and off must never be averaged: modality is in every level.
PERTURBATION_LEVELS: tuple[tuple[str, ...], ...] = (
    (schema.PERT_ID, schema.MODALITY, schema.DOSES, schema.COVARIATES),
    (schema.PERT_ID, schema.MODALITY, schema.DOSES),
    (schema.PERT_ID, schema.MODALITY),
)
CONTEXT_LEVELS: tuple[tuple[str, ...], ...] = (
    *((schema.CONTEXT_ID, *level) for level in PERTURBATION_LEVELS),
    *PERTURBATION_LEVELS,
)


class EffectTable:
    """Mean effect of each group, by level from fine to coarse.

    Parameters
    ----------
    levels
        Each a tuple of condition columns; conditions that agree in them form a group.
    """

    def __init__(self, levels: Sequence[tuple[str, ...]]) -> None:
        self.levels = tuple(levels)
        self.keys: list[dict[str, int]] = [{} for _ in self.levels]
        self.means: FloatArray = np.zeros((0, 0), dtype=np.float32)

    def fit(self, conditions: pd.DataFrame, effects: FloatArray) -> EffectTable:
        """Average `effects` [n, K] over the groups of each level (every condition counts once)."""
        means: list[FloatArray] = []
        offset = 0
        for i, level in enumerate(self.levels):
            names = group_names(conditions, level)
            known, codes = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
            sums = np.zeros((len(known), effects.shape[1]))
            np.add.at(sums, codes, effects)
            means.append(sums / np.bincount(codes, minlength=len(known))[:, None])
            self.keys[i] = {str(name): offset + j for j, name in enumerate(known)}
            offset += len(known)
        self.means = np.concatenate(means).astype(np.float32) if means else self.means
        return self

    def look_up(self, conditions: pd.DataFrame) -> tuple[FloatArray, BoolArray]:
        """Return ([C, K] effects, [C] whether found); not-found rows are zero."""
        position = np.full(len(conditions), -1, dtype=np.int64)
        for level, keys in zip(self.levels, self.keys, strict=True):
            for i, name in enumerate(group_names(conditions, level)):
                if position[i] < 0:
                    position[i] = keys.get(name, -1)
        found = position >= 0
        out = np.zeros((len(conditions), self.means.shape[1]), dtype=np.float32)
        out[found] = self.means[position[found]]
        return out, found

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the means under a prefixed name."""
        return {f"{prefix}.means": self.means}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the group names under a prefixed name."""
        return {f"{prefix}.keys": self.keys}

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Take back what `arrays` and `meta` returned."""
        self.means = arrays[f"{prefix}.means"]
        self.keys = [{str(k): int(v) for k, v in level.items()} for level in meta[f"{prefix}.keys"]]


def group_names(conditions: pd.DataFrame, level: tuple[str, ...]) -> list[str]:
    """Return one unambiguous group name per condition."""
    columns = [conditions[c].astype(str).tolist() for c in level]
    return [canonical_json(list(row)).decode() for row in zip(*columns, strict=True)]


def components(conditions: pd.DataFrame) -> tuple[pd.DataFrame, Any]:
    """Return every part of every condition as a single, and int64 [parts], the condition it is a part of."""
    rows, owner = [], []
    for i, row in enumerate(conditions[list(schema.CONDITION_COLUMNS)].astype(str).itertuples(index=False)):
        parts = pert_genes(row[1])
        doses = row[3].split(schema.COMBO_SEPARATOR) if row[3] else [""] * len(parts)
        if len(doses) != len(parts):
            doses = [row[3]] * len(parts)
        for gene, dose in zip(parts, doses, strict=True):
            rows.append((row[0], gene, row[2], dose, row[4]))
            owner.append(i)
    return pd.DataFrame(rows, columns=list(schema.CONDITION_COLUMNS)), np.asarray(owner, dtype=np.int64)


def is_single(conditions: pd.DataFrame) -> BoolArray:
    """Return bool [C]: conditions with one perturbed gene."""
    return np.asarray(
        [len(pert_genes(p)) == 1 for p in conditions[schema.PERT_ID].astype(str)], dtype=np.bool_
    )


class AdditiveEffects:
    """Sums of single effects, from train singles; the mean single stands in for one that train lacks."""

    def __init__(self) -> None:
        self.table = EffectTable(CONTEXT_LEVELS)
        self.fallback: FloatArray = np.zeros(0, dtype=np.float32)

    def fit(self, conditions: pd.DataFrame, effects: FloatArray) -> AdditiveEffects:
        """Learn the single effects from train conditions; without any, shares of the combinations."""
        single = is_single(conditions)
        if single.any():
            self.table.fit(conditions[single], effects[single])
            self.fallback = effects[single].mean(axis=0).astype(np.float32)
        else:
            size = np.asarray(
                [len(pert_genes(p)) for p in conditions[schema.PERT_ID].astype(str)], dtype=np.float64
            )
            self.table.fit(conditions, effects)
            self.fallback = (effects / size[:, None]).mean(axis=0).astype(np.float32)
        return self

    def predict(self, conditions: pd.DataFrame) -> FloatArray:
        """Return [C, K], the sum of the parts' effects."""
        parts, owner = components(conditions)
        effects, found = self.table.look_up(parts)
        effects[~found] = self.fallback
        out = np.zeros((len(conditions), effects.shape[1]), dtype=np.float32)
        np.add.at(out, owner, effects)
        return out

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        return {"singles.fallback": self.fallback, **self.table.arrays("singles")}

    def meta(self) -> dict[str, Any]:
        """Return the fitted names."""
        return self.table.meta("singles")

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Take back what `arrays` and `meta` returned."""
        self.fallback = arrays["singles.fallback"]
        self.table.restore("singles", arrays, meta)
