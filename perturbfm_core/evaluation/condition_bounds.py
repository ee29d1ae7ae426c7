"""Ceilings and floors of a split by test condition, of which those of a whole cross-validation are made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perturbfm_core.data.npz import publish_npz, read_npz
from perturbfm_core.errors import StoreError
from perturbfm_core.schema import FloatArray

# Kinds of values: the floors by their names in `SplitStats.floor`, and half of the cells as a prediction.
NULL, CONTROL, TRAIN, HALF = "null", "control_mean", "train_mean", "half"
_CONDITION, _KIND, _METRIC, _VALUE = "condition", "kind", "metric", "value"
_ARRAYS = (_CONDITION, _KIND, _METRIC, _VALUE)


@dataclass(frozen=True, eq=False)
class ConditionBounds:
    """What trivial predictions and halves of the cells score in each condition.

    Attributes
    ----------
    conditions
        Keys of the C test conditions.
    values
        {(kind, name of a metric beside a split): float64 [C]}, NaN where it is undefined.
    """

    conditions: tuple[str, ...]
    values: Mapping[tuple[str, str], FloatArray]

    def write(self, path: Path) -> None:
        """Write the values to an npz file, which appears whole."""
        names = list(self.values)
        arrays = {
            _CONDITION: np.asarray(self.conditions, dtype=np.str_),
            _KIND: np.asarray([kind for kind, _ in names], dtype=np.str_),
            _METRIC: np.asarray([metric for _, metric in names], dtype=np.str_),
            _VALUE: np.stack([self.values[n] for n in names]),
        }
        publish_npz(path, arrays)


def read_condition_bounds(paths: Collection[Path]) -> ConditionBounds | None:
    """Return what files of one split hold together; None where there is none, or they are of other conditions.

    Raises
    ------
    StoreError
        If a file is damaged.
    """
    conditions: set[tuple[str, ...]] = set()
    values: dict[tuple[str, str], FloatArray] = {}
    for path in paths:
        found = read_npz(path, StoreError)
        if any(name not in found for name in _ARRAYS):
            msg = f"{path} lacks one of {', '.join(_ARRAYS)}; remove its folder, and the next scoring makes it anew"
            raise StoreError(msg)
        conditions.add(tuple(map(str, found[_CONDITION])))
        names = zip(map(str, found[_KIND]), map(str, found[_METRIC]), strict=True)
        values |= dict(zip(names, found[_VALUE], strict=True))
    return ConditionBounds(conditions.pop(), values) if len(conditions) == 1 else None


def mean_of_draws(draws: Sequence[FloatArray]) -> FloatArray:
    """Return float64 [C], the mean of draws [C] where each condition has a value."""
    stacked = np.stack(draws)
    ok = np.isfinite(stacked)
    n = ok.sum(axis=0)
    total = np.where(ok, stacked, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0))
