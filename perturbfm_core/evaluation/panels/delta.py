"""Panel `delta`: agreement of predicted and observed expression change, condition by condition.

Variants: ``centered`` subtracts the train mean from both sides, so that predicting the mean scores nothing;
``no_target`` leaves out the perturbed genes, whose change is a direct effect of the perturbation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import NO_TARGET, MetricFunction, Places, metric, target_measured
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

PANEL = "delta"
TOP_K = 20
_ROUNDING = 1e-5
_TIE = 1e-12
_OWN = "PerturbFM"
_CONSTANT = "predicted or observed delta is constant over genes"
_ZERO = "predicted or observed delta is zero"
_CENTERED = "prediction equals the train mean (or the observation does) up to a constant"

add_panel(PANEL, source=_OWN, headline="pearson_centered", order=10)

Side = tuple[FloatArray, FloatArray, BoolArray | None]


def _sides(c: Comparison, *, centered: bool, no_target: bool) -> Side:
    mask = c.without_target if no_target else None
    if centered:
        predicted = _minus(c.predicted, c.train_mean, mask)
        if c.not_predicted is not None:
            # The control that stands in for a prediction differs from the train mean, but says nothing.
            predicted[c.not_predicted] = 0.0
        return predicted, _minus(c.observed, c.train_mean, mask), mask
    return c.predicted, c.observed, mask


def _minus(A: FloatArray, center: FloatArray, mask: BoolArray | None) -> FloatArray:
    """Return A minus a row, with rows set to exactly zero where only single-precision rounding is left."""
    out = A - center
    keep = True if mask is None else mask
    rounding = np.abs(out * keep).max(axis=1) <= _ROUNDING * np.abs(A * keep).max(axis=1)
    out[rounding] = 0.0
    return out


Similarity = Callable[[FloatArray, FloatArray, BoolArray | None], FloatArray]
Error = Callable[[FloatArray, BoolArray | None], FloatArray]


def _similarity(function: Similarity, *, centered: bool, no_target: bool) -> MetricFunction:
    def similarity(c: Comparison) -> FloatArray:
        P, Y, mask = _sides(c, centered=centered, no_target=no_target)
        return function(P, Y, mask)

    return similarity


def _cosine(A: FloatArray, B: FloatArray, mask: BoolArray | None) -> FloatArray:
    flat = rowwise.constant(A, mask) | rowwise.constant(B, mask)
    return np.where(flat, np.nan, rowwise.cosine(A, B, mask))


def _places(*, centered: bool, no_target: bool) -> Places:
    def places(c: Comparison) -> IntArray:
        P, Y, mask = _sides(c, centered=centered, no_target=no_target)
        return rowwise.top_places(P, Y, TOP_K, mask)

    return places


def _error(function: Error, *, no_target: bool) -> MetricFunction:
    def error(c: Comparison) -> FloatArray:
        return function(c.predicted - c.observed, c.without_target if no_target else None)

    return error


def _variants() -> None:
    """Register each similarity raw and centered, and every metric with and without the target gene."""
    similarities: list[tuple[str, Similarity, tuple[float, float], str, str]] = [
        (
            "pearson",
            rowwise.pearson,
            (-1.0, 1.0),
            "Pearson correlation over genes",
            "Ahlmann-Eltze et al. 2025",
        ),
        ("cosine", _cosine, (-1.0, 1.0), "Cosine over genes", "PerturBench (Wu et al. 2024)"),
        (
            f"top{TOP_K}_overlap",
            _top,
            (0.0, 1.0),
            f"Share of the {TOP_K} largest observed changes that are among the {TOP_K} largest predicted ones",
            _OWN,
        ),
    ]
    errors: list[tuple[str, Error, str]] = [
        ("rmse", _rmse, "Root mean squared error over genes"),
        ("mae", _mae, "Mean absolute error over genes"),
    ]
    for stem, function, bounds, text, source in similarities:
        for centered in (False, True):
            for no_target in (False, True):
                largest = function is _top
                undefined = _CENTERED if centered else _ZERO if largest else _CONSTANT
                if largest:
                    undefined += f", or there are no more than {TOP_K} genes"
                metric(
                    PANEL,
                    stem + ("_centered" if centered else "") + ("_no_target" if no_target else ""),
                    _describe(text, centered, no_target),
                    direction="max",
                    bounds=bounds,
                    version="1",
                    source=source,
                    undefined=undefined,
                    applies=target_measured if no_target else None,
                    inapplicable=NO_TARGET,
                    k=TOP_K if largest else 0,
                    places=_places(centered=centered, no_target=no_target) if largest else None,
                )(_similarity(function, centered=centered, no_target=no_target))
    for name, error, text in errors:
        for no_target in (False, True):
            metric(
                PANEL,
                name + ("_no_target" if no_target else ""),
                _describe(text, False, no_target),
                direction="min",
                bounds=(0.0, None),
                version="1",
                source=_OWN,
                undefined="never undefined",
                applies=target_measured if no_target else None,
                inapplicable=NO_TARGET,
            )(_error(error, no_target=no_target))


def _describe(text: str, centered: bool, no_target: bool) -> str:
    of = " of predicted and observed delta"
    return (
        text
        + of
        + (", both minus the train mean" if centered else "")
        + (", without the perturbed genes" if no_target else "")
        + "."
    )


def _top(A: FloatArray, B: FloatArray, mask: BoolArray | None) -> FloatArray:
    return rowwise.top_overlap(A, B, TOP_K, mask)


def _rmse(D: FloatArray, mask: BoolArray | None) -> FloatArray:
    return np.sqrt(rowwise.mean_square(D, mask))


def _mae(D: FloatArray, mask: BoolArray | None) -> FloatArray:
    return rowwise.mean_absolute(D, mask)


_variants()


@metric(
    PANEL,
    "retrieval_rank",
    direction="min",
    bounds=(0.0, 1.0),
    version="1",
    source="PerturbFM, after PerturBench (Wu et al. 2024)",
    undefined="only one condition in this context is tested",
)
def retrieval_rank(c: Comparison) -> FloatArray:
    """Share of the other observed conditions of the context that a prediction resembles more than its own.

    Resemblance is the cosine of deltas; ties count one half, a zero prediction ties with everything.
    """
    out = np.full(len(c), np.nan)
    for context in np.unique(c.contexts):
        rows = np.flatnonzero(c.contexts == context)
        if len(rows) < 2:
            continue
        similarity = _unit(c.predicted[rows]) @ _unit(c.observed[rows]).T
        gap = similarity - np.diag(similarity)[:, None]
        # Up to rounding, so that the order of summation does not break ties between equal similarities.
        tied = np.abs(gap) <= _TIE
        better = ((gap > 0) & ~tied).sum(axis=1) + 0.5 * (tied.sum(axis=1) - 1)
        out[rows] = better / (len(rows) - 1)
    return out


def _unit(A: FloatArray) -> FloatArray:
    norm = np.linalg.norm(A, axis=1, keepdims=True)
    return np.asarray(np.divide(A, norm, out=np.zeros_like(A), where=norm > 0))
