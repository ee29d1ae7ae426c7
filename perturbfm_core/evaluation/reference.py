"""Comparison of metrics with reference values, and scores of a prediction without a split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import compare
from perturbfm_core.evaluation.panel import evaluate, metrics_json
from perturbfm_core.splits.split import DatasetRef, FrozenSplit, RowFolds, Split, codes_digest


def panels_without_split(ds: PerturbDataset, prediction: RowPrediction) -> dict[str, Any]:
    """Return all panels for every predicted row, with the other perturbed rows as train.

    Raises
    ------
    PredictionError
        If no perturbed row is predicted, or none is left for metrics that refer to train.
    """
    treated = ds.condition_codes >= 0
    predicted = np.zeros(ds.n_obs, dtype=np.bool_)
    inside = prediction.idx[(prediction.idx >= 0) & (prediction.idx < ds.n_obs)]
    predicted[inside] = True
    predicted &= treated
    if not predicted.any() or not (treated & ~predicted).any():
        msg = (
            f"{int(predicted.sum())} of {int(treated.sum())} perturbed rows are predicted; without --split some must be "
            "predicted and some left as train"
        )
        raise PredictionError(msg)
    codes = np.full(ds.n_obs, -1, dtype=np.int8)
    codes[treated] = schema.FOLDS.index("train")
    codes[predicted] = schema.FOLDS.index("test")
    split = Split(
        dataset=DatasetRef(name=ds.name, content_sha256=ds.content_sha256, genes_sha256=ds.genes_sha256),
        kind="explicit",
        params={},
        seed=0,
        folds=RowFolds(n_obs=ds.n_obs, rows_sha256=rows_digest(ds.row_ids), codes_sha256=codes_digest(codes)),
        validation="none",
        calibration="none",
    )
    # The split that the prediction was made for is ignored: the folds follow from its rows.
    comparison = compare(ds, FrozenSplit(split, codes), replace(prediction, split_hash=None))
    return metrics_json(evaluate(comparison, level=ds.metadata.level).table())


def compare_json(ours: dict[str, Any], reference: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """Compare every number of a reference with the number at the same place of our metrics.

    Parameters
    ----------
    ours
        Nested dictionary in the form of ``metrics.json``.
    reference
        Nested dictionary of expected values; only its numbers are compared, and its key ``notes`` is ignored.
    tolerance
        Largest allowed |ours - reference| / max(1, |reference|).

    Returns
    -------
    dict
        ``compared, failed, missing, max_abs_diff, differences`` (the first 20, largest first); None equals None.
    """
    compared = missing = 0
    largest = 0.0
    wrong: list[dict[str, Any]] = []
    for path, expected in _numbers(reference):
        found, got = _at(ours, path)
        if not found:
            missing += 1
            continue
        compared += 1
        if expected is None or got is None:
            if expected is not got:
                wrong.append({"at": ".".join(path), "expected": expected, "got": got, "difference": math.inf})
            continue
        gap = abs(got - expected)
        largest = max(largest, gap)
        if not gap <= tolerance * max(1.0, abs(expected)):
            wrong.append({"at": ".".join(path), "expected": expected, "got": got, "difference": gap})
    wrong.sort(key=lambda w: -w["difference"])
    return {
        "compared": compared,
        "failed": len(wrong),
        "missing": missing,
        "max_abs_diff": largest,
        "tolerance": tolerance,
        "differences": wrong[:20],
    }


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float | None]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "notes":
                yield from _numbers(inner, (*path, str(key)))
    elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield path, None if value is None else float(value)


def _at(value: Any, path: tuple[str, ...]) -> tuple[bool, Any]:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False, None
        value = value[key]
    return True, value
