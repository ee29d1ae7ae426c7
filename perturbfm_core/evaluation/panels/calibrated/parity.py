"""Parity check with the calibrated metrics of Mejia et al. 2025, their gene weights and their controls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.evaluation.panels.calibrated import calibration, expression
from perturbfm_core.evaluation.panels.calibrated.parity_arrays import (
    array_records,
    cell_means,
    half_contrast,
    largest_by_name,
    read_numbers,
)
from perturbfm_core.evaluation.panels.calibrated.parity_scores import score_records
from perturbfm_core.evaluation.panels.calibrated.scores import Sides
from perturbfm_core.evaluation.parity import Record, known_form, register_case
from perturbfm_core.schema import FloatArray, StrArray

_RTOL, _ATOL = 1e-12, 1e-13
_SINGLE_ATOL = 2e-6
_CONSTANT_ATOL = 1e-6
# (absolute, relative) tolerance where the cells are in single precision.
_SINGLE = (_SINGLE_ATOL, 1e-5)
_CONTROL = "control"
_NPZ = "predictions.npz"


def _matches(folder: Path) -> bool:
    expected = folder / "expected.json"
    if not (folder / "cells.h5ad").is_file() or not (folder / _NPZ).is_file() or not expected.is_file():
        return False
    return "train_conditions" in json.loads(expected.read_text())


def _control(expected: dict[str, Any], labels: StrArray, conditions: list[str]) -> str:
    """Return the label of the control cells: the case's own, else ``control``, else the only label of no condition."""
    others = sorted(set(labels.tolist()) - set(conditions))
    named = str(expected.get("control", _CONTROL))
    return others[0] if named not in others and len(others) == 1 else named


@register_case("calibrated", _matches)
def compare(folder: Path) -> Iterator[Record]:
    """Compare every score of every prediction, then weights, controls and duplicates recomputed from the cells.

    The scores use the weights of the case; DEGs and everything else are computed from the cells.
    """
    import anndata

    cells = anndata.read_h5ad(folder / "cells.h5ad")
    X = np.asarray(cells.X.toarray() if hasattr(cells.X, "toarray") else cells.X, dtype=np.float64)
    tolerance = _SINGLE if cells.X.dtype == np.float32 else (_ATOL, _RTOL)
    label = cells.obs["condition"].astype(str).to_numpy().astype(np.str_)
    first = (cells.obs["tech_dup_split"].astype(str) == "first_half").to_numpy()
    expected = json.loads((folder / "expected.json").read_text())
    genes = [str(g) for g in cells.var_names]
    conditions, numbers = read_numbers(folder / _NPZ, genes)

    truth, duplicate = cell_means(X, label, conditions, first), cell_means(X, label, conditions, ~first)
    named = _control(expected, label, conditions)
    control = X[label == named].mean(axis=0)
    train_mean = cell_means(X, label, expected["train_conditions"], first).mean(axis=0)
    # The rest that a condition is tested against is all perturbed cells, whether the case scores their conditions or not.
    others = sorted(set(label.tolist()) - {named, *conditions})
    contrast, doubt = half_contrast(X, label, [*conditions, *others], first, cells.X)
    contrast, doubt = contrast.head(len(conditions)), doubt[: len(conditions)]
    sides = Sides(
        truth=truth,
        control=np.broadcast_to(control, truth.shape),
        center=np.broadcast_to(train_mean, truth.shape),
        contexts=np.zeros(len(conditions)),
        weights=numbers["weights"],
        degs=expression.significant(contrast),
    )
    for name, metrics in expected["values"].items():
        made = score_records(name, metrics, sides, numbers, conditions, tolerance)
        yield from known_form("scores", name, made)

    # The case says in words which p-values the interpolation takes.
    by_adjusted = re.search(r"\balpha\b[^;.]*\badjusted", str(expected.get("notes", "")))
    p = expression.adjusted(contrast.p) if by_adjusted else contrast.p
    positive = calibration.interpolated(duplicate, train_mean, p)
    weights = largest_by_name(expression.gene_weights(contrast, as_peer=True), genes)
    # The peer has a rounding error for the variance of a gene that does not vary.
    alpha_atol = np.where(contrast.t == 0, _CONSTANT_ATOL, 1e-11)
    # The weights of a condition are scaled by the largest t of its genes.
    unclear = {
        "weights": np.broadcast_to(doubt.any(axis=1, keepdims=True), doubt.shape),
        "alpha": doubt,
        "pred_interpolated_duplicate": doubt,
    }
    inputs: dict[str, tuple[FloatArray, float | FloatArray]] = {
        "truth": (truth, _ATOL),
        "control": (control[None], _ATOL),
        "train_mean": (train_mean[None], _ATOL),
        "weights": (weights, _SINGLE_ATOL),
        "alpha": (1.0 - np.nan_to_num(p, nan=1.0), alpha_atol),
        "pred_technical_duplicate": (duplicate, _ATOL),
        "pred_interpolated_duplicate": (positive, 1e-11),
    }
    for name, (values, atol) in inputs.items():
        allowed = np.broadcast_to(np.maximum(atol, tolerance[0]), values.shape)
        unsure = unclear.get(name, np.zeros(values.shape, dtype=np.bool_))
        made = array_records(name, values, numbers, conditions, genes, (allowed, tolerance[1]), unsure)
        yield from known_form(f"input_{name}", name, made)
