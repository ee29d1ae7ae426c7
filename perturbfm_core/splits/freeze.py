"""Creation of frozen splits from a data set and a split specification."""

from __future__ import annotations

from collections import Counter
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
from perturbfm_core.splits import kinds as _register_kinds  # noqa: F401
from perturbfm_core.splits.draft import KINDS, Draft, is_combo, seen_perts
from perturbfm_core.splits.inner_folds import inner_folds, pairs_of
from perturbfm_core.splits.inner_masks import crossed_units
from perturbfm_core.splits.kinds.covariate import covariate_values
from perturbfm_core.splits.split import (
    CROSSED,
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
    units_of,
)

MIN_UNITS = 5
# Below so many combination conditions in train, taking some out for validation and calibration costs more than it gives.
MIN_COMBOS = 200
# Rules that splits were frozen by: the first makes folds of few combinations too; the second groups the inner folds of
# pairs by condition, and holds out contexts alone where test has a new context and a new perturbation at once.
EARLIER_RULES = (1, 2)
RULE = 3


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
    ref = DatasetRef(name=ds.name, content_sha256=ds.content_sha256, genes_sha256=ds.genes_sha256)
    name = "context_ood" if spec.kind == "leave_one_context_out" else spec.kind
    params: dict[str, Any] = {**draft.params, "val_frac": spec.val_frac, "calib_frac": spec.calib_frac}
    if spec.transductive:
        params["transductive"] = True
    cv = None
    if draft.fold is not None and draft.k is not None:
        # Everything but the fold number, so that folds created one at a time get the same group.
        identity: dict[str, Any] = {
            "spec": spec.model_dump(mode="json", exclude={"fold"}),
            "data": ds.content_sha256,
        }
        if spec.kind == "explicit":
            identity["spec"]["params"] = {"cv_group": spec.params.get("cv_group")}
        cv = CvGroup(group=content_hash(identity)[:16], fold=draft.fold, k=draft.k)
    rng = np.random.default_rng([spec.seed, 1 + (draft.fold or 0)])
    if draft.row_fraction is not None or draft.batches is not None:
        if draft.batches is not None:
            codes, validation, calibration = _carve_batches(ds, spec, draft.batches, rng)
        else:
            codes, validation, calibration = _carve_rows(ds, spec, float(draft.row_fraction or 0), rng)
        train = ds.conditions
        inner = inner_folds(train, "perturbation", rng)
        validation, calibration = _downgrade(validation, inner), _downgrade(calibration, inner)
        folds: ConditionFolds | RowFolds = RowFolds(
            n_obs=ds.n_obs, rows_sha256=rows_digest(ds.row_ids), codes_sha256=codes_digest(codes)
        )
        row_codes: IntArray | None = codes
    else:
        assignment, validation, calibration = _carve_conditions(ds.conditions, spec, draft, rng, rule)
        train = ds.conditions[[assignment[k] == "train" for k in ds.conditions.index]]
        if rule < RULE:
            inner = inner_folds(train, unit_of_axes(draft.ood_axes), rng)
        else:
            inner = inner_folds(train, inner_unit_of_axes(draft.ood_axes), rng, _covariate(draft))
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


def _downgrade(policy: Policy, inner: InnerFolds | None) -> Policy:
    """Return ``none`` where inner folds were requested but cannot be made, with a single unit in training."""
    return "none" if policy == "inner_cv" and inner is None else policy


def _policies(spec: SplitSpec, n_units: int) -> tuple[int, int, Policy, Policy]:
    """Return (validation units, calibration units, validation policy, calibration policy)."""
    counts: list[int] = []
    policies: list[Policy] = []
    for asked, fraction in ((spec.validation, spec.val_frac), (spec.calibration, spec.calib_frac)):
        n = round(fraction * n_units)
        policy: Policy = ("fold" if n >= MIN_UNITS else "inner_cv") if asked == "auto" else asked
        if policy == "fold" and n < 1:
            msg = (
                f"a validation or calibration fold of {fraction:g} of {n_units} units is empty; "
                "raise --val-frac/--calib-frac or use inner_cv"
            )
            raise SplitError(msg)
        counts.append(n if policy == "fold" else 0)
        policies.append(policy)
    taken = sum(counts)
    if taken and taken >= n_units:
        msg = f"validation and calibration would take all {n_units} train units; lower --val-frac or --calib-frac"
        raise SplitError(msg)
    return counts[0], counts[1], policies[0], policies[1]


