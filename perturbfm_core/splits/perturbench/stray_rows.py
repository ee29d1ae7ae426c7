"""Rows of a saved split that are warned of: few in train that make it one of cells, and those that the data set lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.splits.split import FrozenSplit

if TYPE_CHECKING:
    from perturbfm_core.splits.perturbench.saved import SavedSplit

# Share of the rows of tested conditions that may be in train by mistake; more are there by design.
_MOST = 0.2


def stray_rows(ds: PerturbDataset, split: FrozenSplit) -> str | None:
    """Return a warning of rows in train or validation whose conditions are otherwise tested, None if there are none.

    Such a split counts as i.i.d., so that its test conditions are not held to be unseen. A true i.i.d. split has many
    rows of its conditions in train.

    Parameters
    ----------
    ds
        The data set.
    split
        A split by row.
    """
    if split.definition.ood_axes:
        return None
    fitted, tested = (ds.condition_codes[split.rows(ds, *folds)] for folds in (("train", "val"), ("test",)))
    conditions = np.unique(tested)
    shared = np.intersect1d(conditions, fitted)
    in_fit, in_test = int(np.isin(fitted, shared).sum()), len(tested)
    if in_fit > _MOST * (in_fit + in_test):
        return None
    row = ds.row_ids[split.rows(ds, "train", "val")[np.flatnonzero(np.isin(fitted, shared))[0]]]
    return (
        f"{len(shared)} of {len(conditions)} test conditions have rows in train or validation ({in_fit} beside {in_test} "
        f"tested rows, e.g. {str(row)!r}): the split counts as one of cells (i.i.d.), without the checks of unseen "
        "conditions; move these rows to test if its conditions are to be unseen"
    )


def lacking_rows(ds: PerturbDataset, saved: SavedSplit, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of rows in a fold of a saved split that the data set does not have, such as filtered cells.

    Parameters
    ----------
    ds
        The data set.
    saved
        The saved split.
    names
        Row names of the file that the split was made on, in its order.
    """
    listed = (row for row, fold in saved.fold_of.items() if fold != "unused")
    had = set(map(str, ds.row_ids))
    return tuple(n for row in listed if (n := names[row] if isinstance(row, int) else row) not in had)
