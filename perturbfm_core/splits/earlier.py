"""Freezing beside the splits of a folder, which keep the rule that they were frozen by."""

from __future__ import annotations

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import FrozenSplit


def freeze_beside(folder: SplitFolder, ds: PerturbDataset, spec: SplitSpec) -> list[FrozenSplit]:
    """Return the splits that `spec` describes, without writing them, as the folder has them where it has some.

    With few combinations inner folds stand in for validation and calibration folds, which they did not always: a request
    that was frozen with folds finds its splits again, and the other folds of their cross-validation are made alike.

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
    if all(split.definition.ood_axes != ("combo",) for split in made):
        return made
    earlier = freeze(ds, spec, min_combos=0)
    hashes = {split.hash for split in earlier}
    if hashes == {split.hash for split in made}:
        return made
    groups = {split.definition.cv.group for split in earlier if split.definition.cv is not None}
    for entry in folder.index().splits:
        alike = entry.cv_group in groups and folder.load(entry.hash).definition.validation == "fold"
        if entry.hash in hashes or alike:
            return earlier
    return made
