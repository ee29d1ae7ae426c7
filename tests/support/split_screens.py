"""Perturbations of small screens that splits are frozen on, and a freeze whose refusal is returned."""

from __future__ import annotations

from itertools import combinations

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import FrozenSplit
from tests.support.factories import grid_rows

SINGLES = ["A", "B", "C", "D", "E"]
PAIRS = ["+".join(p) for p in combinations(SINGLES, 2)]
GRID = grid_rows(["A", "B", "C", "A+B", "B+C"], ["x", "y", "z"])


def tried(ds: PerturbDataset, spec: SplitSpec) -> tuple[list[FrozenSplit], str]:
    """Return (the splits of a specification, why it is refused, else empty)."""
    try:
        return freeze(ds, spec), ""
    except SplitError as error:
        return [], str(error)
