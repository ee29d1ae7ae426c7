"""Panel `hits`: changed genes and their direction, and which perturbations of a screen are strongest.

A gene is truly changed where its observed change is significant, by a z-test against its sampling standard error and
Benjamini-Hochberg at 5 %. A prediction calls a gene changed where its own change would be significant there, so that both
sides are judged by one rule, with and without cells. Genes that a condition perturbs itself are
left out there; effect sizes, by which perturbations are ranked, are of all genes.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import SetStatistic, metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.hits import screening
from perturbfm_core.evaluation.panels.hits.changed import counts
from perturbfm_core.schema import FloatArray

PANEL = "hits"
_OWN = "PerturbFM"
_NONE_CHANGED = "no gene changes beyond its sampling error, or that is unknown"
_ONE_SIZE = "the context has one tested condition, or all have the same observed effect size"

add_panel(PANEL, source=_OWN, headline="direction_accuracy", order=95)


def _share(part: FloatArray, of: FloatArray) -> FloatArray:
    return np.asarray(np.divide(part, of, out=np.full(len(part), np.nan), where=of > 0))


@metric(
    PANEL,
    "direction_accuracy",
    direction="max",
    bounds=(0.0, 1.0),
    version="1",
    source=_OWN,
    undefined=_NONE_CHANGED,
)
def direction_accuracy(c: Comparison) -> FloatArray:
    """Share of the truly changed genes that are predicted to change in the right direction; no change counts one half."""
    n = counts(c)
    return _share(n.right, n.changed)


@metric(
    PANEL,
    "recall",
    direction="max",
    bounds=(0.0, 1.0),
    version="1",
    source=_OWN,
    undefined=_NONE_CHANGED,
)
def recall(c: Comparison) -> FloatArray:
    """Share of the truly changed genes that the prediction calls changed, in the right direction."""
    n = counts(c)
    return _share(n.found, n.changed)


@metric(
    PANEL,
    "recall_at_n",
    direction="max",
    bounds=(0.0, 1.0),
    version="1",
    source=_OWN,
    undefined=_NONE_CHANGED,
)
def recall_at_n(c: Comparison) -> FloatArray:
    """Share of the n truly changed genes among the n of largest predicted change over its error, in the right direction."""
    n = counts(c)
    return _share(n.foremost, n.changed)


@metric(
    PANEL,
    "precision",
    direction="max",
    bounds=(0.0, 1.0),
    version="1",
    source=_OWN,
    undefined="the prediction calls no gene changed, or the sampling error is unknown",
)
def precision(c: Comparison) -> FloatArray:
    """Share of the genes that the prediction calls changed that truly are, in the predicted direction."""
    n = counts(c)
    return _share(n.found, n.called)


@metric(
    PANEL,
    "effect_size_spearman",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_OWN,
    undefined="no context has 3 tested conditions, or all have the same observed or predicted effect size",
    aggregate="set",
)
def effect_size_spearman(c: Comparison) -> SetStatistic:
    """Rank correlation over a context's conditions of predicted and observed effect size, the latter without its noise."""
    return screening.by_context(c, screening.spearman)


@metric(
    PANEL,
    "screen_top_rank",
    direction="min",
    bounds=(0.0, 1.0),
    version="1",
    source=_OWN,
    undefined=_ONE_SIZE,
    aggregate="set",
)
def screen_top_rank(c: Comparison) -> SetStatistic:
    """Share of a context's other conditions predicted to be stronger than its truly strongest one; ties count one half."""
    return screening.by_context(c, screening.top_rank)


@metric(
    PANEL,
    "screen_enrichment",
    direction="max",
    bounds=(0.0, None),
    version="1",
    source=_OWN,
    undefined=_ONE_SIZE,
    aggregate="set",
)
def screen_enrichment(c: Comparison) -> SetStatistic:
    """Hits (the tenth of a context's conditions with the largest effect) among as many predicted strongest, over chance."""
    return screening.by_context(c, screening.enrichment)
