"""Axioms of every registered metric, whatever its panel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import PANELS, evaluate
from tests.support.factories import prediction_of, simulated, split_one

# A perfect mean is not a perfect set of cells: these score generated cells, which keep the controls' noise.
OF_CELLS = {name for name, m in METRICS.items() if m.needs == "cells"}
# Perfect on the whole test cells, these are scored against the first half of them.
DESCRIPTIONS = {name for name, m in METRICS.items() if m.best is None}
# The observed effect sizes lose their sampling noise, which a copy of the observation has: `panels/hits` tests the true
# effect instead.
OF_TRUE_SIZE = {"hits.effect_size_spearman", "hits.screen_top_rank", "hits.screen_enrichment"}
# Gaussian with the variance given, so a perfect mean with a variance is not at the nominal coverage.
OF_VARIANCE = {name for name, m in METRICS.items() if m.needs == "variance"}


def tables(ds, split, share=1.0):
    """Return the values of every metric and condition for a share of the true delta."""
    truth = observed(ds, split)
    means = {k: share * d for k, d in zip(truth.conditions.index, truth.observed, strict=True)}
    table = evaluate(compare(ds, split, prediction_of(ds, split, means), truth)).table()
    table = table[table["scope"] == "condition"]
    table["name"] = table["panel"] + "." + table["metric"]
    return table.pivot_table(index="key", columns="name", values="value", aggfunc="first", dropna=False)


@pytest.fixture(scope="module")
def case():
    ds = simulated(n_obs=2400, n_genes=70, n_contexts=2, n_perts=8, n_combos=6, seed=5)
    return ds, split_one(ds, "combo_ood", {}, folds=3, fold=0)


@pytest.fixture(scope="module")
def perfect(case):
    return tables(*case)


@pytest.mark.parametrize(
    "name", [n for n in METRICS if n not in OF_CELLS | DESCRIPTIONS | OF_VARIANCE | OF_TRUE_SIZE]
)
def test_a_perfect_prediction_is_best(perfect, name):
    values = perfect[name].dropna()
    if name == "linear_paper.interaction_curve" and not len(values):
        pytest.skip("no gene interacts in this small case; its own tests have one that does")
    assert len(values), "undefined everywhere"
    np.testing.assert_allclose(values, METRICS.get(name).best, atol=2e-6)


def test_rows_may_come_in_any_order(case, perfect):
    ds, split = case
    order = np.random.default_rng(0).permutation(ds.n_obs)
    shuffled = PerturbDataset(
        ds.obs.iloc[order], ds.genes, Values(counts=ds.values.counts[order]), ds.metadata
    )
    other = tables(shuffled, split)
    pd.testing.assert_frame_equal(other[perfect.columns], perfect, rtol=1e-4, atol=1e-6)


def test_every_panel_ranks_the_better_prediction_first(case, perfect):
    worse = tables(*case, share=-1.0)
    for name, panel in PANELS.items():
        metric = METRICS.get(f"{name}.{panel.headline}")
        column = f"{name}.{panel.headline}"
        good, bad = perfect[column].mean(), worse[column].mean()
        assert metric.badness(good) < metric.badness(bad), column
