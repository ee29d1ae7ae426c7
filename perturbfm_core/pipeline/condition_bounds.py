"""Ceilings and floors by condition of the folds of a cross-validation: where they are kept, and which folds need them."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.ceilings import PANEL, bounds_of
from perturbfm_core.evaluation.condition_bounds import ConditionBounds
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.splits.folder import SplitFolder, SplitStats
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.code import code_of

CONDITIONS_FILE = "conditions.npz"


def condition_bounds_file(store: ArtifactStore, split: FrozenSplit, stats: SplitStats) -> Path:
    """Return the file of a split's values by condition for panel `delta`, which need not exist.

    Parameters
    ----------
    store
        Where artifacts lie.
    split
        The split.
    stats
        What is stored beside it.
    """
    code = code_of("perturbfm_core.evaluation.ceilings", *PANELS.get(PANEL).modules)
    key = {
        "stage": "condition_bounds",
        "split": split.hash,
        "halves": stats.halves,
        "code": code.digest,
    }
    return store.object(content_hash(key)) / CONDITIONS_FILE


def put_condition_bounds(
    store: ArtifactStore, split: FrozenSplit, stats: SplitStats, values: ConditionBounds
) -> None:
    """Keep the values by condition of a split, if it is a fold of a cross-validation.

    Parameters
    ----------
    store
        Where artifacts lie.
    split
        The split.
    stats
        What is stored beside it.
    values
        Its ceilings and floors by condition.
    """
    if split.definition.cv is not None:
        key = condition_bounds_file(store, split, stats).parent.name
        store.put_object(key, lambda target: values.write(target / CONDITIONS_FILE))


def keep_condition_bounds(
    store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit, stats: SplitStats
) -> None:
    """Compute the values by condition of a fold that was frozen without, if other folds test its conditions too.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    split
        The split.
    stats
        What is stored beside it.
    """
    key = condition_bounds_file(store, split, stats).parent.name
    if store.find(key) is None and shares_conditions(SplitFolder(store.split_dir), split):
        bounds_of(ds, split, keep=lambda values: put_condition_bounds(store, split, stats, values))


def shares_conditions(folder: SplitFolder, split: FrozenSplit) -> bool:
    """Return whether another fold of a cross-validation tests a condition of this one."""
    cv = split.definition.cv
    if cv is None:
        return False
    siblings = [e.hash for e in folder.index().splits if e.cv_group == cv.group and e.hash != split.hash]
    own = _tested(split)
    # Rows of one condition are spread over the folds of a cross-validation by row.
    return bool(siblings) and (own is None or any(own & (_tested(folder.load(h)) or own) for h in siblings))


def _tested(split: FrozenSplit) -> set[str] | None:
    """Return the test conditions of a split by condition, None for one by row."""
    folds = split.definition.folds
    return set(folds.table.get("test", ())) if isinstance(folds, ConditionFolds) else None
