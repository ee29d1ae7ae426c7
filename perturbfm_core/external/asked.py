"""Conditions that an external model is asked for, with what its output is checked against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction_controls import cell_variance
from perturbfm_core.schema import FloatArray, StrArray
from perturbfm_core.splits.view import Query


@dataclass(frozen=True, eq=False)
class Asked:
    """Conditions asked of a model, and the real controls that its answer is compared with.

    Attributes
    ----------
    conditions
        Condition table [C], index = key.
    genes
        Gene ids of the data set [G].
    control
        float32 [C, G], mean of the matched input controls in log1p units; None for delta-only data.
    known
        Table of all conditions of the data set: those not asked for may be in an output, and are ignored. None if
        there are no others.
    target_sum
        Counts per cell that the data are scaled to, None where that is not known.
    space
        Scale that the data are scored in.
    cell_var
        From a context to the variance of its input control cells [G], NaN where there are too few; None for data without
        single cells.
    controls
        Returns {context: mean of its input controls [G]} of all contexts of the data set; None for delta-only data.
    imported
        What the import of the data set recorded of the columns of its file, such as the labels of controls.
    """

    conditions: pd.DataFrame
    genes: StrArray
    control: FloatArray | None
    known: pd.DataFrame | None = None
    target_sum: float | None = None
    space: str = "log1p"
    cell_var: Callable[[str], FloatArray] | None = None
    controls: Callable[[], dict[str, FloatArray]] | None = None
    imported: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.conditions)

    @classmethod
    def of(cls, ds: PerturbDataset, query: Query) -> Asked:
        """Return the conditions of a query to a data set."""
        scaled = ds.metadata.normalization
        recorded = ds.metadata.notes.get("columns")
        return cls(
            conditions=query.conditions,
            genes=ds.genes,
            control=query.control,
            known=ds.conditions,
            target_sum=None if scaled is None else scaled.target_sum,
            space="log1p" if ds.metadata.space == "counts" else ds.metadata.space,
            cell_var=partial(cell_variance, ds) if ds.has_controls and ds.metadata.level == "cell" else None,
            controls=partial(_controls, ds) if ds.has_controls else None,
            imported=recorded if isinstance(recorded, dict) else {},
        )


def _controls(ds: PerturbDataset) -> dict[str, FloatArray]:
    groups, mean = ds.controls, ds.control_pools("input").mean
    return {str(c): np.asarray(mean[groups.n_groups + i]) for i, c in enumerate(groups.contexts)}
