"""Validation and calibration folds, carved out of train as the test fold was: by whole units, batches or rows."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Fold, IntArray
from perturbfm_core.splits.draft import Draft, is_combo, seen_perts
from perturbfm_core.splits.inner_folds import pairs_of
from perturbfm_core.splits.inner_masks import crossed_units
from perturbfm_core.splits.kinds.covariate import covariate_values
from perturbfm_core.splits.split import CROSSED, Policy, inner_unit_of_axes, unit_of_axes, units_of

MIN_UNITS = 5
# Below so many combination conditions in train, taking some out for validation and calibration costs more than it gives.
MIN_COMBOS = 200
# Rules that splits were frozen by: the first makes folds of few combinations too; the second groups the inner folds of
# pairs by condition, holds out contexts alone where test has a new context and a new perturbation at once, moves conditions
# that are listed as train, does not see what is asked beside a list, and groups folds by the words of the request; the
# third holds out perturbations in the inner folds of doses and times; the fourth knows one axis of a list, and leaves
# conditions of several times in train where one of these validates.
EARLIER_RULES = (1, 2, 3, 4)
RULE = 5


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


def carve_conditions(
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
        `RULE`, or one of `EARLIER_RULES`.

    Raises
    ------
    SplitError
        If a fold would be empty, or the specification contradicts the list that it holds.
    """
    fold_of: dict[str, Fold] = dict.fromkeys((str(k) for k in conditions.index), "train")
    fold_of.update(dict.fromkeys(draft.unused, "unused"))
    fold_of.update(dict.fromkeys(draft.test, "test"))
    fold_of.update(draft.fixed)
    given = set(draft.fixed.values())
    if given & {"val", "calib"}:
        validation, calibration = _policies_of_listed(spec, given, rule)
        _require_fold(fold_of, "train")
        return fold_of, validation, calibration
    if "train" in given and rule > 2:
        # What is listed as train stays there, unless folds are asked for.
        spec = _without_folds(spec)
    # Validation and calibration are taken from the conditions that the draft leaves in train.
    free = conditions[[fold_of[k] == "train" for k in conditions.index]]
    if rule > 2 and inner_unit_of_axes(draft.ood_axes) == CROSSED:
        validation, calibration = _carve_crossed(free, spec, rng, fold_of)
        return fold_of, validation, calibration
    unit = unit_of_axes(draft.ood_axes)
    beside = draft.beside if rule > 4 else {}
    units = units_of(free, unit) if draft.spare is None else _spare_units(free, {**draft.spare, **beside})
    # Conditions of one pair, such as its doses, leave train together.
    pairs = pairs_of(free, covariate_of_pairs(draft)) if unit == "pair" and rule > 2 else {}
    if pairs:
        pair_of = {key: pair for pair, keys in pairs.items() for key in keys}
        units = [(pair_of[str(key)],) for key in free.index]
    names = sorted({u for us in units for u in us})
    if unit == "combo" and rule > 1 and is_combo(free).sum() < MIN_COMBOS:
        spec = _without_folds(spec)
    n_val, n_calib, validation, calibration = _policies(spec, len(names))
    order = [names[i] for i in rng.permutation(len(names))]
    if unit == "pair" and n_val + n_calib:
        order = _spare(free, covariate_of_pairs(draft), order)
        if len(order) < n_val + n_calib:
            n_val, n_calib, validation, calibration = _without_auto(spec, len(names), len(order))
    if draft.spare is not None and n_val + n_calib and rule > 2:
        order = _leaving_contexts(free, units, order, conditions.loc[list(draft.test), schema.CONTEXT_ID])
        if len(order) < n_val + n_calib:
            n_val, n_calib, validation, calibration = _without_auto(spec, len(names), len(order))
    val, calib = set(order[:n_val]), set(order[n_val : n_val + n_calib])
    for key, us in zip(free.index, units, strict=True):
        in_val, in_calib = bool(val & set(us)), bool(calib & set(us))
        # A condition that shares units with both folds (a combination) would leak between them.
        if in_val and in_calib:
            fold_of[key] = "unused"
        elif in_val or in_calib:
            fold_of[key] = "unused" if key in beside else "val" if in_val else "calib"
    if draft.ood_axes == ("context",) and (val or calib):
        # As in test, only perturbations that occur in the remaining training contexts are kept.
        _leave_unseen_out(conditions, fold_of, held=("val", "calib"), fitted=("train",))
        fitted: tuple[Fold, ...] = ("train",) if spec.fit_rows == "train" else ("train", "val")
        _leave_unseen_out(conditions, fold_of, held=("test",), fitted=fitted)
        _require_fold(fold_of, "test")
    _require_fold(fold_of, "train")
    return fold_of, validation, calibration


