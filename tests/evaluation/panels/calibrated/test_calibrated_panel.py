"""Panel `calibrated` on a simulated screen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.evaluation.cells import Cells
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.calibrated import panel as calibrated
from perturbfm_core.evaluation.panels.calibrated.calibration import interpolated
from perturbfm_core.evaluation.probes import with_prediction
from tests.support.factories import comparison_of, prediction_of, simulated, split_one


@pytest.fixture(scope="module")
def base():
    ds = simulated(n_obs=3000, n_genes=60, n_contexts=2, n_perts=10, n_combos=8, seed=1)
    split = split_one(ds, "context_ood", {"holdout": ["C0"]})
    truth = observed(ds, split)
    means = {k: truth.observed[i] for i, k in enumerate(truth.conditions.index)}
    return compare(ds, split, prediction_of(ds, split, means), truth)


def results(c):
    return {r.metric.name: r for r in evaluate(c, ["calibrated"]).results}


def everything(r):
    return float(r.grouped(np.zeros(len(r.values), dtype=np.int64), 1)[0])


def test_controls_score_zero_and_one(base):
    halves, controls = calibrated._halves(base), calibrated._controls(base)
    assert (controls.duplicate["nir"] <= 1).all()
    train = results(with_prediction(base, np.broadcast_to(base.train_mean, base.predicted.shape)))
    assert everything(train["calibrated_wmse"]) == pytest.approx(0.0, abs=1e-9)
    # a train mean has no direction around itself
    assert np.isnan(train["headline"].values).all()
    control = results(with_prediction(base, np.zeros_like(base.predicted)))
    assert everything(control["calibrated_pearson_centered_no_target"]) == pytest.approx(0.0, abs=1e-9)
    positive = results(with_prediction(base, interpolated(halves.duplicate, base.train_mean, halves.p)))
    for name in ("headline", "calibrated_wmse", "calibrated_pearson_centered_no_target", "calibrated_mse"):
        assert everything(positive[name]) == pytest.approx(1.0)


def test_groups_are_ratios_of_means_and_headline_is_the_mean_of_two(base):
    got = results(with_prediction(base, 0.8 * base.predicted))
    r = got["calibrated_wmse"]
    gain, span = got["calibrated_wmse_gain"].values, got["calibrated_wmse_range"].values
    assert r.values == pytest.approx(gain / span, nan_ok=True)
    assert everything(r) == pytest.approx(np.nansum(gain) / np.nansum(span))
    assert everything(r) != pytest.approx(np.nanmean(r.values))
    both = [everything(got[f"calibrated_{name}"]) for name in calibrated.HEADLINE]
    assert everything(got["headline"]) == pytest.approx(np.mean(both))
    table = evaluate(base, ["calibrated"]).table()
    one = table[(table.metric == "headline") & (table.scope == "global")].iloc[0]
    assert one.status == "ok"
    undefined = int(np.isnan(got["headline"].values).sum())
    assert (one.reason is None) == (undefined == 0)


def test_undefined_below_a_tenth_of_the_range(base):
    got = results(base)
    for name in ("wmse", "mse", "pearson_deltactrl", "nir", "pearson_centered_no_target"):
        drf = got[f"drf_{name}"].values
        assert np.isnan(got[f"calibrated_{name}"].values[~(drf >= 0.1)]).all(), name
        assert np.isfinite(got[f"calibrated_{name}"].values[drf >= 0.1]).all(), name


def test_perfect_mean_is_best_where_no_cells_are_needed(base):
    for name, r in results(base).items():
        metric = r.metric
        if metric.best is not None and (metric.needs == "conditions" or name == "wmse"):
            assert r.values == pytest.approx(np.full(len(base), metric.best), abs=1e-6), name


def test_order_of_rows_and_conditions_does_not_matter(base, rng):
    order = rng.permutation(len(base))
    cells = base.cells
    shuffled = Cells(
        cells.X,
        [rng.permutation(cells.truth_rows[i]) for i in order],
        cells.control_rows,
        cells.input_rows,
        [cells.contexts[i] for i in order],
        base.predicted[order],
        base.predicted_var[order],
        cells.generator,
    )
    turned = replace(
        base,
        conditions=base.conditions.iloc[order],
        observed=base.observed[order],
        predicted=base.predicted[order],
        predicted_var=base.predicted_var[order],
        control=base.control[order],
        n=base.n[order],
        cells=shuffled,
        shared={},
        observed_shared={},
    )
    a, b = results(base), results(turned)
    for name in a:
        assert b[name].values == pytest.approx(a[name].values[order], nan_ok=True, abs=1e-9), name


def test_without_cells_only_what_needs_none_is_given():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 30))
    got = results(comparison_of(truth, truth + 0.1, train_mean=rng.normal(size=30)))
    assert got["headline"].status == "not_applicable"
    assert got["wmse"].status == "not_applicable"
    for name in ("mse", "pearson_deltapert", "r2_deltactrl", "nir", "variance_ratio"):
        assert np.isfinite(got[name].values).all(), name


def test_truth_is_scored_once_for_all_predictions(base):
    calibrated._controls(base)
    again = with_prediction(base, base.predicted + 1)
    assert calibrated._controls(again) is calibrated._controls(base)
    assert calibrated._entry(again) is not calibrated._entry(base)


def test_a_wrong_condition_is_caught(base):
    swapped = with_prediction(base, np.roll(base.predicted, 1, axis=0))
    assert everything(results(swapped)["headline"]) < everything(results(base)["headline"]) - 0.3


def test_bounds_hold(base):
    for name, r in results(with_prediction(base, 3 * base.predicted[::-1])).items():
        low, high = METRICS.get(f"calibrated.{name}").bounds
        good = r.values[np.isfinite(r.values)]
        assert low is None or (good >= low).all(), name
        assert high is None or (good <= high).all(), name
