"""Coverage of the test by a run: conditions that were predicted, missing, or have no value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from perturbfm_core.leaderboard.left_out import count_left_out
from perturbfm_core.reports.run.scores import ReportScores
from perturbfm_core.store.run_record import RunRecord


def coverage_of(
    scores: ReportScores, record: RunRecord, training: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return counts of conditions by what became of them, and the reasons of what has no value.

    Parameters
    ----------
    scores, record
        Scores and record of the run.
    training
        Content of ``training.json``; None without it.

    Returns
    -------
    dict
        ``total``; ``parts``, (name, count, class) that sum to it; ``notes``, sentences.
    """
    total = len(scores.by_condition)
    missing = min(count_left_out(record, training), total)
    status = scores.by_condition["status"]
    apart = int((status == "not_applicable").sum())
    undefined = int((status == "undefined").sum())
    parts = [("predicted", total - missing, "ok"), ("missing", missing, "bad")]
    name = ".".join(scores.headline)
    notes = []
    if missing:
        notes.append(
            f"Missing conditions are scored as their control, a change of zero: {missing} of {total}."
        )
    without = scores.by_condition[status != "ok"]
    if len(without):
        reasons = without["reason"].dropna().value_counts()
        why = f": {reasons.index[0]}" if len(reasons) else ""
        count = (
            f"not applicable in {apart}" if apart and not undefined else f"without a value in {len(without)}"
        )
        notes.append(f"{name} is {count} of {total} conditions{why}.")
    extra = int(record.notes.get("conditions_not_asked_for", 0))
    if extra:
        notes.append(
            f"{extra} further conditions were predicted that the split does not test; they are left out."
        )
    unknown = int(record.notes.get("unknown_conditions", 0))
    if unknown:
        notes.append(f"{unknown} conditions of the file are unknown to the data set.")
    metrics = scores.overall
    dead = metrics[metrics["status"] != "ok"]
    if len(dead):
        notes.append(f"{len(dead)} of {len(metrics)} metrics have no value here: {_why(dead)}.")
    return {
        "total": total,
        "parts": [p for p in parts if p[1] or p[0] == "predicted"],
        "defined": int((status == "ok").sum()),
        "notes": notes,
    }


def _why(dead: pd.DataFrame) -> str:
    """Return the most frequent reasons, with their counts."""
    reasons = dead["reason"].fillna("no reason was recorded").astype(str).str.partition(": ")
    text = reasons[2].where(reasons[2] != "", reasons[0])
    counts = text.value_counts()
    shown = [f"{reason} ({n})" for reason, n in counts.items()][:3]
    return "; ".join(shown) + (f"; {len(counts) - 3} further reasons" if len(counts) > 3 else "")
