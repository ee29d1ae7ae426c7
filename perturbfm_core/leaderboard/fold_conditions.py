"""Conditions of a board by the split that tests them: folds of a cross-validation can test one condition twice."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from perturbfm_core.leaderboard.board import Board
from perturbfm_core.leaderboard.condition_matrix import ConditionMatrix
from perturbfm_core.schema import FloatArray

_AT = "\t"


def tested_by_split(board: Board) -> dict[str, set[str]]:
    """Return {counted split: the conditions that runs on it are scored on}."""
    sets = {(r.split_hash, id(r.keys)): r.keys for r in board.counted}
    found: dict[str, set[str]] = {}
    for (split, _), keys in sets.items():
        found.setdefault(split, set()).update(keys)
    return found


def split_weights(tested: Mapping[str, Collection[str]]) -> dict[str, float]:
    """Return {split: the number of its conditions, one of several splits shared among them}: how its mean counts.

    Parameters
    ----------
    tested
        {split: its conditions}.
    """
    times: dict[str, int] = {}
    for keys in tested.values():
        for key in keys:
            times[key] = times.get(key, 0) + 1
    # Exact sums, so that neither the order of conditions nor that of splits shows in the last digit.
    return {split: math.fsum(1.0 / times[key] for key in keys) for split, keys in tested.items()}


def mean_of_splits(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean of one value per split, whatever their order.

    Parameters
    ----------
    values, weights
        One of each per split (see `split_weights`).
    """
    # From the least, so that equal values keep their mean to the last bit.
    least = min(values)
    above = math.fsum((v - least) * w for v, w in zip(values, weights, strict=True))
    return least + above / math.fsum(weights)


class FoldConditions:
    """The places of a board where a condition is tested, by which entries are averaged and paired.

    Where no condition is tested twice they are the conditions themselves.

    Parameters
    ----------
    tested
        {split: its conditions} (see `tested_by_split`).

    Attributes
    ----------
    conditions
        The conditions, sorted.
    keys
        Names of the places, sorted by condition.
    repeated
        Whether some condition has several places.
    """

    def __init__(self, tested: Mapping[str, Collection[str]]) -> None:
        pairs = sorted((key, split) for split, keys in tested.items() for key in keys)
        self._starts = np.asarray([i for i, (k, _) in enumerate(pairs) if not i or pairs[i - 1][0] != k])
        self.conditions = tuple(pairs[i][0] for i in self._starts)
        self.repeated = len(pairs) > len(self.conditions)
        self.keys = tuple(f"{key}{_AT}{split}" for key, split in pairs) if self.repeated else self.conditions

    def name(self, key: str, split: str) -> str:
        """Return the name of the place of a condition that a split tests."""
        return f"{key}{_AT}{split}" if self.repeated else key

    def of_split(self, matrix: ConditionMatrix, split: str) -> ConditionMatrix:
        """Return the scores of a run on a split with its places in the stead of conditions."""
        if not self.repeated:
            return matrix
        return replace(matrix, keys=tuple(self.name(key, split) for key in matrix.keys))

    def of_conditions(self, matrix: ConditionMatrix) -> ConditionMatrix:
        """Return scores over places as scores over conditions, in which every split of a condition counts once."""
        if not self.repeated:
            return matrix
        mean = self.by_condition(matrix.mean)
        defined = np.isfinite(mean)
        return replace(
            matrix,
            keys=self.conditions,
            total=np.where(defined, mean, 0.0),
            count=defined.astype(np.int32),
            scored=np.logical_or.reduceat(matrix.scored, self._starts, axis=1),
        )

    def by_condition(self, values: FloatArray) -> FloatArray:
        """Return [M, C], the mean over the places of each condition where a value [M, places] is defined."""
        if not self.repeated:
            return values
        ok = np.isfinite(values)
        n = np.add.reduceat(ok.astype(np.int64), self._starts, axis=1)
        total = np.add.reduceat(np.where(ok, values, 0.0), self._starts, axis=1)
        return np.asarray(np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0))
