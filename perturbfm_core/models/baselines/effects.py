"""Tables of mean effects per group of conditions, with fallback from fine to coarse groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes, pert_parts
from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.data.quantities import split_doses
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Activation and repression of the same gene must never be averaged, so modality is in every level.
PERTURBATION_LEVELS: tuple[tuple[str, ...], ...] = (
    (schema.PERT_ID, schema.MODALITY, schema.DOSES, schema.COVARIATES),
    (schema.PERT_ID, schema.MODALITY, schema.DOSES),
    (schema.PERT_ID, schema.MODALITY),
)
CONTEXT_LEVELS: tuple[tuple[str, ...], ...] = (
    *((schema.CONTEXT_ID, *level) for level in PERTURBATION_LEVELS),
    *PERTURBATION_LEVELS,
)

_COLUMNS = 1024
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


class EffectTable:
    """Mean effect of each group of conditions, by level from fine to coarse.

    Parameters
    ----------
    levels
        Each a tuple of condition columns; conditions with equal values in them form a group.
    """

    def __init__(self, levels: Sequence[tuple[str, ...]]) -> None:
        self.levels = tuple(levels)
        self.keys: list[dict[str, int]] = [{} for _ in self.levels]
        self.means: FloatArray = np.zeros((0, 0), dtype=np.float32)

    def fit(
        self, conditions: pd.DataFrame, effects: FloatArray, weights: FloatArray | None = None
    ) -> EffectTable:
        """Average effects over the groups of each level.

        Parameters
        ----------
        conditions
            Condition table [n].
        effects
            float [n, K], deltas in log1p units, or any other values per condition.
        weights
            float [n], weights of the conditions (default: equal); a group whose weights are all zero is
            averaged without.
        """
        means: list[FloatArray] = []
        made: dict[bytes, int] = {}
        size = 0
        for i, level in enumerate(self.levels):
            codes, known = pd.factorize(np.asarray(group_names(conditions, level), dtype=object))
            # Levels often give the same groups (one context, one dose): equal groups share their means.
            offset = made.setdefault(codes.tobytes(), size)
            if offset == size:
                means.append(_group_means(codes, len(known), effects, weights))
                size += len(known)
            self.keys[i] = {str(name): offset + j for j, name in enumerate(known)}
        self.means = np.concatenate(means) if means else self.means
        return self

    def look_up(self, conditions: pd.DataFrame) -> tuple[FloatArray, BoolArray]:
        """Return (float32 [C, K] effect of the finest known group, zero if none; bool [C] whether found)."""
        position = np.full(len(conditions), -1, dtype=np.int64)
        for level, keys in zip(self.levels, self.keys, strict=True):
            rest = np.flatnonzero(position < 0)
            if len(rest):
                names = group_names(conditions.iloc[rest], level)
                position[rest] = [keys.get(name, -1) for name in names]
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
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        """
        self.means = arrays[f"{prefix}.means"]
        self.keys = [{str(k): int(v) for k, v in level.items()} for level in meta[f"{prefix}.keys"]]


def _group_means(codes: IntArray, k: int, effects: FloatArray, weights: FloatArray | None) -> FloatArray:
    """Return float32 [k, K], the weighted means of `effects` [n, K] by group number [n], made in float64."""
    w = np.ones(len(codes)) if weights is None else np.asarray(weights, dtype=np.float64)
    empty = np.bincount(codes, weights=w, minlength=k) <= 0
    w = np.where(empty[codes], 1.0, w)
    groups = sp.csr_array((w, (codes, np.arange(len(codes)))), shape=(k, len(codes)))
    total = np.bincount(codes, weights=w, minlength=k)
    out = np.empty((k, effects.shape[1]), dtype=np.float32)
    for columns in row_blocks(effects.shape[1], _COLUMNS):
        out[:, columns] = (groups @ np.asarray(effects[:, columns], dtype=np.float64)) / total[:, None]
    return out


def group_names(conditions: pd.DataFrame, level: tuple[str, ...]) -> list[str]:
    """Return one unambiguous group name per condition."""
    return [_ENCODE(row) for row in zip(*(_texts(conditions, c) for c in level), strict=True)]


def _texts(conditions: pd.DataFrame, column: str) -> list[str]:
    """Return a column as text; tables are often short, and pandas takes far longer for the same."""
    return [str(value) for value in conditions[column].tolist()]


