"""Records of the scores of one prediction of a parity case of the calibrated metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from perturbfm_core.evaluation.panels.calibrated.scores import Sides, all_scores, inverse_rank
from perturbfm_core.evaluation.parity import UNKNOWN, Record, compared, not_compared
from perturbfm_core.schema import FloatArray


def score_records(
    prediction: str,
    metrics: dict[str, dict[str, Any]],
    sides: Sides,
    numbers: Mapping[str, FloatArray],
    conditions: list[str],
    tolerance: tuple[float, float],
) -> Iterator[Record]:
    """Yield the records of all scores of one prediction.

    Parameters
    ----------
    prediction
        Its name.
    metrics
        The peer's {metric: {condition: value}}.
    sides
        The observed side.
    numbers
        The arrays of the case, the prediction among them.
    conditions
        Names of the rows.
    tolerance
        (absolute, relative).
    """
    predicted = numbers[f"pred_{prediction}"]
    got = all_scores(sides, predicted)
    # Of two distances that are equal up to rounding, rounding decides which is larger in the peer's code.
    least = got["nir"]
    shared = inverse_rank(sides.truth, predicted, sides.contexts, shared_ties=True)
    for metric, values in metrics.items():
        if metric not in got:
            yield not_compared(metric, prediction, f"{UNKNOWN}: no metric of this name here")
            continue
        for q, value in values.items():
            key, i = f"{prediction}|{q}", conditions.index(q)
            record = compared(
                metric, key, value, partial(_made, metric, key, float(got[metric][i]), tolerance)
            )
            if metric == "nir":
                record = replace(record, low=float(least[i]), high=float(2 * shared[i] - least[i]))
            yield record


def _made(metric: str, key: str, got: float, tolerance: tuple[float, float], expected: float) -> Record:
    return Record(metric, key, expected, got, *tolerance)
