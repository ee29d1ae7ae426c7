"""Conditions of a split by fold, with the genes that were measured, for models that cannot predict every kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_key
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.schema import IntArray
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, Split


@dataclass(frozen=True, eq=False)
class SplitConditions:
    """Conditions of a split.

    Attributes
    ----------
    train, test
        Tables of the conditions that models are fitted on, and of those that are tested; index = key.
    genes
        Measured genes, None where the data are not at hand.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    genes: frozenset[str] | None = None

    @classmethod
    def of(cls, split: FrozenSplit, ds: PerturbDataset) -> SplitConditions:
        """Return the conditions of a split on its data."""

        def table(rows: IntArray) -> pd.DataFrame:
            return ds.conditions.iloc[np.unique(ds.condition_codes[rows])].astype(str)

        genes = frozenset(str(g) for g in ds.genes)
        return cls(table(split.rows(ds, *split.fit_folds)), table(split.rows(ds, "test")), genes)

    @classmethod
    def stated(cls, split: Split) -> SplitConditions | None:
        """Return the conditions that a split states itself, None for a split by row, which has them in its data."""
        if not isinstance(split.folds, ConditionFolds):
            return None
        folds = split.folds.table
        fit = [key for fold, keys in folds.items() if fold in split.fit_rows.split("+") for key in keys]
        return cls(_parsed(fit), _parsed(folds.get("test", ())))


def _parsed(keys: tuple[str, ...] | list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        [parse_key(key) for key in keys],
        columns=list(schema.CONDITION_COLUMNS),
        index=list(keys),
        dtype=object,
    )
