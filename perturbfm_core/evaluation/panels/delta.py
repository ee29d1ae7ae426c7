"""Panel `delta`: agreement of predicted and observed expression change, condition by condition.

Variants: ``centered`` subtracts the train mean from both sides, so that predicting the mean scores nothing;
``no_target`` leaves out the perturbed genes, whose change is a direct effect of the perturbation.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import NO_TARGET, MetricFunction, Places, metric, target_measured
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.schema import BoolArray, FloatArray

PANEL = "delta"
TOP_K = 20
_TOP = f"top{TOP_K}_overlap"
_SIMILARITIES = ("pearson", "cosine", _TOP)
_PLACES = "places"
_ROUNDING = 1e-5
_TIE = 1e-12
_OWN = "PerturbFM"
_CONSTANT = "predicted or observed delta is constant over genes"
_ZERO = "predicted or observed delta is zero"
_CENTERED = "prediction equals the train mean (or the observation does) up to a constant"

add_panel(PANEL, source=_OWN, headline="pearson_centered", order=10)

# Rows at a time: what is made of them stays in the processor's cache.
_BLOCK = 64
# Rows at a time of a table of all pairs.
_RANKED = 1024


def _similarities(c: Comparison, *, centered: bool, no_target: bool) -> dict[str, FloatArray]:
    """Return {name: value of each condition [C]} of all similarities of one variant, made of the same differences."""

    def compute() -> dict[str, FloatArray]:
        blocks = [_of_rows(c, b, centered, no_target) for b in row_blocks(len(c), _BLOCK)]
        return {name: np.concatenate([b[name] for b in blocks]) for name in (*_SIMILARITIES, _PLACES)}

    return c.once(f"delta.similarities.{centered}.{no_target}", compute)


def _of_rows(c: Comparison, rows: slice, centered: bool, no_target: bool) -> dict[str, FloatArray]:
    """Return the similarities of a block of conditions (see `_similarities`)."""
    mask = c.without_target[rows] if no_target else None
    predicted, seen = c.predicted[rows], c.observed[rows]
    if centered:
        predicted, seen = _minus(predicted, c.train_mean, mask), _minus(seen, c.train_mean, mask)
        if c.not_predicted is not None:
            # The control that stands in for a prediction differs from the train mean, but says nothing.
            predicted[c.not_predicted[rows]] = 0.0
    pearson, cosine = rowwise.pearson_and_cosine(predicted, seen, mask)
    shared, places = rowwise.top_overlap(predicted, seen, TOP_K, mask)
    found: list[FloatArray] = [pearson, cosine, shared, places.astype(np.float64)]
    return dict(zip((*_SIMILARITIES, _PLACES), found, strict=True))


def _minus(A: FloatArray, center: FloatArray, mask: BoolArray | None) -> FloatArray:
    """Return A minus a row, with rows set to exactly zero where only single-precision rounding is left."""
    out = A - center
    keep = True if mask is None else mask
    rounding = np.abs(out * keep).max(axis=1) <= _ROUNDING * np.abs(A * keep).max(axis=1)
    out[rounding] = 0.0
    return out


def _errors(c: Comparison, *, no_target: bool) -> dict[str, FloatArray]:
    """Return {name: value of each condition [C]} of both errors."""

    def compute() -> dict[str, FloatArray]:
        rmse, mae = np.empty(len(c)), np.empty(len(c))
        for rows in row_blocks(len(c), _BLOCK):
            D = c.predicted[rows] - c.observed[rows]
            mask = c.without_target[rows] if no_target else None
            rmse[rows] = np.sqrt(rowwise.mean_square(D, mask))
            mae[rows] = rowwise.mean_absolute(D, mask)
        return {"rmse": rmse, "mae": mae}

    return c.once(f"delta.errors.{no_target}", compute)


def _similarity(stem: str, *, centered: bool, no_target: bool) -> MetricFunction:
    return lambda c: _similarities(c, centered=centered, no_target=no_target)[stem]


def _places(*, centered: bool, no_target: bool) -> Places:
    return lambda c: _similarities(c, centered=centered, no_target=no_target)[_PLACES].astype(np.int64)


def _error(name: str, *, no_target: bool) -> MetricFunction:
    return lambda c: _errors(c, no_target=no_target)[name]


def _variants() -> None:
    """Register each similarity raw and centered, and every metric with and without the target gene."""
    similarities: list[tuple[str, tuple[float, float], str, str]] = [
        ("pearson", (-1.0, 1.0), "Pearson correlation over genes", "Ahlmann-Eltze et al. 2025"),
        ("cosine", (-1.0, 1.0), "Cosine over genes", "PerturBench (Wu et al. 2024)"),
        (
            _TOP,
            (0.0, 1.0),
            f"Share of the {TOP_K} largest observed changes that are among the {TOP_K} largest predicted ones",
            _OWN,
        ),
    ]
    errors = {"rmse": "Root mean squared error over genes", "mae": "Mean absolute error over genes"}
    for stem, bounds, text, source in similarities:
        for centered in (False, True):
            for no_target in (False, True):
                largest = stem == _TOP
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
                )(_similarity(stem, centered=centered, no_target=no_target))
    for name, text in errors.items():
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
            )(_error(name, no_target=no_target))


def _describe(text: str, centered: bool, no_target: bool) -> str:
    of = " of predicted and observed delta"
    return (
        text
        + of
        + (", both minus the train mean" if centered else "")
        + (", without the perturbed genes" if no_target else "")
        + "."
    )


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
        predicted, seen = _unit(c.predicted[rows]), _unit(c.observed[rows])
        if (predicted == predicted[0]).all():
            # One prediction for all, as of a mean, resembles each observation alike from every row.
            predicted = predicted[:1]
        for block in row_blocks(len(rows), _RANKED):
            own = np.arange(block.start, block.stop)
            similarity = predicted[block if len(predicted) > 1 else slice(1)] @ seen.T
            similarity = np.broadcast_to(similarity, (len(own), len(rows)))
            gap = similarity - similarity[np.arange(len(own)), own][:, None]
            # Up to rounding, so that the order of summation does not break ties between equal similarities.
            tied = np.abs(gap) <= _TIE
            better = ((gap > 0) & ~tied).sum(axis=1) + 0.5 * (tied.sum(axis=1) - 1)
            out[rows[block]] = better / (len(rows) - 1)
    return out


def _unit(A: FloatArray) -> FloatArray:
    norm = np.linalg.norm(A, axis=1, keepdims=True)
    return np.asarray(np.divide(A, norm, out=np.zeros_like(A), where=norm > 0))