def components(conditions: pd.DataFrame) -> tuple[pd.DataFrame, IntArray]:
    """Return every part of every condition as a single, and int64 [parts], the condition it belongs to."""
    columns = [_texts(conditions, c) for c in schema.CONDITION_COLUMNS]
    rows, owner = [], []
    for i, (context, pert, modality, written, covariates) in enumerate(zip(*columns, strict=True)):
        parts = pert_parts(pert)
        doses = split_doses(written) if written else [""] * len(parts)
        if len(doses) != len(parts):
            doses = [written] * len(parts)
        rows += [(context, gene, modality, dose, covariates) for gene, dose in zip(parts, doses, strict=True)]
        owner += [i] * len(parts)
    made = np.empty((len(rows), len(columns)), dtype=object)
    made[:] = rows or made
    return pd.DataFrame(made, columns=list(schema.CONDITION_COLUMNS)), np.asarray(owner, dtype=np.int64)


def is_single(conditions: pd.DataFrame) -> BoolArray:
    """Return bool [C], whether a condition has exactly one perturbed gene."""
    return np.asarray(n_parts(conditions) == 1, dtype=np.bool_)


def n_parts(conditions: pd.DataFrame) -> IntArray:
    """Return int64 [C], the number of perturbed genes."""
    return np.asarray([len(pert_genes(p)) for p in conditions[schema.PERT_ID].astype(str)], dtype=np.int64)


def distinct_rows(rows: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return the distinct rows, sorted, and for each row the position of its distinct row.

    Same result as `numpy.unique`, but only the distinct rows are sorted.
    """
    number: dict[bytes, int] = {}
    first = [number.setdefault(row.tobytes(), len(number)) for row in rows]
    kept = rows[np.unique(np.asarray(first), return_index=True)[1]]
    out, place = np.unique(kept, axis=0, return_inverse=True)
    return out, np.asarray(place.reshape(-1)[first], dtype=np.int64)


def sum_parts(values: FloatArray, owner: IntArray, n: int) -> FloatArray:
    """Return float64 [n, K], the sums of the parts' values over the parts of each condition.

    Parameters
    ----------
    values
        float [parts, K], values of the parts.
    owner
        int64 [parts], the condition that each part belongs to.
    n
        Number of conditions.
    """
    members = sp.csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(n, len(owner)))
    return np.asarray(members @ np.asarray(values, dtype=np.float64))


class AdditiveEffects:
    """Sums of single effects, estimated from train singles.

    The mean over train singles replaces the effect of a part that train lacks.
    """

    def __init__(self) -> None:
        self.table = EffectTable(CONTEXT_LEVELS)
        self.fallback: FloatArray = np.zeros(0, dtype=np.float32)

    def fit(self, conditions: pd.DataFrame, effects: FloatArray) -> AdditiveEffects:
        """Learn the single effects from train conditions.

        Without any single, the means are those of the combinations, and the fallback is their mean per part.
        """
        single = is_single(conditions)
        if single.any():
            self.table.fit(conditions[single], effects[single])
            self.fallback = effects[single].mean(axis=0).astype(np.float32)
        else:
            self.table.fit(conditions, effects)
            self.fallback = (effects / n_parts(conditions)[:, None]).mean(axis=0).astype(np.float32)
        return self

    def predict(self, conditions: pd.DataFrame) -> FloatArray:
        """Return float32 [C, K], the sum of the effects of the parts."""
        parts, owner = components(conditions)
        effects, found = self.table.look_up(parts)
        effects[~found] = self.fallback
        return sum_parts(effects, owner, len(conditions)).astype(np.float32)

    def measured(self, conditions: pd.DataFrame) -> BoolArray:
        """Return bool [C], whether all parts of a condition have a measured single effect."""
        parts, owner = components(conditions)
        missing = owner[~self.table.look_up(parts)[1]]
        return np.asarray(np.bincount(missing, minlength=len(conditions)) == 0, dtype=np.bool_)

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        return {"singles.fallback": self.fallback, **self.table.arrays("singles")}

    def meta(self) -> dict[str, Any]:
        """Return the fitted names."""
        return self.table.meta("singles")

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned."""
        self.fallback = arrays["singles.fallback"]
        self.table.restore("singles", arrays, meta)
