"""Freezing beside the splits of a folder, which keep the rule that they were frozen by."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import IntArray
from perturbfm_core.splits.carving import EARLIER_RULES
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.perturbench.saved import freeze_rows
from perturbfm_core.splits.split import FrozenSplit


def freeze_beside(folder: SplitFolder, ds: PerturbDataset, spec: SplitSpec) -> list[FrozenSplit]:
    """Return the splits that `spec` describes, without writing them, as the folder has them where it has some.

    A request that was frozen by an earlier rule (`EARLIER_RULES`) finds its splits again, and the other folds of their
    cross-validation are made alike.

    Parameters
    ----------
    folder
        Folder of frozen splits.
    ds
        The data set.
    spec
        The specification.
    """
    made = freeze(ds, spec)
    known = {entry.hash for entry in folder.index().splits}
    if {split.hash for split in made} <= known:
        return made
    # With all folds of a cross-validation, any of which may be there.
    whole = spec if spec.kind == "explicit" else spec.model_copy(update={"fold": None})
    for rule in EARLIER_RULES:
        # What a rule refuses was not frozen by it.
        with contextlib.suppress(SplitError):
            if known & {split.hash for split in freeze(ds, whole, rule=rule)}:
                return freeze(ds, spec, rule=rule)
    return made


def freeze_rows_beside(
    folder: SplitFolder, ds: PerturbDataset, codes: IntArray, params: Mapping[str, Any]
) -> FrozenSplit:
    """Return the by-row split with given fold codes (see `freeze_rows`), as the folder has it where it has it.

    Parameters
    ----------
    folder
        Folder of frozen splits.
    ds, codes, params
        As of `freeze_rows`.
    """
    made, earlier = freeze_rows(ds, codes, params), freeze_rows(ds, codes, params, rule=max(EARLIER_RULES))
    known = {entry.hash for entry in folder.index().splits}
    return earlier if made.hash not in known and earlier.hash in known else made
