"""Parity check with the calibrated metrics of Mejia et al. 2025, their gene weights and their controls."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from perturbfm_core.evaluation.panels.calibrated import calibration, expression
from perturbfm_core.evaluation.panels.calibrated.scores import Sides, all_scores
from perturbfm_core.evaluation.parity import UNKNOWN, Record, compared, not_compared, register_case
from perturbfm_core.schema import FloatArray

_RTOL, _ATOL = 1e-12, 1e-13
_SINGLE_ATOL = 2e-6
_NPZ = "predictions.npz"


def _matches(folder: Path) -> bool:
    expected = folder / "expected.json"
    if not (folder / "cells.h5ad").is_file() or not (folder / _NPZ).is_file() or not expected.is_file():
        return False
    return "train_conditions" in json.loads(expected.read_text())


def _made(metric: str, key: str, got: float, expected: float) -> Record:
    return Record(metric, key, expected, got, atol=_ATOL, rtol=_RTOL)


def _largest_by_name(weights: FloatArray, genes: list[str]) -> FloatArray:
    """Return weights [C, G] in which a gene that is listed twice has its larger one in both places."""
    _, codes = np.unique(genes, return_inverse=True)
    largest = np.zeros((len(weights), int(codes.max()) + 1))
    for j, code in enumerate(codes):
        largest[:, code] = np.maximum(largest[:, code], weights[:, j])
    return largest[:, codes]


@register_case("calibrated", _matches)
def compare(folder: Path) -> Iterable[Record]:
    """Compare every score of every prediction, then weights, controls and duplicates recomputed from the cells.

    The scores use the weights of the case; DEGs and everything else are computed from the cells.
    """
    import anndata

    cells = anndata.read_h5ad(folder / "cells.h5ad")
    X = np.asarray(cells.X, dtype=np.float64)
    label = cells.obs["condition"].astype(str).to_numpy()
    first = (cells.obs["tech_dup_split"].astype(str) == "first_half").to_numpy()
    expected = json.loads((folder / "expected.json").read_text())
    with (folder / _NPZ).open("rb") as raw, np.load(raw, allow_pickle=False) as given:
        conditions = [str(x) for x in given["conditions"]]
        numbers = {name: given[name] for name in given.files if name not in ("conditions", "genes")}
    genes = [str(g) for g in cells.var_names]

    truth = np.stack([X[(label == q) & first].mean(axis=0) for q in conditions])
    duplicate = np.stack([X[(label == q) & ~first].mean(axis=0) for q in conditions])
    control = X[label == "control"].mean(axis=0)
    train_mean = np.mean([truth[conditions.index(q)] for q in expected["train_conditions"]], axis=0)
    n = np.asarray([((label == q) & first).sum() for q in conditions])
    squares = np.stack(
        [np.square(X[(label == q) & first] - truth[i]).sum(axis=0) for i, q in enumerate(conditions)]
    )
    contrast = expression.against_rest(truth, squares, n)
    sides = Sides(
        truth=truth,
        control=np.broadcast_to(control, truth.shape),
        center=np.broadcast_to(train_mean, truth.shape),
        contexts=np.zeros(len(conditions)),
        weights=numbers["weights"],
        degs=expression.significant(contrast),
    )
    for prediction, metrics in expected["values"].items():
        got = all_scores(sides, numbers[f"pred_{prediction}"])
        for metric, values in metrics.items():
            if metric not in got:
                yield not_compared(metric, prediction, f"{UNKNOWN}: no metric of this name here")
                continue
            for q, value in values.items():
                ours = float(got[metric][conditions.index(q)])
                yield compared(
                    metric, f"{prediction}|{q}", value, partial(_made, metric, f"{prediction}|{q}", ours)
                )

    positive = calibration.interpolated(duplicate, train_mean, contrast.p)
    inputs: dict[str, tuple[FloatArray, float]] = {
        "truth": (truth, _ATOL),
        "control": (control[None], _ATOL),
        "train_mean": (train_mean[None], _ATOL),
        "weights": (_largest_by_name(expression.gene_weights(contrast), genes), _SINGLE_ATOL),
        "alpha": (1.0 - np.nan_to_num(contrast.p, nan=1.0), 1e-11),
        "pred_technical_duplicate": (duplicate, _ATOL),
        "pred_interpolated_duplicate": (positive, 1e-11),
    }
    for name, (values, atol) in inputs.items():
        rows = conditions if len(values) > 1 else ["all"]
        theirs_all = np.atleast_2d(numbers[name])
        for i, row in enumerate(rows):
            for j, gene in enumerate(genes):
                yield Record(
                    f"input_{name}",
                    f"{row}|{gene}",
                    float(theirs_all[i, j]),
                    float(values[i, j]),
                    atol,
                    _RTOL,
                )
