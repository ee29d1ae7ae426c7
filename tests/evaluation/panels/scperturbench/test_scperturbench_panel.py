from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from perturbfm_core.evaluation.cells import Cells, Generator
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.metric import panel_metrics
from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.evaluation.panels.scperturbench import degs, pipeline, sides
from tests.support.factories import comparison_of, prediction_of, simulated, split_one

GENES = 130
NAMES = [m.name for m in panel_metrics("scperturbench")]


@dataclass(frozen=True, eq=False)
class FixedCells(Cells):
    """Cells whose predicted side is given."""

    imputed: list = field(default_factory=list)

    def predicted(self, i):
        return self.imputed[i]


def made(rng, sizes=(30, 40, 25), contexts=("a", "b", "a"), controls=50, shift=0.3):
    """Return (comparison, true cells, predicted cells, controls by context), all made of counts."""
    rate = rng.gamma(1.0, 2.0, size=GENES)

    def draw(n, effect):
        return np.log1p(rng.poisson(rate * effect, size=(n, GENES))).astype(np.float32)

    effects = [np.exp(shift * rng.standard_normal(GENES)) for _ in sizes]
    control = {c: draw(controls, 1.0) for c in ("a", "b")}
    true = [draw(n, e) for n, e in zip(sizes, effects, strict=True)]
    imputed = [draw(n, np.sqrt(e)) for n, e in zip(sizes, effects, strict=True)]
    return comparison(true, imputed, control, contexts), true, imputed, control


def comparison(true, imputed, control, contexts):
    X = np.concatenate([*control.values(), *true])
    at, control_rows = 0, {}
    for name, block in control.items():
        control_rows[name] = np.arange(at, at + len(block))
        at += len(block)
    truth_rows = []
    for block in true:
        truth_rows.append(np.arange(at, at + len(block)))
        at += len(block)
    zero = np.zeros((len(true), X.shape[1]))
    cells = FixedCells(
        X,
        truth_rows,
        control_rows,
        control_rows,
        list(contexts),
        zero,
        zero,
        Generator(),
        imputed=list(imputed),
    )
    delta = np.stack([t.mean(0) - control[c].mean(0) for t, c in zip(true, contexts, strict=True)])
    rows = [(c, f"P{i}") for i, c in enumerate(contexts)]
    return comparison_of(delta, delta, rows=rows, genes=[f"g{i}" for i in range(X.shape[1])], cells=cells)


def values_of(c):
    return {r.metric.name: r.values for r in evaluate(c, ["scperturbench"]).results}


def test_panel_has_the_peers_metrics_at_every_subset():
    stems = ["mse", "pearson_distance", "edistance", "sym_kldiv", "euclidean", "root_mean_squared_error"]
    stems += ["mean_absolute_error", "spearman_distance", "cosine_distance", "r2_distance", "mmd"]
    wanted = {f"{stem}_top{top}" for stem in stems for top in (20, 50, 100, 5000)}
    wanted |= {f"{stem}_top{top}" for stem in ("wasserstein", "common_degs") for top in (20, 50, 100)}
    assert set(NAMES) == wanted
    assert PANELS.get("scperturbench").headline == "pearson_distance_top5000"


@pytest.mark.parametrize("top", [20, 50, 100, 5000])
def test_panel_gives_what_the_pipeline_gives(rng, top):
    c, true, imputed, control = made(rng)
    got = values_of(c)
    for i, context in enumerate(("a", "b", "a")):
        scores = degs.welch_scores(degs.moments(true[i]), degs.moments(control[context]))
        order = degs.deg_order(scores)
        groups = pipeline.Groups(imputed[i], true[i], control[context], c.genes)
        ready = pipeline.prepare(groups, [str(g) for g in c.genes[order[:top]]], "context")
        for metric in pipeline.METRICS:
            if f"{metric}_top{top}" in got:
                expected = pipeline.score(ready, metric)
                # Genes whose means differ by rounding alone tie in double precision only.
                rel = 0.02 if metric == "spearman_distance" else 2e-5
                assert got[f"{metric}_top{top}"][i] == pytest.approx(expected, rel=rel), metric
        if top <= 100:
            predicted = degs.deg_order(
                degs.welch_scores(degs.moments(imputed[i]), degs.moments(control[context]))
            )
            assert got[f"common_degs_top{top}"][i] == degs.common_degs(order, predicted, top)