def _carve_conditions(
    conditions: pd.DataFrame, spec: SplitSpec, draft: Draft, rng: np.random.Generator, rule: int
) -> tuple[dict[str, Fold], Policy, Policy]:
    """Return ({condition: fold}, validation policy, calibration policy).

    Validation and calibration conditions are taken out of train by whole units, as the test conditions were.

    Parameters
    ----------
    conditions
        Condition table of the data set.
    spec, draft
        The specification, and what it holds out.
    rng
        Source of the random assignment.
    rule
        See `freeze`.
    """
    fold_of: dict[str, Fold] = dict.fromkeys((str(k) for k in conditions.index), "train")
    fold_of.update(dict.fromkeys(draft.unused, "unused"))
    fold_of.update(dict.fromkeys(draft.test, "test"))
    fold_of.update(draft.fixed)
    if any(fold in ("val", "calib") for fold in draft.fixed.values()):
        given = set(draft.fixed.values())
        validation: Policy = "fold" if "val" in given else "inner_cv"
        calibration: Policy = "fold" if "calib" in given else "inner_cv"
        _require_fold(fold_of, "train")
        return fold_of, validation, calibration
    # Validation and calibration are taken from the conditions that the draft leaves in train.
    free = conditions[[fold_of[k] == "train" for k in conditions.index]]
    if rule >= RULE and inner_unit_of_axes(draft.ood_axes) == CROSSED:
        validation, calibration = _carve_crossed(free, spec, rng, fold_of)
        return fold_of, validation, calibration
    unit = unit_of_axes(draft.ood_axes)
    units = units_of(free, unit) if draft.spare is None else _spare_units(free, draft.spare)
    # Conditions of one pair, such as its doses, leave train together.
    pairs = pairs_of(free, _covariate(draft)) if unit == "pair" and rule >= RULE else {}
    if pairs:
        pair_of = {key: pair for pair, keys in pairs.items() for key in keys}
        units = [(pair_of[str(key)],) for key in free.index]
    names = sorted({u for us in units for u in us})
    if unit == "combo" and rule > 1 and is_combo(free).sum() < MIN_COMBOS:
        spec = _without_folds(spec)
    n_val, n_calib, validation, calibration = _policies(spec, len(names))
    order = [names[i] for i in rng.permutation(len(names))]
    if unit == "pair" and n_val + n_calib:
        order = _spare(free, _covariate(draft), order)
        if len(order) < n_val + n_calib:
            n_val, n_calib, validation, calibration = _without_auto(spec, len(names), len(order))
    val, calib = set(order[:n_val]), set(order[n_val : n_val + n_calib])
    for key, us in zip(free.index, units, strict=True):
        in_val, in_calib = bool(val & set(us)), bool(calib & set(us))
        # A condition that shares units with both folds (a combination) would leak between them.
        if in_val and in_calib:
            fold_of[key] = "unused"
        elif in_val or in_calib:
            fold_of[key] = "val" if in_val else "calib"
    if draft.ood_axes == ("context",) and (val or calib):
        # As in test, only perturbations that occur in the remaining training contexts are kept.
        seen = seen_perts(conditions[[fold_of[k] == "train" for k in conditions.index]])
        for key, pert in zip(free.index, free[schema.PERT_ID].astype(str), strict=True):
            if fold_of[key] in ("val", "calib") and pert not in seen:
                fold_of[key] = "unused"
        fitted = ("train",) if spec.fit_rows == "train" else ("train", "val")
        seen = seen_perts(conditions[[fold_of[k] in fitted for k in conditions.index]])
        for key, pert in zip(conditions.index, conditions[schema.PERT_ID].astype(str), strict=True):
            if fold_of[key] == "test" and pert not in seen:
                fold_of[key] = "unused"
        _require_fold(fold_of, "test")
    _require_fold(fold_of, "train")
    return fold_of, validation, calibration


def _spare_units(free: pd.DataFrame, spare: dict[str, str]) -> list[tuple[str, ...]]:
    """Return the unit of each training condition that may be moved, none for those that must stay."""
    return [(spare[key],) if key in spare else () for key in free.index]


def _require_fold(fold_of: dict[str, Fold], fold: Fold) -> None:
    if fold not in fold_of.values():
        msg = f"nothing is left to {fold} on; hold out less, or lower --val-frac and --calib-frac"
        raise SplitError(msg)


def _carve_crossed(
    free: pd.DataFrame, spec: SplitSpec, rng: np.random.Generator, fold_of: dict[str, Fold]
) -> tuple[Policy, Policy]:
    """Set validation and calibration conditions with contexts and perturbations that train has neither of.

    As in test, conditions with one of the two are unused.

    Parameters
    ----------
    free
        Conditions of train.
    spec
        The specification.
    rng
        Source of the random assignment.
    fold_of
        {condition: fold}, which is changed.

    Returns
    -------
    Validation and calibration policy.

    Raises
    ------
    SplitError
        If a fold or train would be empty.
    """
    units = crossed_units(free)
    contexts = sorted({c for c, _ in units})
    genes = sorted({g for _, of in units for g in of})
    n_val, n_calib, validation, calibration = _policies(spec, len(contexts))
    far, new = ([axis[i] for i in rng.permutation(len(axis))] for axis in (contexts, genes))
    shares: tuple[tuple[Fold, int, float], ...] = (
        ("val", n_val, spec.val_frac),
        ("calib", n_calib, spec.calib_frac),
    )
    place: dict[str, Fold] = {}
    for fold, n, fraction in shares:
        if n:
            n_genes = max(1, round(fraction * len(genes)))
            place |= dict.fromkeys([*far[:n], *new[:n_genes]], fold)
            far, new = far[n:], new[n_genes:]
    for key, (context, of) in zip(free.index, units, strict=True):
        there, those = place.get(context, "train"), {place.get(g, "train") for g in of} - {"train"}
        if those or there != "train":
            fold_of[key] = there if those == {there} else "unused"
    for fold, n, _ in shares:
        if n and fold not in fold_of.values():
            msg = f"no train condition has both a context and a perturbation of the {fold} fold; use inner_cv, or another --seed"
            raise SplitError(msg)
    _require_fold(fold_of, "train")
    return validation, calibration


