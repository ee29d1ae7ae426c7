"""Splits with unseen doses or times, above (extrapolation) or between (interpolation) those in train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import Draft, Names, must_be_known, partition, split_kind, wanted_folds
from perturbfm_core.splits.kinds.covariate import covariate_values
from perturbfm_core.splits.quantity import parse_dose, parse_times
from perturbfm_core.splits.split import Axis

Levels = tuple[float, ...]
MODES = {"extrapolation": 2, "interpolation": 3}


class OrderedParams(Frozen):
    """Parameters of ``dose_ood`` and ``time_ood``."""

    mode: str = Field("extrapolation", description="extrapolation or interpolation.")
    perturbations: Annotated[Names, CommandOption("--holdout-perturbation")] = Field(
        (), description="Gene or drug to hold out."
    )


@split_kind("dose_ood", OrderedParams)
def dose_ood(conditions: pd.DataFrame, spec: SplitSpec, params: OrderedParams) -> list[Draft]:
    """Hold out each perturbation's top dose (``mode`` extrapolation) or a middle one (interpolation).

    All conditions of the perturbation at that dose are removed from train, in every context. They are tested
    if train keeps their context, else unused. ``perturbations`` restricts the split to some perturbations; k
    folds partition those with enough doses.

    Parameters
    ----------
    conditions
        Condition table [C] of the data set.
    spec
        Split specification: seed and number of folds.
    params
        Parameters of this kind.

    Raises
    ------
    SplitError
        If doses of a perturbation have different units, no perturbation has enough doses, or nothing can be
        tested.
    """
    parsed = [parse_dose(d) for d in conditions[schema.DOSES].astype(str)]
    units: dict[str, set[str]] = {}
    for pert, dose in zip(conditions[schema.PERT_ID].astype(str), parsed, strict=True):
        if dose is not None:
            units.setdefault(pert, set()).add(dose[1])
    for pert, found in units.items():
        if len(found) > 1:
            named = ", ".join(repr(u) for u in sorted(found))
            msg = f"doses of {pert!r} have units that cannot be compared ({named}); use one unit on import"
            raise SplitError(msg)
    return _along(conditions, spec, params, [(d[0],) if d else () for d in parsed], "dose")


@split_kind("time_ood", OrderedParams)
def time_ood(conditions: pd.DataFrame, spec: SplitSpec, params: OrderedParams) -> list[Draft]:
    """Hold out each perturbation's latest time (``mode`` extrapolation) or a middle one (interpolation).

    As `dose_ood`, by the covariate ``time``. A condition with several times ("24 h & 4 h") that includes the
    held-out one goes to `unused`, since it is neither seen nor unseen.

    Parameters
    ----------
    conditions
        Condition table [C] of the data set.
    spec
        Split specification: seed and number of folds.
    params
        Parameters of this kind.

    Raises
    ------
    SplitError
        If the data set has no covariate ``time``, no perturbation has enough times, or nothing can be tested.
    """
    if not any("time" in parse_covariates(c) for c in conditions[schema.COVARIATES].astype(str)):
        msg = "time_ood needs the covariate 'time', the data set has none; import with --time-col"
        raise SplitError(msg)
    texts = covariate_values(conditions, "time")
    return _along(conditions, spec, params, [parse_times(t) for t in texts], "time")


def _along(
    conditions: pd.DataFrame, spec: SplitSpec, params: OrderedParams, levels: Sequence[Levels], axis: Axis
) -> list[Draft]:
    """Return drafts along an ordered axis; `levels` [C] are the doses or times of each condition."""
    mode = params.mode
    if mode not in MODES:
        msg = f"unknown mode {mode!r} of {spec.kind}; known: {', '.join(MODES)}"
        raise SplitError(msg)
    perts = [str(p) for p in conditions[schema.PERT_ID].astype(str)]
    must_be_known(list(params.perturbations), sorted(set(perts)), "perturbation")
    levels_of: dict[str, set[float]] = {}
    for pert, found in zip(perts, levels, strict=True):
        levels_of.setdefault(pert, set()).update(found if len(found) == 1 else ())
    held = {pert: level for pert, found in levels_of.items() if (level := _held(found, mode)) is not None}
    wanted_perts = sorted(params.perturbations) or sorted(held)
    short = [p for p in wanted_perts if p not in held]
    if short or not held:
        most = max((len(found) for found in levels_of.values()), default=0)
        which = f"{short[0]!r} has {len(levels_of[short[0]])}" if short else f"none has more than {most}"
        msg = f"{spec.kind} ({mode}) needs perturbations with at least {MODES[mode]} {axis}s; {which}; use another kind or mode"
        raise SplitError(msg)
    if spec.folds is None:
        parts, wanted = [wanted_perts], [0]
    else:
        parts = partition(wanted_perts, spec.folds, spec.seed, f"perturbations with {MODES[mode]} {axis}s")
        wanted = wanted_folds(spec)
    drafts = []
    for f in wanted:
        level_of = {pert: held[pert] for pert in parts[f]}
        drafts.append(
            _draft(conditions, perts, levels, level_of, mode, axis, f if spec.folds else None, spec)
        )
    return drafts


def _touches(held: float | None, levels: Levels, mode: str) -> bool:
    """Return whether a condition is at the held-out level, or (extrapolation) above it."""
    return held is not None and any(x == held or (mode == "extrapolation" and x > held) for x in levels)


def _held(levels: set[float], mode: str) -> float | None:
    """Return the level to hold out: the highest (extrapolation) or a middle one; None if too few."""
    if len(levels) < MODES[mode]:
        return None
    ordered = sorted(levels)
    return ordered[-1] if mode == "extrapolation" else ordered[len(ordered) // 2]


def _draft(
    conditions: pd.DataFrame,
    perts: list[str],
    levels: Sequence[Levels],
    level_of: dict[str, float],
    mode: str,
    axis: Axis,
    fold: int | None,
    spec: SplitSpec,
) -> Draft:
    touched = np.asarray(
        [_touches(level_of.get(p), found, mode) for p, found in zip(perts, levels, strict=True)],
        dtype=np.bool_,
    )
    single = np.asarray([len(found) == 1 for found in levels], dtype=np.bool_)
    # A condition without a recorded level could be at the held-out one, so it must not be in train.
    unknown = np.asarray(
        [p in level_of and not found for p, found in zip(perts, levels, strict=True)], dtype=np.bool_
    )
    leaves = touched | unknown
    contexts = conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    known = np.isin(contexts, np.unique(contexts[~leaves]))
    trained = np.isin(
        np.asarray(perts, dtype=np.str_), [p for p, out in zip(perts, leaves, strict=True) if not out]
    )
    test = touched & single & known & trained
    if not test.any():
        msg = (
            f"no condition at a held-out {axis} is in a context that train keeps; "
            "use --holdout-perturbation to hold out fewer perturbations, or another mode"
        )
        raise SplitError(msg)
    spare, beside = _spare(conditions, perts, levels, leaves, mode)
    return Draft(
        test=conditions.index[test].tolist(),
        unused=conditions.index[leaves & ~test].tolist(),
        params={"mode": mode, "levels": {p: level_of[p] for p in sorted(level_of)}},
        ood_axes=(axis,),
        fold=fold,
        k=spec.folds,
        spare=spare,
        beside=beside,
    )


def _spare(
    conditions: pd.DataFrame, perts: list[str], levels: Sequence[Levels], leaves: np.ndarray, mode: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return {condition: perturbation} of training conditions at the level that would be held out next, and of others.

    Validation and calibration then test the same kind of generalisation as the test fold. The others touch that level or
    have none recorded, and would not stay in train either.
    """
    left: dict[str, set[float]] = {}
    for pert, found, out in zip(perts, levels, leaves, strict=True):
        if not out:
            left.setdefault(pert, set()).update(found if len(found) == 1 else ())
    following = {pert: _held(found, mode) for pert, found in left.items()}
    spare: dict[str, str] = {}
    beside: dict[str, str] = {}
    for key, pert, found, out in zip(map(str, conditions.index), perts, levels, leaves, strict=True):
        level = following.get(pert)
        if out or level is None:
            continue
        if found == (level,):
            spare[key] = pert
        elif not found or _touches(level, found, mode):
            beside[key] = pert
    return spare, beside
