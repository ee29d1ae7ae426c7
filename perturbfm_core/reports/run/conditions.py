"""Observed and predicted changes by condition and gene, packed for the plots of a report.

All genes of all conditions while they are few. Beyond 200,000 points, each condition keeps its genes of largest change
and as many that are spread over the rest, the same for all; beyond 1,000 conditions, those at evenly spaced ranks of
the headline are kept.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.reports.run.scores import ReportScores
from perturbfm_core.reports.run.values import compact
from perturbfm_core.schema import IntArray

POINTS = 200_000
MOST_CONDITIONS = 1_000
_FEWEST_GENES = 100
_LARGEST = float(np.finfo(np.float16).max)


def titles_of(comparison: Comparison) -> list[str]:
    """Return a title of each condition: what tells it from others."""
    return comparison.once("report.titles", lambda: _titles(comparison))


def single(comparison: Comparison, side: str) -> Any:
    """Return float32 [C, G] of the ``observed`` or ``predicted`` side, made once for all pictures."""
    return comparison.once(f"report.{side}", lambda: getattr(comparison, side).astype(np.float32))


def _titles(comparison: Comparison) -> list[str]:
    frame = comparison.conditions
    perts, contexts = comparison.perturbations, comparison.contexts
    several = len(np.unique(contexts)) > 1 or len(np.unique(perts)) < len(perts)
    out = [f"{p} in {c}" if several else str(p) for p, c in zip(perts, contexts, strict=True)]
    for name in ("modality", "doses", "covariates"):
        if name in frame and frame[name].astype(str).nunique() > 1:
            out = [f"{t}, {v}" if v else t for t, v in zip(out, frame[name].astype(str), strict=True)]
    return out


def condition_data(comparison: Comparison, scores: ReportScores) -> dict[str, Any]:
    """Return titles, headline values and packed changes of the conditions that are shown.

    Returns
    -------
    dict
        ``keys, titles, values`` [n] of the shown conditions, worst first, those without a value last; ``genes`` [g];
        ``k`` genes per condition; base64 of little-endian ``index`` (uint32 [n, k], None for all genes in order) and
        float16 [n, k] ``observed, predicted, error`` (standard error) and ``spread`` (predicted standard deviation,
        None without a variance); ``rule``, the sentence that says what is left out.
    """
    rows = _shown(comparison, scores)
    k = _genes_each(len(rows), len(comparison.genes))
    index = None if k == len(comparison.genes) else _genes_of(comparison, rows, k)
    names = [str(g) for g in comparison.genes]
    if index is not None:
        used, index = np.unique(index, return_inverse=True)
        columns = used[index].reshape(len(rows), k)
        names = [names[g] for g in used]

    def packed(values: Any, *, root: bool = False) -> str:
        taken = values[rows] if index is None else values[rows[:, None], columns]
        taken = np.sqrt(taken) if root else taken
        return _text(np.clip(taken.astype(np.float32), -_LARGEST, _LARGEST).astype("<f2"))

    keys = [str(comparison.conditions.index[i]) for i in rows]
    titles = titles_of(comparison)
    return {
        "keys": keys,
        "titles": [titles[i] for i in rows],
        "values": compact(scores.by_condition["value"].reindex(keys).to_numpy(dtype=float)),
        "cells": comparison.n[rows].astype(int).tolist(),
        "genes": names,
        "k": k,
        "index": None if index is None else _text(index.reshape(len(rows), k).astype("<u4")),
        "observed": packed(single(comparison, "observed")),
        "predicted": packed(single(comparison, "predicted")),
        "error": packed(comparison.s2, root=True),
        "spread": None if comparison.var_filled else packed(comparison.predicted_var, root=True),
        "rule": _rule(len(rows), len(comparison), k, len(comparison.genes)),
    }


def _shown(comparison: Comparison, scores: ReportScores) -> IntArray:
    """Return positions of the conditions to show, worst first, those without a value last."""
    position = {str(key): i for i, key in enumerate(comparison.conditions.index)}
    ordered = [position[str(key)] for key in scores.goodness.index if str(key) in position]
    rest = sorted(set(range(len(comparison))) - set(ordered))
    rows: IntArray = np.asarray(ordered + rest, dtype=np.int64)
    if len(rows) <= MOST_CONDITIONS:
        return rows
    at: IntArray = np.linspace(0, len(rows) - 1, MOST_CONDITIONS).round().astype(np.int64)
    return np.asarray(rows[at])


def _genes_each(conditions: int, genes: int) -> int:
    return min(genes, max(POINTS // max(conditions, 1), _FEWEST_GENES))


def _genes_of(comparison: Comparison, rows: IntArray, k: int) -> IntArray:
    """Return int64 [rows, k]: the genes of largest change of each condition, then those that all share."""
    genes = len(comparison.genes)
    spread: IntArray = np.unique(np.linspace(0, genes - 1, k // 2).round().astype(np.int64))
    size, given = np.abs(single(comparison, "observed")), np.abs(single(comparison, "predicted"))
    size = np.maximum(size, given, out=size)[rows]
    size[:, spread] = -1.0
    most = k - len(spread)
    top = np.argpartition(size, genes - most, axis=1)[:, genes - most :]
    return np.concatenate([top, np.broadcast_to(spread, (len(rows), len(spread)))], axis=1)


def _rule(shown: int, conditions: int, k: int, genes: int) -> str:
    parts = []
    if shown < conditions:
        parts.append(f"{shown} of {conditions} conditions, at evenly spaced ranks of the headline")
    if k < genes:
        parts.append(
            f"{k} of {genes} genes of each condition: those of largest change, and {k // 2} spread evenly over all"
        )
    return f"Shown are {'; '.join(parts)}." if parts else ""


def _text(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