def test_panel_subsamples_as_the_pipeline_does(rng, monkeypatch):
    c, true, imputed, control = made(rng, sizes=(90,), contexts=("a",))
    everything = values_of(c)
    monkeypatch.setattr(pipeline, "SUBSAMPLE_CELLS", 60)
    c = comparison(true, imputed, control, ("a",))
    groups = pipeline.Groups(imputed[0], true[0], control["a"], c.genes)
    got = values_of(c)
    for metric in ("edistance", "sym_kldiv", "mse"):
        assert got[f"{metric}_top5000"][0] == pytest.approx(pipeline.score(groups, metric), rel=2e-5)
        changed = got[f"{metric}_top5000"][0] != everything[f"{metric}_top5000"][0]
        assert changed == (metric in pipeline.SUBSAMPLED)


def test_equal_cells_get_the_best_value(rng):
    _, true, _, control = made(rng)
    c = comparison(true, true, control, ("a", "b", "a"))
    for result in evaluate(c, ["scperturbench"]).results:
        if not result.metric.name.startswith("wasserstein"):
            np.testing.assert_allclose(
                result.values, result.metric.best, atol=1e-7, err_msg=result.metric.name
            )


def test_values_are_within_bounds(rng):
    for result in evaluate(made(rng)[0], ["scperturbench"]).results:
        low, high = result.metric.bounds
        assert np.isfinite(result.values).all(), result.metric.name
        assert (result.values >= low).all()
        assert high is None or (result.values <= high).all()


def test_order_of_cells_and_conditions_does_not_matter(rng):
    c, true, imputed, control = made(rng)
    shuffled = [[x[rng.permutation(len(x))] for x in side] for side in (true, imputed)]
    order = [2, 0, 1]
    other = comparison(
        [shuffled[0][i] for i in order],
        [shuffled[1][i] for i in order],
        {k: x[rng.permutation(len(x))] for k, x in control.items()},
        [("a", "b", "a")[i] for i in order],
    )
    a, b = values_of(c), values_of(other)
    for name in NAMES:
        np.testing.assert_allclose(b[name], a[name][order], rtol=1e-5, atol=1e-9, err_msg=name)


def test_a_swapped_prediction_is_caught(rng):
    _, true, imputed, control = made(rng, sizes=(30, 30), contexts=("a", "a"), shift=0.8)
    right = values_of(comparison(true, imputed, control, ("a", "a")))
    swapped = values_of(comparison(true, imputed[::-1], control, ("a", "a")))
    for name in ("mse_top100", "pearson_distance_top5000", "edistance_top20", "wasserstein_top100"):
        assert (swapped[name] > right[name]).all()
    assert (swapped["common_degs_top20"] < right["common_degs_top20"]).all()


def test_without_a_test_only_all_genes_are_scored(rng):
    c, *_ = made(rng, sizes=(1, 30), contexts=("a", "b"))
    got = values_of(c)
    assert np.isfinite(got["mse_top5000"]).all()
    for name in (
        "mse_top20",
        "edistance_top100",
        "sym_kldiv_top50",
        "wasserstein_top20",
        "common_degs_top20",
    ):
        assert np.isnan(got[name]).tolist() == [True, False], name


def test_a_prediction_of_the_controls_has_no_correlation(rng):
    _, true, _, control = made(rng, sizes=(50,), contexts=("a",))
    got = values_of(comparison(true, [control["a"].copy()], control, ("a",)))
    assert np.isnan(got["pearson_distance_top5000"]).all()
    assert np.isfinite(got["spearman_distance_top5000"]).all()


def test_the_true_side_is_made_once_for_all_predictions(rng, monkeypatch):
    c, true, imputed, control = made(rng)
    first = values_of(c)
    calls = []
    scores = sides._scores
    monkeypatch.setattr(sides, "_scores", lambda *a: calls.append(1) or scores(*a))
    again = replace(c, shared={})
    assert values_of(again).keys() == first.keys()
    assert len(calls) == len(c)
    fresh = comparison(true, imputed, control, ("a", "b", "a"))
    values_of(fresh)
    assert len(calls) == 3 * len(c)


def test_generated_cells_of_a_screen_are_scored_and_a_better_prediction_wins():
    ds = simulated(n_obs=1200, n_genes=60, n_contexts=2, n_perts=6, n_batches=1)
    split = split_one(ds, "context_ood", {"holdout": ["C0"]})
    truth = observed(ds, split)
    keys = list(truth.conditions.index)
    good = {k: truth.observed[i] for i, k in enumerate(keys)}
    poor = {k: -truth.observed[i] for i, k in enumerate(keys)}
    a, b = (values_of(compare(ds, split, prediction_of(ds, split, p), truth)) for p in (good, poor))
    for name in ("mse_top20", "pearson_distance_top5000", "edistance_top50", "wasserstein_top20"):
        assert np.nanmean(a[name]) < np.nanmean(b[name]), name


def test_data_without_cells_has_no_values():
    c = comparison_of(np.ones((2, 4)), np.ones((2, 4)))
    results = evaluate(c, ["scperturbench"], level="condition").results
    assert {r.status for r in results} == {"not_applicable"}
