"""Panel `virtual_cell` on data sets of cells and of conditions."""

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.metric import METRICS, panel_metrics
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.virtual_cell import profiles
from perturbfm_core.evaluation.panels.virtual_cell.aggregate import SPEARMAN_BROWN
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.panels.virtual_cell.profiles import FULL, ControlCells, Sample, profile
from tests.support.factories import comparison_of, grid_rows, prediction_of, reordered, screen, split_all

PANEL = "virtual_cell"
CELL_METRICS = [m.name for m in panel_metrics(PANEL) if m.needs == "cells" and m.name in FULL]


def scores(comparison):
    """Return {metric: values [C]} of the panel."""
    return {r.metric.name: r.values for r in evaluate(comparison, [PANEL]).results}


@pytest.fixture(scope="module")
def split(synth_large):
    return split_all(synth_large, "perturbation_ood", folds=2)[0]


def half(ds, split):
    """Return the comparison of a prediction of half the observed change."""
    truth = observed(ds, split)
    by_key = dict(zip(truth.conditions.index, 0.5 * truth.observed, strict=True))
    return compare(ds, split, prediction_of(ds, split, by_key), truth)


@pytest.fixture(scope="module")
def compared(synth_large, split):
    return half(synth_large, split)


def test_the_panel_has_every_metric():
    own = {"score_full", "score_vcc"}
    ceilings = {f"ceiling_{name}" for name in SPEARMAN_BROWN}
    assert {m.name for m in panel_metrics(PANEL)} == set(FULL) | own | ceilings
    assert {m.version for m in panel_metrics(PANEL)} == {"cell-eval 0.8.2"}


def test_cells_are_those_of_the_comparison_beside_all_real_controls(compared):
    got = scores(compared)
    cells = compared.cells
    for context in np.unique(compared.contexts):
        rows = np.flatnonzero(compared.contexts == context)
        control = ControlCells(cells.control(context))
        truth, predicted = [cells.truth(i) for i in rows], [cells.predicted(i) for i in rows]
        sizes = np.asarray([len(x) for x in truth])
        real = Sample(CellGroups(sizes, len(compared.genes), truth.__getitem__), control)
        pred = Sample(CellGroups(sizes, len(compared.genes), predicted.__getitem__), control)
        expected = profile(real, pred, compared.perturbations[rows], compared.genes, CELL_METRICS)
        assert real.de.significant.any()
        for name in CELL_METRICS:
            np.testing.assert_allclose(got[name][rows], expected[name], atol=1e-6, err_msg=name)


def test_means_are_taken_as_predicted(compared):
    got = scores(compared)
    np.testing.assert_allclose(got["pearson_delta"], 1.0)
    np.testing.assert_allclose(got["mae"], 0.5 * np.abs(compared.observed).mean(axis=1))
    np.testing.assert_array_equal(got["mse"], got["mse_delta"])
    assert (got["discrimination_score_cosine"] == 1).all()


def test_values_are_within_bounds(compared):
    for name, values in scores(compared).items():
        low, high = METRICS.get(f"{PANEL}.{name}").bounds
        kept = values[np.isfinite(values)]
        assert len(kept), name
        assert low is None or (kept >= low).all(), name
        assert high is None or (kept <= high).all(), name


def test_order_of_rows_does_not_matter(rng):
    labels = grid_rows([f"P{i}" for i in range(6)], ["c", "d"], reps=15, controls=60)
    plain = screen(labels, X=rng.gamma(1.0, size=(len(labels), 12)), genes=12)
    mixed = reordered(plain, np.random.default_rng(1).permutation(plain.n_obs))
    (first, other) = (half(ds, split_all(ds, "perturbation_ood", folds=2)[0]) for ds in (plain, mixed))
    assert list(other.conditions.index) == list(first.conditions.index)
    expected, got = scores(first), scores(other)
    for name in FULL:
        # The generator draws other template cells where the rows are in another order.
        if name not in CELL_METRICS or name == "de_nsig_counts_real":
            np.testing.assert_allclose(got[name], expected[name], atol=1e-6, err_msg=name)


def test_the_observed_side_is_computed_once(synth_large, split, compared, monkeypatch):
    scores(compared)
    calls = []
    plain = profiles.differential_expression
    monkeypatch.setattr(profiles, "differential_expression", lambda *args: calls.append(args) or plain(*args))
    again = replace(compared, predicted=compared.predicted * 0.5, shared={})
    scores(again)
    assert len(calls) == len(np.unique(compared.contexts))
    scores(again)
    assert len(calls) == len(np.unique(compared.contexts))


def test_condition_level_data_have_the_metrics_of_means(rng):
    truth = rng.normal(size=(5, 30))
    results = evaluate(comparison_of(truth, truth), [PANEL], level="condition").results
    for result in results:
        if result.metric.needs == "cells":
            assert result.status == "not_applicable"
            assert np.isnan(result.values).all()
        else:
            np.testing.assert_allclose(result.values, result.metric.best, atol=1e-12)


def test_discrimination_is_among_the_conditions_of_a_context():
    truth = np.asarray([[1.0, 0, 0], [0, 1, 0], [1, 0, 0.1], [0, 0, 1]])
    rows = [("c", "P0"), ("c", "P1"), ("d", "P0"), ("d", "P2")]
    mean = truth[[1, 0, 2, 3]]
    got = scores(comparison_of(truth, mean, rows=rows))["discrimination_score_l2"]
    np.testing.assert_array_equal(got, [0.5, 0.5, 1, 1])
