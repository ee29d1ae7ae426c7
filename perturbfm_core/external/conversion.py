"""Raw output of an external model as deltas per condition, refused where it is not what it says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from perturbfm_core.data.prediction import scored_as_control
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.checks import delta_warnings
from perturbfm_core.external.delta_checks import check_scaled
from perturbfm_core.external.detectors import same_predictions, weak_responses
from perturbfm_core.external.matching import condition_rows, gene_order
from perturbfm_core.external.raw import Raw
from perturbfm_core.external.refusals import (
    FLAG,
    ControlOf,
    Degenerate,
    Missing,
    Values,
    check_finite,
    no_control,
    refuse_missing,
    replaced_by_control,
)
from perturbfm_core.external.scale_checks import check_delta, check_expression, log1p_of_counts
from perturbfm_core.external.skipped import skipped_of
from perturbfm_core.external.spaces import LOG1P, Declared, declared_of, words_of
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

__all__ = ["ControlOf", "Converted", "Degenerate", "Missing", "convert"]


@dataclass(frozen=True, eq=False)
class Converted:
    """Deltas of the conditions asked for.

    Attributes
    ----------
    mean
        float32 [C, G], expected delta in log1p units against the matched real control, or against the model's own control
        where that was asked for; 0 for conditions without a prediction.
    control
        Which of the two it is: ``real`` or ``model``.
    variant
        float32 [C, G], the delta against the other control; None where the model has none of its own.
    var
        float32 [C, G], predictive variance, or None.
    missing
        bool [C], conditions without a prediction.
    missing_keys
        Their keys.
    degenerate
        bool [C], conditions with a prediction that is their control, or one with that of other perturbations; all False
        unless such predictions are flagged.
    notes, warnings
        What was decided, and sentences that every reader of the scores must see.
    counts
        How many conditions were ``asked, predicted, missing, skipped, replaced_by_control``, and how many rows were left
        out as ``not_asked`` or ``control_rows``.
    """

    mean: FloatArray
    control: ControlOf
    variant: FloatArray | None
    var: FloatArray | None
    missing: BoolArray
    missing_keys: list[str]
    degenerate: BoolArray
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def variants(self) -> dict[ControlOf, FloatArray]:
        """Return {control: deltas} of both variants, as far as there are two."""
        other: ControlOf = "model" if self.control == "real" else "real"
        return {self.control: self.mean} | ({} if self.variant is None else {other: self.variant})


def convert(
    raw: Raw,
    asked: Asked,
    *,
    control: ControlOf = "real",
    missing: Missing = "refuse",
    degenerate: Degenerate = "refuse",
) -> Converted:
    """Convert a raw output to deltas of the conditions asked for.

    Parameters
    ----------
    raw
        What the worker wrote.
    asked
        The conditions, genes and real controls.
    control
        The control that is subtracted: the matched real one, or the model's own.
    missing
        What is done about conditions that are not predicted, that the worker skipped, or that are a control under
        another name: refuse, or take their control (a delta of 0), which is counted.
    degenerate
        What is done about an answer that is the same for several perturbations, or the control for all: refuse, or warn.

    Raises
    ------
    PredictionError
        If genes or conditions are missing, repeated or unknown, numbers are not finite, or are not what they are declared
        to be; in one line.
    """
    name = raw.source
    declared = declared_of(raw, asked)
    order = gene_order(raw, asked.genes)
    keys = condition_rows(raw, asked)
    skipped, why = skipped_of(raw, asked)
    notes = [f"worker: {' '.join(str(n).split())}" for n in raw.meta.get("notes") or ()]
    notes += [f"worker: {reason}" for reason in why]
    row = np.where(skipped, -1, keys.row)
    present = np.flatnonzero(row >= 0)
    if missing == "refuse" or not len(present):
        refuse_missing(name, asked, row < 0, skipped, why)
    at = row[present]
    check_finite(raw, asked, at, present)
    warnings: list[str] = []
    values = _values(raw, asked, declared, at, order, present, warnings)
    chosen = values.real if control == "real" else values.model
    if chosen is None:
        raise PredictionError(no_control(name, control))
    copied = replaced_by_control(name, asked.conditions.index[present], values, missing, degenerate, warnings)
    flagged = np.zeros(len(asked), dtype=np.bool_)
    replaced = copied & (degenerate != "flag")
    flagged[present[copied & ~replaced]] = True
    kept = ~replaced
    forms = [v[kept] for v in (chosen, values.expression) if v is not None]
    same = same_predictions(forms, asked.conditions.iloc[present[kept]])
    if same is not None:
        if degenerate == "refuse":
            msg = f"{name}: {same[0]}; models ignore perturbations that they do not know: leave these out, or {FLAG}"
            raise PredictionError(msg)
        warnings.append(same[0])
        flagged[present[kept][same[1]]] = True
    at_kept = present[kept]
    own_delta = None if values.model is None else values.model[kept]
    if own_delta is not None and values.own is not None:
        warnings += weak_responses(own_delta, values.own[kept])
    scored = chosen if values.real is None else values.real
    warnings += delta_warnings(
        scored[kept],
        asked if values.real is not None else replace(asked, control=None),
        at_kept,
        given_as_delta=values.expression is None and not declared.own_control,
        of_cells=control == "real",
        n_cells=None if raw.n_cells is None or declared.counts else raw.n_cells[at][kept],
        own_delta=own_delta,
    )
    absent = np.ones(len(asked), dtype=np.bool_)
    absent[at_kept] = False
    if absent.any():
        warnings.append(scored_as_control(int(absent.sum()), len(asked)))
    other = values.model if control == "real" else values.real
    counts = {
        "asked": len(asked),
        "predicted": int((~absent).sum()),
        "missing": int(absent.sum()),
        "skipped": int(skipped.sum()),
        "replaced_by_control": int(replaced.sum()),
        "not_asked": keys.not_asked,
        "control_rows": keys.controls,
    }
    return Converted(
        mean=_placed(chosen, present, absent),
        control=control,
        variant=None if other is None else _placed(other, present, absent),
        var=_variance(raw, declared, at, order, present, absent, notes),
        missing=absent,
        missing_keys=[str(k) for k in asked.conditions.index[absent]],
        degenerate=flagged,
        notes=notes,
        warnings=warnings,
        counts=counts,
    )


def _values(
    raw: Raw,
    asked: Asked,
    declared: Declared,
    at: IntArray,
    order: IntArray,
    present: IntArray,
    warnings: list[str],
) -> Values:
    """Return the predictions of the present conditions in log1p units, checked."""
    name, scale = raw.source, words_of(asked)
    M = raw.mean[np.ix_(at, order)].astype(np.float64)
    own = None if raw.control is None else raw.control[np.ix_(at, order)].astype(np.float64)
    real = None if asked.control is None else asked.control[present].astype(np.float64)
    if declared.counts:
        M = log1p_of_counts(name, M, real, asked.target_sum)
        own = None if own is None else log1p_of_counts(f"control of {name}", own, None, asked.target_sum)
    # Data without controls take deltas only.
    if declared.kind == "expression" and real is not None:
        warnings += check_expression(name, M, real, own, scale)
        return Values(M - real, None if own is None else M - own, M, own)
    if real is not None:
        warnings += check_delta(name, M, real, own, scale)
    if asked.space == LOG1P:
        warnings += check_scaled(name, raw.mean, scale)
    if not declared.own_control:
        both = own is not None and real is not None
        return Values(M, M + real - own if both else None, None, own)
    if own is None or real is None:
        return Values(None, M, None, own)
    return Values(M + own - real, M, None, own)


def _variance(
    raw: Raw,
    declared: Declared,
    at: IntArray,
    order: IntArray,
    present: IntArray,
    absent: BoolArray,
    notes: list[str],
) -> FloatArray | None:
    if raw.var is None:
        return None
    if declared.counts:
        notes.append("its variance is of counts and left out")
        return None
    var = raw.var[np.ix_(at, order)].astype(np.float64)
    out = np.tile(var.mean(axis=0), (len(absent), 1))
    out[present] = var
    return out.astype(np.float32)


def _placed(values: FloatArray, present: IntArray, absent: BoolArray) -> FloatArray:
    out = np.zeros((len(absent), values.shape[1]), dtype=np.float32)
    out[present] = values
    out[absent] = 0.0
    return out
