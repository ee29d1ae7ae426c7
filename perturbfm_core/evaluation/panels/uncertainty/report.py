"""Content of ``calibration.json`` about the test conditions: coverage by group with intervals, and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panels.uncertainty import clusters, coverage, gaussian, novelty, selective
from perturbfm_core.schema import COVERAGE_LEVELS, BoolArray, FloatArray
from perturbfm_core.splits.strata import terciles

PIT_BINS = 20
CURVE_POINTS = 50
WORST_LEVEL = 0.9
# Groups with fewer clusters are listed but cannot be the worst group.
MIN_CLUSTERS = 3
RELIABILITY = tuple(round(0.05 * i, 2) for i in range(1, 20))

Strata = Mapping[str, Mapping[str, str]]
HalfWidth = Callable[[Comparison, float], FloatArray | None]

_SIDES: dict[str, HalfWidth] = {
    "before": coverage.gaussian_half_width,
    "after": coverage.interval_half_width,
}


def calibration_report(c: Comparison, strata: Strata) -> dict[str, Any]:
    """Return coverage before (Gaussian) and after calibration by group, curves, and the reasons of undefined values.

    Parameters
    ----------
    c
        The comparison.
    strata
        {stratum: {condition key: value}} of the test conditions.

    Returns
    -------
    dict
        Its ``notes`` hold the reason of every null. For a prediction without variance it is the only entry.
    """
    if c.var_filled:
        return {"notes": {"all": "the prediction came without a variance; a constant was filled in"}}
    everyone = np.ones(len(c), dtype=np.bool_)
    groups = _groups(c, strata)
    out: dict[str, Any] = {
        "n_test_conditions": len(c),
        "n_test_perturbations": len(np.unique(c.perturbations)),
        "clustered": _coverages(c, everyone),
        "by_group": {
            axis: {
                name: {"n_conditions": int(rows.sum()), **_coverages(c, rows)} for name, rows in parts.items()
            }
            for axis, parts in groups.items()
        },
        "by_gene_scale": _by_gene_scale(c),
        "on_significant_genes": _coverages(c, everyone, coverage.significant(c)),
        "worst_group": _worst(c, groups),
        "reliability": _reliability(c),
        "pit_histogram": _pit(c),
        "risk_coverage": _risk_coverage(c),
        "novelty": _novelty(c),
        "effective_units": _effective(c),
    }
    return {**out, "notes": _notes(c, out)}


def _groups(c: Comparison, strata: Strata) -> dict[str, dict[str, BoolArray]]:
    """Return {axis: {group: bool [C]}}: terciles of predicted and of true effect size, contexts, strata."""
    truth = np.linalg.norm(c.observed, axis=1)
    labels: dict[str, Mapping[str, str]] = {
        "predicted_effect": coverage.predicted_effect(c),
        # True effect sizes are unknown before the experiment: a diagnosis, not a target for intervals.
        "true_effect": terciles(c.conditions.index, truth),
        "context": dict(zip(c.conditions.index.astype(str), c.contexts.astype(str), strict=True)),
        **{f"stratum:{name}": values for name, values in strata.items()},
    }
    keys = [str(k) for k in c.conditions.index]
    out: dict[str, dict[str, BoolArray]] = {}
    for axis, values in labels.items():
        mine = np.asarray([values.get(k, "") for k in keys])
        out[axis] = {str(name): mine == name for name in sorted(set(mine.tolist()) - {""})}
    return out


def _coverages(c: Comparison, rows: BoolArray, genes: BoolArray | None = None) -> dict[str, Any]:
    """Return {before|after: {level: clustered mean}, width: {level: mean}} of some conditions."""
    out: dict[str, Any] = {}
    widths: dict[str, float | None] = {}
    for side, half_width in _SIDES.items():
        levels: dict[str, Any] = {}
        for level in COVERAGE_LEVELS:
            half = half_width(c, level)
            hit = np.full(len(c), np.nan) if half is None else coverage.inside(c, half, genes)
            levels[f"{level:g}"] = clusters.clustered_mean(hit[rows], c.perturbations[rows])
            if side == "after" and genes is None:
                mean = np.nan if half is None else float(2 * half[rows].mean())
                widths[f"{level:g}"] = _or_none(mean)
        out[side] = levels
    return out if genes is not None else {**out, "width": widths}


def _by_gene_scale(c: Comparison) -> list[dict[str, Any]] | None:
    """Return coverage of genes by the size of their train deltas, smallest first."""
    bins = coverage.gene_bins(c)
    if bins is None:
        return None
    out = []
    for b in range(int(bins.max()) + 1):
        genes = np.broadcast_to(bins == b, c.observed.shape)
        out.append(
            {"n_genes": int((bins == b).sum()), **_coverages(c, np.ones(len(c), dtype=np.bool_), genes)}
        )
    return out


def _worst(c: Comparison, groups: dict[str, dict[str, BoolArray]]) -> dict[str, Any] | None:
    """Return the group whose calibrated 90 % coverage is farthest below its level; None without intervals.

    Groups that depend on the outcome, such as true effect size, are left out: intervals cannot be expected to have the
    same coverage in groups chosen by the outcome.
    """
    half = coverage.interval_half_width(c, WORST_LEVEL)
    if half is None:
        return None
    hit = coverage.inside(c, half)
    found = []
    for axis, parts in groups.items():
        if axis in ("true_effect", "stratum:effect", "stratum:distance", "stratum:response"):
            continue
        for name, rows in parts.items():
            mean = clusters.clustered_mean(hit[rows], c.perturbations[rows])
            if mean["n_clusters"] >= MIN_CLUSTERS:
                found.append({"axis": axis, "group": name, "level": WORST_LEVEL, **mean})
    return min(found, key=lambda item: float(item["value"])) if found else None


def _reliability(c: Comparison) -> dict[str, Any]:
    """Return nominal and observed coverage of central Gaussian intervals."""
    z = np.abs(c.observed - c.predicted) / np.sqrt(np.maximum(c.predicted_var, gaussian.VAR_FLOOR))
    # Level of the narrowest central interval that contains the observed value: 2 Phi(|z|) - 1.
    reach = 2 * gaussian.pit(z, np.zeros_like(z), np.ones_like(z)) - 1
    return {
        "nominal": list(RELIABILITY),
        "observed": [
            float(clusters.by_cluster((reach <= level).mean(axis=1), c.perturbations).mean())
            for level in RELIABILITY
        ],
    }


def _pit(c: Comparison) -> dict[str, Any]:
    shares = gaussian.histogram(gaussian.pit(c.observed, c.predicted, c.predicted_var), PIT_BINS)
    by_pert = [float(clusters.by_cluster(column, c.perturbations).mean()) for column in shares.T]
    return {"bins": PIT_BINS, "share": by_pert}


def _risk_coverage(c: Comparison) -> dict[str, Any]:
    risk = np.sqrt(((c.observed - c.predicted) ** 2).mean(axis=1))
    sigma = novelty.sigma(c)
    at = np.unique(np.linspace(0, len(risk) - 1, min(CURVE_POINTS, len(risk))).round().astype(np.int64))
    curves = {"model": sigma, "oracle": risk, "random": np.zeros_like(risk)}
    return {
        "kept": ((at + 1) / len(risk)).tolist(),
        "risk": {name: selective.risk_coverage(risk, order)[at].tolist() for name, order in curves.items()},
        "aurc": {name: _or_none(selective.aurc(risk, order)) for name, order in curves.items()},
        "excess_aurc": _or_none(selective.excess_aurc(risk, sigma)),
        "error_detection_auroc": _or_none(selective.error_detection(risk, sigma)),
    }


def _novelty(c: Comparison) -> dict[str, Any]:
    compared, label = novelty.labels(c)
    scores = {
        "model": novelty.model_score(c),
        "membership": novelty.lacking(c),
        "distance": novelty.distance(c),
    }
    mine = np.isfinite(label)
    return {
        "compared": compared,
        "n_more": int((label == 1).sum()),
        "n_less": int((label == 0).sum()),
        "uses": "sigma" if c.var_epistemic is None else "epistemic",
        "auroc": {
            name: None
            if compared is None or score is None
            else _or_none(selective.auroc(label[mine] > 0, score[mine]))
            for name, score in scores.items()
        },
    }


def _effective(c: Comparison) -> dict[str, Any] | None:
    """Return the effective number of calibration units of the intervals, and how many intervals were widened."""
    if c.intervals is None or c.intervals.effective is None:
        return None
    flag = c.intervals.flag
    return {
        "min": float(c.intervals.effective.min()),
        "median": float(np.median(c.intervals.effective)),
        "n_widened": 0 if flag is None else int(flag.sum()),
    }


def _notes(c: Comparison, out: dict[str, Any]) -> dict[str, str]:
    notes = {}
    after = out["clustered"]["after"]
    for level in [k for k, v in after.items() if v["value"] is None]:
        notes[f"after.{level}"] = (
            "the prediction has no calibrated intervals"
            if c.intervals is None
            else "no interval of this level: too few calibration units, or not requested"
        )
    if out["on_significant_genes"]["before"][f"{WORST_LEVEL:g}"]["value"] is None:
        notes["on_significant_genes"] = (
            "no gene changes beyond sampling noise, or the sampling variance is unknown"
        )
    if out["by_gene_scale"] is None:
        notes["by_gene_scale"] = "the train conditions are not available"
    if out["novelty"]["compared"] is None:
        notes["novelty"] = f"fewer than {novelty.MIN_CLUSTERS} perturbations on a side"
    if not out["by_group"]["predicted_effect"]:
        notes["by_group.predicted_effect"] = (
            "predicted effect sizes do not differ, or there are fewer than 3 conditions"
        )
    if out["worst_group"] is None:
        notes["worst_group"] = f"no intervals, or no group of {MIN_CLUSTERS} perturbations"
    for name in ("excess_aurc", "error_detection_auroc"):
        if out["risk_coverage"][name] is None:
            notes[f"risk_coverage.{name}"] = "fewer than 3 conditions, or their errors do not differ"
    return notes


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
