"""Deltas of two halves of each test condition that came with the data, where there are no cells to halve."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.halves import halves_of
from perturbfm_core.data.table import condition_table
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.schema import FloatArray


def given_halves(ds: PerturbDataset, side: ObservedSide) -> tuple[FloatArray, FloatArray] | None:
    """Return float64 [C, G] each, the observed deltas of the two halves, None where none came with the data.

    Parameters
    ----------
    ds
        The data set.
    side
        The observed side of a split of it.
    """
    halves = halves_of(ds)
    if halves is None:
        return None
    first, second = (condition_table(half, side.rows).delta["reference"] for half in halves)
    return np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