def _covariate(draft: Draft) -> str:
    """Return the covariate of a draft's pairs."""
    return str(draft.params.get("covariate", "context"))


def _spare(free: pd.DataFrame, covariate: str, order: list[str]) -> list[str]:
    """Return the training conditions, in the given order, that can be moved to validation or calibration.

    Train must keep every perturbation and every value of the covariate. Of several conditions of a pair the first stands
    for all.
    """
    free = free.loc[order]
    values = covariate_values(free, covariate)
    halves = dict(zip(free.index, zip(free[schema.PERT_ID].astype(str), values, strict=True), strict=True))
    by_pert = Counter(pert for pert, _ in halves.values())
    by_value = Counter(value for _, value in halves.values())
    out = []
    for key in order:
        pert, value = halves[key]
        if by_pert[pert] > 1 and by_value[value] > 1:
            by_pert[pert] -= 1
            by_value[value] -= 1
            out.append(key)
    return out


def _without_folds(spec: SplitSpec) -> SplitSpec:
    """Return the specification with inner folds where it leaves the choice open."""
    update = {p: "inner_cv" for p in ("validation", "calibration") if getattr(spec, p) == "auto"}
    return spec.model_copy(update=update)


def _without_auto(spec: SplitSpec, n_units: int, n_spare: int) -> tuple[int, int, Policy, Policy]:
    """Return sizes and policies where too few units can be moved: inner folds replace automatic folds."""
    out = _policies(_without_folds(spec), n_units)
    if out[0] + out[1] > n_spare:
        msg = (
            f"only {n_spare} of {n_units} train conditions can leave without hiding half of a test pair; "
            "lower --val-frac/--calib-frac or use inner_cv"
        )
        raise SplitError(msg)
    return out


def _carve_rows(
    ds: PerturbDataset, spec: SplitSpec, fraction: float, rng: np.random.Generator
) -> tuple[IntArray, Policy, Policy]:
    """Return (int8 [N] fold codes, validation policy, calibration policy) with random rows in each fold."""
    treated = np.flatnonzero(ds.condition_codes >= 0)
    order = rng.permutation(treated)
    n_test = round(fraction * len(treated))
    n_val, n_calib, validation, calibration = _policies(spec, len(treated) - n_test)
    if n_test < 1 or n_test + n_val + n_calib >= len(treated):
        msg = f"{len(treated)} perturbed rows are too few for test, validation and calibration; lower the fractions"
        raise SplitError(msg)
    codes = np.full(ds.n_obs, -1, dtype=np.int8)
    codes[treated] = schema.FOLDS.index("train")
    bounds = np.cumsum([0, n_test, n_val, n_calib])
    for fold, lo, hi in zip(("test", "val", "calib"), bounds[:-1], bounds[1:], strict=True):
        codes[order[lo:hi]] = schema.FOLDS.index(fold)
    return codes, validation, calibration


def _carve_batches(
    ds: PerturbDataset, spec: SplitSpec, test: tuple[str, ...], rng: np.random.Generator
) -> tuple[IntArray, Policy, Policy]:
    """Return (int8 [N] fold codes, validation policy, calibration policy) with whole batches in each fold.

    The given batches are tested; validation and calibration batches are drawn from the others.
    """
    batch = ds.obs[schema.BATCH_ID].astype(str).to_numpy()
    treated = ds.condition_codes >= 0
    others = sorted(set(batch[treated]) - set(test))
    n_val, n_calib, validation, calibration = _policies(spec, len(others))
    order = [others[i] for i in rng.permutation(len(others))]
    codes = np.full(ds.n_obs, -1, dtype=np.int8)
    codes[treated] = schema.FOLDS.index("train")
    parts: dict[Fold, list[str]] = {
        "test": list(test),
        "val": order[:n_val],
        "calib": order[n_val : n_val + n_calib],
    }
    for fold, names in parts.items():
        codes[treated & np.isin(batch, names)] = schema.FOLDS.index(fold)
    return codes, validation, calibration
