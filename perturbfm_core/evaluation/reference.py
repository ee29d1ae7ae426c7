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
    generator = None if comparison.cells is None else comparison.cells.generated_by
    return metrics_json(evaluate(comparison, level=ds.metadata.level).table(), generator=generator)


def compare_json(ours: dict[str, Any], reference: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """Compare every number of a reference with the number at the same place of our metrics.

    Parameters
    ----------
    ours
        Nested dictionary in the form of ``metrics.json``.
    reference
        Nested dictionary of expected values; its key ``notes`` is ignored, and so is what is not a number in a section
        that our metrics do not have.
    tolerance
        Largest allowed |ours - reference| / max(1, |reference|).

    Returns
    -------
    dict
        ``compared, failed, missing, not_numbers, max_abs_diff, differences`` (the first 20, largest first); None equals
        None. ``not_numbers`` of ``failed`` are text, a boolean, a list or an object on one side only, or not finite.
    """
    compared = missing = not_numbers = 0
    largest = 0.0
    wrong: list[dict[str, Any]] = []
    for path, expected, got in _places(reference, ours):
        if got is _MISSING:
            missing += 1
            continue
        compared += 1
        at = {"at": ".".join(path), "expected": expected, "got": got}
        if expected is None and got is None:
            continue
        if not _is_number(expected) or not _is_number(got):
            odd = not all(x is None or _is_number(x) for x in (expected, got))
            not_numbers += odd
            shown = {side: _shown(x) for side, x in (("expected", expected), ("got", got))}
            wrong.append({**at, **shown, "difference": math.inf})
            continue
        gap = abs(float(got) - float(expected))
        largest = max(largest, gap)
        if not gap <= tolerance * max(1.0, abs(float(expected))):
            wrong.append({**at, "difference": gap})
    wrong.sort(key=lambda w: -w["difference"])
    return {
        "compared": compared,
        "failed": len(wrong),
        "missing": missing,
        "not_numbers": not_numbers,
        "max_abs_diff": largest,
        "tolerance": tolerance,
        "differences": wrong[:20],
    }


# What our metrics do not have.
_MISSING = object()


def _places(
    expected: Any, got: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield (path, value of the reference, ours) of every place that holds a number on either side."""
    if isinstance(expected, dict) and (isinstance(got, dict) or got is _MISSING):
        for key, inner in expected.items():
            if key != "notes":
                found = got.get(str(key), _MISSING) if isinstance(got, dict) else _MISSING
                yield from _places(inner, found, (*path, str(key)))
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for i, (a, b) in enumerate(zip(expected, got, strict=True)):
            yield from _places(a, b, (*path, str(i)))
    elif expected is None or _is_numeric(expected) or _is_numeric(got) or got is None:
        yield path, expected, got
    elif got is _MISSING:
        # A section of the reference's own may hold text; among our metrics every place is one of a number.
        if len(path) > 1:
            yield path, expected, got
    elif type(expected) is not type(got) or isinstance(expected, list):
        yield path, expected, got


def _is_numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    try:
        return _is_numeric(value) and math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> Any:
    """Return a value as it is reported: numbers as they are, others with their kind."""
    if value is None or _is_number(value):
        return value
    kind = {str: "text", bool: "boolean", list: "list", dict: "object"}.get(
        type(value), "not a finite number"
    )
    return f"{kind} {str(value)[:40]!r}" if isinstance(value, str) else f"{kind} {str(value)[:40]}"