def _leave_unseen_out(
    conditions: pd.DataFrame, fold_of: dict[str, Fold], *, held: tuple[Fold, ...], fitted: tuple[Fold, ...]
) -> None:
    """Set conditions of some folds to ``unused`` whose perturbation is not in the fitted ones.

    Parameters
    ----------
    conditions
        Condition table of the data set.
    fold_of
        {condition: fold}, which is changed.
    held, fitted
        The folds whose conditions may leave, and those that are fitted on.
    """
    seen = seen_perts(conditions[[fold_of[k] in fitted for k in conditions.index]])
    for key, pert in zip(conditions.index, conditions[schema.PERT_ID].astype(str), strict=True):
        if fold_of[key] in held and pert not in seen:
            fold_of[key] = "unused"


def _spare_units(free: pd.DataFrame, spare: dict[str, str]) -> list[tuple[str, ...]]:
    """Return the unit of each training condition that may be moved, none for those that must stay."""
    return [(spare[key],) if key in spare else () for key in free.index]


def _leaving_contexts(
    free: pd.DataFrame, units: list[tuple[str, ...]], order: list[str], tested: pd.Series
) -> list[str]:
    """Return the units, in the given order, that can be moved while train keeps every context of test.

    Parameters
    ----------
    free, units
        Conditions of train, and the units of each that may be moved.
    order
        The units.
    tested
        Contexts of test.
    """
    contexts = free[schema.CONTEXT_ID].astype(str).tolist()
    left, needed = Counter(contexts), set(tested.astype(str))
    own: dict[str, Counter[str]] = {}
    for context, of in zip(contexts, units, strict=True):
        for unit in of:
            own.setdefault(unit, Counter())[context] += 1
    out = []
    for unit in order:
        if all(left[c] > n for c, n in own[unit].items() if c in needed):
            left -= own[unit]
            out.append(unit)
    return out


def _require_fold(fold_of: dict[str, Fold], fold: Fold) -> None:
    if fold not in fold_of.values():
        msg = f"nothing is left to {fold} on; hold out less, or lower --val-frac and --calib-frac"
        raise SplitError(msg)


def _policies_of_listed(spec: SplitSpec, given: set[Fold], rule: int) -> tuple[Policy, Policy]:
    """Return validation and calibration policy where a list names conditions of either fold.

    Parameters
    ----------
    spec
        The specification.
    given
        Folds that the list names.
    rule
        `RULE`, or one of `EARLIER_RULES`.

    Raises
    ------
    SplitError
        If the specification asks for something else than the list has.
    """
    out: list[Policy] = []
    asked: tuple[tuple[Fold, str, Policy | Literal["auto"]], ...] = (
        ("val", "validation", spec.validation),
        ("calib", "calibration", spec.calibration),
    )
    for fold, option, policy in asked:
        listed = fold in given
        if rule <= 2 or policy == "auto":
            out.append("fold" if listed else "inner_cv")
            continue
        if (policy == "fold") == listed:
            out.append(policy)
            continue
        have, cure = (
            ("names conditions", f"give --{option} fold, or a list without them")
            if listed
            else ("names no condition", f"list some, or give --{option} inner_cv")
        )
        msg = f"--{option} {policy} contradicts the list, which {have} of the {fold} fold; {cure}"
        raise SplitError(msg)
    return out[0], out[1]


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


def covariate_of_pairs(draft: Draft) -> str:
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
            f"only {n_spare} of {n_units} train units can leave without hiding a context, or half of a pair, of test; "
            "lower --val-frac/--calib-frac or use inner_cv"
        )
        raise SplitError(msg)
    return out


def carve_rows(
    ds: PerturbDataset, spec: SplitSpec, fraction: float, rng: np.random.Generator
) -> tuple[IntArray, Policy, Policy]:
    """Return (int8 [N] fold codes, validation policy, calibration policy) with random rows in each fold.

    Parameters
    ----------
    ds, spec
        Data set and specification.
    fraction
        Share of the perturbed rows to test.
    rng
        Source of the random assignment.

    Raises
    ------
    SplitError
        If there are too few perturbed rows.
    """
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


def carve_batches(
    ds: PerturbDataset, spec: SplitSpec, test: tuple[str, ...], rng: np.random.Generator
) -> tuple[IntArray, Policy, Policy]:
    """Return (int8 [N] fold codes, validation policy, calibration policy) with whole batches in each fold.

    The given batches are tested; validation and calibration batches are drawn from the others.

    Parameters
    ----------
    ds, spec
        Data set and specification.
    test
        Batches to test.
    rng
        Source of the random assignment.
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
