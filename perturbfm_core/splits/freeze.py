"""Creation of frozen splits from a data set and a split specification."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Fold, IntArray
from perturbfm_core.splits.carving import (
    RULE,
    carve_batches,
    carve_conditions,
    carve_rows,
    covariate_of_pairs,
)
from perturbfm_core.splits.draft import KINDS, Draft
from perturbfm_core.splits.inner_folds import inner_folds, level_folds
from perturbfm_core.splits.kinds.explicit import axes_of
from perturbfm_core.splits.split import (
    Axis,
    ConditionFolds,
    CvGroup,
    DatasetRef,
    FrozenSplit,
    InnerFolds,
    Policy,
    RowFolds,
    Split,
    codes_digest,
    inner_unit_of_axes,
    unit_of_axes,
)


def freeze(ds: PerturbDataset, spec: SplitSpec, *, rule: int = RULE) -> list[FrozenSplit]:
    """Return the splits that `spec` describes on `ds` (several for k folds), without writing them.

    The same specification on the same data gives the same hashes.

    Parameters
    ----------
    ds
        The data set.
    spec
        The specification.
    rule
        One of `EARLIER_RULES`, to make a split as it was made then.

    Raises
    ------
    SplitError
        If the kind is unknown, a name does not occur in the data set, or a fold would be empty.
    """
    kind = KINDS.get(spec.kind)
    facts = {} if kind.facts is None else kind.facts(ds)
    spec = spec.model_copy(update={"params": {**spec.params, **facts}})
    drafts = list(kind.drafts(ds, spec))
    if spec.folds is not None and any(draft.fold is None or draft.k != spec.folds for draft in drafts):
        msg = f"kind {spec.kind!r} makes no {spec.folds} folds of a cross-validation here; give no --folds"
        raise SplitError(msg)
    return [_finish(ds, spec, draft, rule) for draft in drafts]


def _finish(ds: PerturbDataset, spec: SplitSpec, draft: Draft, rule: int) -> FrozenSplit:
    if spec.kind == "explicit" and rule <= 4:
        draft = replace(draft, ood_axes=_axes_of_list(ds.conditions, draft, rule))
    ref = DatasetRef(name=ds.name, content_sha256=ds.content_sha256, genes_sha256=ds.genes_sha256)
    name = "context_ood" if spec.kind == "leave_one_context_out" else spec.kind
    params: dict[str, Any] = {**draft.params, "val_frac": spec.val_frac, "calib_frac": spec.calib_frac}
    if spec.transductive:
        params["transductive"] = True
    cv = None
    if draft.fold is not None and draft.k is not None:
        cv = CvGroup(group=_group(ds, spec, draft.k, rule), fold=draft.fold, k=draft.k)
    rng = np.random.default_rng([spec.seed, 1 + (draft.fold or 0)])
    if draft.row_fraction is not None or draft.batches is not None:
        if draft.batches is not None:
            codes, validation, calibration = carve_batches(ds, spec, draft.batches, rng)
        else:
            codes, validation, calibration = carve_rows(ds, spec, float(draft.row_fraction or 0), rng)
        train = ds.conditions
        inner = inner_folds(train, "perturbation", rng)
        validation, calibration = _downgrade(validation, inner), _downgrade(calibration, inner)
        folds: ConditionFolds | RowFolds = RowFolds(
            n_obs=ds.n_obs, rows_sha256=rows_digest(ds.row_ids), codes_sha256=codes_digest(codes)
        )
        row_codes: IntArray | None = codes
    else:
        assignment, validation, calibration = carve_conditions(ds.conditions, spec, draft, rng, rule)
        train = ds.conditions[[assignment[k] == "train" for k in ds.conditions.index]]
        inner = None
        if draft.spare is not None and rule > 3:
            inner = level_folds(train, draft.spare, rng, draft.beside if rule > 4 else {})
        if inner is None and rule <= 2:
            inner = inner_folds(train, unit_of_axes(draft.ood_axes), rng)
        elif inner is None:
            inner = inner_folds(train, inner_unit_of_axes(draft.ood_axes), rng, covariate_of_pairs(draft))
        validation, calibration = _downgrade(validation, inner), _downgrade(calibration, inner)
        table: dict[Fold, tuple[str, ...]] = {
            fold: tuple(sorted(k for k, f in assignment.items() if f == fold)) for fold in schema.FOLDS
        }
        folds, row_codes = ConditionFolds(table={f: keys for f, keys in table.items() if keys}), None
    split = Split(
        dataset=ref,
        kind=name,
        params=params,
        seed=spec.seed,
        folds=folds,
        cv=cv,
        validation=validation,
        calibration=calibration,
        inner=inner,
        fit_rows=spec.fit_rows,
        ood_axes=draft.ood_axes,
    )
    return FrozenSplit(split, row_codes)


def _axes_of_list(conditions: pd.DataFrame, draft: Draft, rule: int) -> tuple[Axis, ...]:
    """Return what is unseen in test of a listed split, as an earlier rule saw it.

    Parameters
    ----------
    conditions, draft
        Conditions of the data set, and what is listed.
    rule
        See `freeze`.
    """
    placed = {key for key, fold in draft.fixed.items() if fold != "train"} | {*draft.test, *draft.unused}
    return axes_of(conditions.loc[draft.test], conditions[~conditions.index.isin(placed)], rule)


def _group(ds: PerturbDataset, spec: SplitSpec, k: int, rule: int) -> str:
    """Return what the folds of one cross-validation share, whether they are made at once or one at a time.

    Parameters
    ----------
    ds, spec
        Data set and specification.
    k
        Number of folds.
    rule
        See `freeze`.
    """
    # Everything but the fold number.
    same = spec.model_dump(mode="json", exclude={"fold"})
    if spec.kind == "explicit":
        same["params"] = {"cv_group": spec.params.get("cv_group")}
    elif rule > 2:
        # A parameter that is given as it is by default says nothing, nor does the number of folds that a kind implies.
        params = KINDS.get(spec.kind).params.model_validate(spec.params)
        same |= {"params": params.model_dump(mode="json", exclude_defaults=True), "folds": k}
    return content_hash({"spec": same, "data": ds.content_sha256})[:16]


def _downgrade(policy: Policy, inner: InnerFolds | None) -> Policy:
    """Return ``none`` where inner folds were requested but cannot be made, with a single unit in training."""
    return "none" if policy == "inner_cv" and inner is None else policy
