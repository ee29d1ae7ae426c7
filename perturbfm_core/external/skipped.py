"""Conditions that an external model says it did not predict."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.matching import ConditionNames
from perturbfm_core.external.raw import Raw
from perturbfm_core.schema import BoolArray


def skipped_of(raw: Raw, asked: Asked) -> tuple[BoolArray, list[str]]:
    """Return (bool [C], conditions asked for that the worker lists as skipped; why, each reason once).

    An entry names a condition by its key, or a perturbation in one context or all; one that names neither is about training,
    and its text is passed on.
    """
    out = np.zeros(len(asked), dtype=np.bool_)
    names = ConditionNames(asked, raw.source)
    contexts = asked.conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    why: dict[str, None] = {}
    for entry in raw.meta.get("skipped") or ():
        name, context, reason = _read(entry)
        at = [] if name is None else [i for i in names.fitting(name) if context in (None, contexts[i])]
        out[at] = True
        if at and reason:
            why[reason] = None
        elif not at:
            why[f"skipped: {' '.join(str(entry).split())[:200]}"] = None
    return out, list(why)


def _read(entry: Any) -> tuple[str | None, str | None, str]:
    """Return (name, context if it is of one alone, reason) of an entry."""
    if isinstance(entry, str):
        return entry, None, ""
    if not isinstance(entry, dict):
        return None, None, ""
    name, context = (
        next((entry[k] for k in keys if isinstance(entry.get(k), str)), None)
        for keys in (("key", "condition", "pert_id"), ("context_id", "context"))
    )
    return name, None if context == "*" else context, " ".join(str(entry.get("why", "")).split())
