"""Rows and controls that a fit may read: not those of held-out contexts and batches."""

from __future__ import annotations

import copy
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.controls import NOT_CONTROL
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import BoolArray, Fold, IntArray
from perturbfm_core.splits.split import FrozenSplit

_KEPT: WeakKeyDictionary[FrozenSplit, tuple[PerturbDataset, PerturbDataset]] = WeakKeyDictionary()


def open_rows(ds: PerturbDataset, split: FrozenSplit, *folds: Fold) -> BoolArray:
    """Return bool [N]: the rows of the given folds and the input controls of their contexts.

    A transductive split allows the input controls of all contexts. A split by batch excludes the controls of
    held-out batches, those of calibration among them, unless it is transductive.

    Parameters
    ----------
    ds, split
        Data set and split.
    *folds
        Names of the folds.
    """
    codes = split.codes(ds)
    fit = np.isin(codes, [schema.FOLDS.index(fold) for fold in folds])
    context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()
    open_contexts = np.unique(context if split.definition.transductive else context[fit])
    controls = ds.controls.has_role("input") & np.isin(context, open_contexts)
    if "batch" in split.definition.ood_axes and not split.definition.transductive:
        controls &= ~in_closed_batches(ds, split, codes)
    return np.asarray(fit | controls, dtype=np.bool_)


def in_closed_batches(ds: PerturbDataset, split: FrozenSplit, codes: IntArray) -> BoolArray:
    """Return bool [N]: rows of batches that are tested or calibrated on and not trained on.

    A batch of controls alone is held out by no fold.

    Parameters
    ----------
    ds, split
        Data set and split.
    codes
        int8 [N], fold of each row.
    """
    batch = ds.obs[schema.BATCH_ID].astype(str).to_numpy()
    folds = {fold: np.unique(batch[codes == schema.FOLDS.index(fold)]) for fold in schema.FOLDS}
    closed = {*folds["test"], *folds["calib"], *map(str, split.definition.params.get("holdout", ()))}
    return np.isin(batch, sorted(closed - {*folds["train"], *folds["val"]}))


def with_open_controls(ds: PerturbDataset, split: FrozenSplit) -> PerturbDataset:
    """Return the data set with the controls that rows of train and validation are matched to in a fit.

    Rows whose batch has no control are matched to all controls of their context. Where batches are held out, the controls
    of these are not among them, unless the split is transductive. All other splits get the data set itself.

    Raises
    ------
    SplitError
        If such rows would be left without any control.
    """
    if not ds.has_controls or "batch" not in split.definition.ood_axes or split.definition.transductive:
        return ds
    known = _KEPT.get(split)
    if known is None or known[0] is not ds:
        known = (ds, _restricted(ds, split))
        _KEPT[split] = known
    return known[1]


def _restricted(ds: PerturbDataset, split: FrozenSplit) -> PerturbDataset:
    codes, groups = split.codes(ds), ds.controls
    closed = ds.is_control & in_closed_batches(ds, split, codes)
    fitted = np.isin(codes, [schema.FOLDS.index(fold) for fold in ("train", "val")])
    pools = groups.match["input"][groups.group[fitted]]
    context = groups.context_of_group[groups.group]
    without = np.unique(pools[pools >= groups.n_groups]) - groups.n_groups
    if not (closed & np.isin(context, without)).any():
        return ds
    kept = replace(groups, roles=np.where(closed, NOT_CONTROL, groups.roles).astype(np.int8))
    bare = np.setdiff1d(without, context[kept.has_role("input")])
    if len(bare):
        names = ds.obs[schema.BATCH_ID].astype(str).to_numpy()
        row = np.flatnonzero(
            fitted & (context == bare[0]) & (groups.match["input"][groups.group] >= groups.n_groups)
        )[0]
        msg = (
            f"batch {names[row]!r} of train has no control row, and all controls of its context "
            f"{groups.contexts[bare[0]]!r} are in held-out batches; hold out another batch, or freeze with --transductive"
        )
        raise SplitError(msg)
    out = copy.copy(ds)
    # Roles and pools are computed once per data set; those of the copy are its own.
    vars(out).update(controls=kept, _pools={})
    return out
