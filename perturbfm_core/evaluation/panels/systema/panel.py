"""Panel `systema`: agreement of expression changes relative to the mean of perturbed conditions.

Changes that all perturbations have in common do not count towards the ``allpert`` scores. Their reference in a
context is the mean of its train centroids; for a context that train lacks, it is the train mean delta added to the context's own
controls. Names are those of Systema. The 20 genes are those of largest observed change against the controls.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.systema import scores
from perturbfm_core.evaluation.panels.systema.baselines import perturbed_reference
from perturbfm_core.schema import CONTEXT_ID, BoolArray, FloatArray, IntArray

PANEL = "systema"
_SOURCE = "Viñas Torné et al. 2025 (Systema)"
_ROUNDING = 1e-5

add_panel(PANEL, source=_SOURCE, headline="corr_all_allpert", order=60)


def _reference(c: Comparison) -> FloatArray:
    """Return [C, G], the perturbed reference of each condition minus its control."""

    def compute() -> FloatArray:
        out = np.array(np.broadcast_to(c.train_mean, c.observed.shape))
        if c.train is None:
            return out
        contexts = np.asarray(c.train.conditions[CONTEXT_ID].astype(str), dtype=np.str_)
        for context in np.unique(c.contexts):
            mine, rows = contexts == context, c.contexts == context
            if not mine.any():
                continue
            if c.train.expression is not None and c.control is not None:
                out[rows] = perturbed_reference(c.train.expression[mine]) - c.control[rows]
            else:
                out[rows] = perturbed_reference(c.train.delta[mine])
        return out

    return c.once_per_observed("systema.reference", compute)


def _top(c: Comparison) -> BoolArray:
    return c.once_per_observed("systema.top", lambda: scores.top_genes(c.observed, names=c.genes))


def _top_places(c: Comparison) -> IntArray:
    return np.asarray(_top(c).sum(axis=1))


def _observed(c: Comparison) -> FloatArray:
    """Return [C, G], observed deltas, set equal to the reference where they differ by rounding only."""
    return c.once_per_observed("systema.observed", lambda: _unless_rounding(c.observed, _reference(c)))


def _unless_rounding(delta: FloatArray, reference: FloatArray) -> FloatArray:
    gap = np.abs(delta - reference).max(axis=1)
    return np.where((gap <= _ROUNDING * np.abs(reference).max(axis=1))[:, None], reference, delta)


def _predicted(c: Comparison) -> FloatArray:
    """Return [C, G], predicted deltas, set equal to the reference where they differ by rounding only."""
    return c.once("systema.predicted", lambda: _unless_rounding(c.predicted, _reference(c)))


def _register_correlations(suffix: str, genes: str, *, top: bool) -> None:
    @metric(
        PANEL,
        f"corr_{suffix}_allpert",
        f"Pearson correlation over {genes} of change against the mean of perturbed train conditions.",
        direction="max",
        bounds=(-1.0, 1.0),
        version="1",
        source=_SOURCE,
        undefined="prediction (or observation) equals the perturbed reference up to a constant",
        k=scores.TOP_K if top else 0,
        places=_top_places if top else None,
    )
    def against_perturbed(c: Comparison) -> FloatArray:
        return scores.pearson_from(_observed(c), _predicted(c), _reference(c), _top(c) if top else None)

    @metric(
        PANEL,
        f"corr_{suffix}",
        f"Pearson correlation over {genes} of change against the controls.",
        direction="max",
        bounds=(-1.0, 1.0),
        version="1",
        source=_SOURCE,
        undefined="predicted or observed delta is constant over these genes",
        k=scores.TOP_K if top else 0,
        places=_top_places if top else None,
    )
    def against_control(c: Comparison) -> FloatArray:
        return rowwise.pearson(c.predicted, c.observed, _top(c) if top else None)


def _register_errors(suffix: str, genes: str, *, top: bool) -> None:
    def mse(c: Comparison) -> FloatArray:
        return rowwise.mean_square(c.predicted - c.observed, _top(c) if top else None)

    def rmse(c: Comparison) -> FloatArray:
        return np.sqrt(mse(c))

    for stem, text, function in (("rmse", "Root mean squared", rmse), ("mse", "Mean squared", mse)):
        metric(
            PANEL,
            f"{stem}_{suffix}",
            f"{text} error over {genes}.",
            direction="min",
            bounds=(0.0, None),
            version="1",
            source=_SOURCE,
            undefined="no gene changes" if top else "never undefined",
            k=scores.TOP_K if top else 0,
            places=_top_places if top else None,
        )(function)


for _register in (_register_correlations, _register_errors):
    _register("all", "all genes", top=False)
    _register("20de", "the 20 genes that change most", top=True)


@metric(
    PANEL,
    "jaccard",
    direction="max",
    bounds=(0.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined=f"no more than {scores.TOP_K} genes, or predicted or observed delta is zero",
    k=scores.TOP_K,
    places=lambda c: rowwise.top_places(c.observed, c.predicted, scores.TOP_K),
)
def jaccard(c: Comparison) -> FloatArray:
    """Shared over all genes of the 20 that change most as observed and as predicted."""
    return scores.jaccard(c.observed, c.predicted)


@metric(
    PANEL,
    "centroid_accuracy",
    direction="max",
    bounds=(0.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined="delta-only data has no expression, or only one condition in this context is tested",
)
def centroid_accuracy(c: Comparison) -> FloatArray:
    """Share of the other observed conditions of the context that are farther from a prediction than its own.

    Euclidean distance of mean expression, all genes; a tie counts one half (in Systema, against).
    """
    out = np.full(len(c), np.nan)
    if c.control is None:
        return out
    truth, predicted = c.control + c.observed, c.control + c.predicted
    for context in np.unique(c.contexts):
        rows = np.flatnonzero(c.contexts == context)
        own = np.eye(len(rows), dtype=np.bool_)
        out[rows] = scores.centroid_accuracy(predicted[rows], truth[rows], truth[rows], own, shared_ties=True)
    return out


@metric(
    PANEL,
    "systematic_variation",
    direction="target",
    bounds=(-1.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined="the condition, or all of its context together, changes no gene, or every gene alike",
)
def systematic_variation(c: Comparison) -> FloatArray:
    """Cosine of the observed delta with the mean delta of its context's conditions, train and test.

    It describes the split, not the prediction, so that it has no best value: the nearer to 1, the more of the
    change is common to all perturbations.
    """

    def compute() -> FloatArray:
        out = np.full(len(c), np.nan)
        train = (
            None if c.train is None else np.asarray(c.train.conditions[CONTEXT_ID].astype(str), dtype=np.str_)
        )
        for context in np.unique(c.contexts):
            rows = c.contexts == context
            deltas = [c.observed[rows]]
            if c.train is not None and train is not None:
                deltas.append(c.train.delta[train == context])
            direction = np.concatenate(deltas).mean(axis=0)
            found = scores.systematic_variation(c.observed[rows], direction)
            flat = rowwise.constant(c.observed[rows]) | rowwise.constant(direction[None])
            out[rows] = np.where(flat, np.nan, found)
        return out

    return c.once_per_observed("systema.variation", compute)
