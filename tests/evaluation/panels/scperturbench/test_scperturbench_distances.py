import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.scperturbench import cellwise, pipeline, pseudobulk
from perturbfm_core.evaluation.panels.scperturbench.sinkhorn import regularised_cost

S = np.asarray([1.0, 2.0, 3.0, 4.0])
P = np.asarray([1.0, 3.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", 5 / 4),
        ("euclidean", 5**0.5),
        ("root_mean_squared_error", 5**0.5),
        ("mean_absolute_error", 3 / 4),
        ("mmd", 5.0),
        ("r2_distance", 5 / 5),
        # Deviations (-1.5, -.5, .5, 1.5) and ranks of P (1, 3.5, 3.5, 2).
        ("spearman_distance", 1 - 1.5 / (5 * 4.5) ** 0.5),
        ("cosine_distance", 1 - 24 / (30 * 23) ** 0.5),
    ],
)
def test_profile_distances_by_hand(name, expected):
    distance = pseudobulk.PROFILES[name]
    assert float(distance(S, P)) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(distance(np.stack([S, P]), np.stack([P, P])), [expected, 0.0], atol=1e-15)


def test_pearson_distance_is_undefined_for_a_constant_profile():
    out = pseudobulk.pearson_distance(np.stack([S, S, S]), np.stack([P, np.full(4, 2.0), 5 - S]))
    np.testing.assert_allclose(out, [1 - 1.5 / (5 * 2.75) ** 0.5, np.nan, 2.0])


def test_r2_distance_of_a_constant_truth_is_that_of_scikit_learn():
    ones = np.ones(3)
    np.testing.assert_array_equal(
        pseudobulk.r2_distance(np.stack([ones, ones]), np.stack([ones, 2 * ones])), [0, 1]
    )


def test_r2_distance_of_a_single_gene_is_undefined_as_in_scikit_learn():
    assert np.isnan(pseudobulk.r2_distance(np.ones((2, 1)), np.zeros((2, 1)))).all()


def _groups(imputed, stimulated, control=((0.0, 0.0),), genes=("a", "b")):
    arrays = (np.asarray(x, dtype=np.float64) for x in (imputed, stimulated, control))
    return pipeline.Groups(*arrays, np.asarray(genes))


def test_edistance_by_hand():
    # True cells 0 and 2 on a line, predicted 3 and 5: between 3, 5, 1, 3; within 0, 2, 2, 0 on each side.
    groups = _groups([[3, 0], [5, 0]], [[0, 0], [2, 0]])
    assert pipeline.score(groups, "edistance") == pytest.approx(2 * 3 - 1 - 1)


def test_edistance_of_equal_groups_is_zero(rng):
    X = rng.random((30, 8))
    assert pipeline.score(_groups(X, X, genes=list("abcdefgh")), "edistance") == pytest.approx(0.0, abs=1e-7)


def test_squared_distances_are_those_of_the_definition(rng):
    X, Y = rng.random((7, 5)), rng.random((4, 5))
    np.testing.assert_allclose(
        cellwise.squared_distances(X, Y), ((X[:, None] - Y[None]) ** 2).sum(axis=2), rtol=1e-10
    )


def test_sym_kldiv_by_hand():
    # Gene a: means 1 and 2, deviations 1 and 2; gene b: equal. KL = 0.5 (s2/p2 + gap2/p2 - 1) + log(p/s).
    groups = _groups([[0, 0], [4, 1]], [[0, 0], [2, 1]])
    forward, backward = 0.5 * (1 / 4 + 1 / 4 - 1), 0.5 * (4 + 1 - 1)
    expected = np.log2((forward + backward) / 2 + 1)
    assert pipeline.score(groups, "sym_kldiv") == pytest.approx(expected, rel=1e-6)


def test_sym_kldiv_explodes_on_a_gene_that_is_constant_on_one_side():
    groups = _groups([[0, 0], [2, 0]], [[0, 0], [2, 1]])
    assert 45 < pipeline.score(groups, "sym_kldiv") < 60


def test_transport_of_one_cell_to_one_cell_costs_their_squared_distance():
    assert regularised_cost(np.asarray([[9.0]])).cost == pytest.approx(9.0)


def test_transport_of_two_cells_has_a_closed_form():
    # Symmetric cost 0, c: the plan is (p, q) / 2 with p + q = 1 and q / p = exp(-c / eps), eps = c / 40.
    c = 4.0
    eps = 0.05 * c / 2
    q = 1 / (1 + np.exp(c / eps))
    p = 1 - q
    expected = q * c + eps * (p * np.log(2 * p) + q * np.log(2 * q))
    result = regularised_cost(np.asarray([[0.0, c], [c, 0.0]]))
    assert result.cost == pytest.approx(expected, rel=1e-12)
    assert (result.iterations, result.converged) == (10, True)


@pytest.mark.parametrize("power", [1, 3, 6], ids=["plain", "skewed", "beyond exponentials"])
def test_scaling_makes_the_iterates_of_the_log_domain(rng, power):
    X, Y = rng.gamma(0.3, 1, size=(40, 12)) ** power, rng.gamma(0.3, 1, size=(30, 12)) ** power
    C = ((X[:, None] - Y[None]) ** 2).sum(axis=2)
    eps, f = 0.05 * C.mean(), np.zeros(40)
    for iteration in range(1, 2001):
        g = -eps * (np.log(30) + logsumexp((f[:, None] - C) / eps, axis=0))
        f = -eps * (np.log(40) + logsumexp((g - C) / eps, axis=1))
        plan = np.exp((f[:, None] + g - C) / eps)
        if iteration % 10 == 0 and np.abs(plan.sum(axis=0) - 1 / 30).sum() <= 1e-3:
            break
    expected = f.mean() + g.mean() + eps * (np.log(30 * 40) + 1 - plan.sum())
    result = regularised_cost(C)
    assert result.cost == pytest.approx(expected, rel=1e-12)
    assert result.iterations == iteration


def test_transport_between_equal_points_is_undefined():
    assert np.isnan(regularised_cost(np.zeros((3, 3))).cost)


def test_transport_stops_at_the_limit_of_iterations(monkeypatch):
    monkeypatch.setattr("perturbfm_core.evaluation.panels.scperturbench.sinkhorn.THRESHOLD", -1.0)
    result = regularised_cost(np.asarray([[0.0, 4.0], [4.0, 1.0]]))
    assert (result.iterations, result.converged) == (2000, False)


# ---- the two pipelines ---------------------------------------------------------------------------------------


def test_context_pipeline_repairs_before_it_selects_and_needs_every_gene():
    groups = _groups([[np.nan, 1], [5, 6]], [[1, 1]], control=[[2, 4], [4, 8]])
    ready = pipeline.prepare(groups, ["b"], "context")
    np.testing.assert_array_equal(ready.imputed, [[6], [6]])
    with pytest.raises(MetricError, match="lack 1 of 2 genes"):
        pipeline.prepare(groups, ["b", "c"], "context")


def test_perturbation_pipeline_selects_before_it_repairs_and_skips_missing_genes():
    groups = _groups([[np.nan, 1], [5, 6]], [[1, np.nan]], control=[[2, 4], [4, 8]])
    ready = pipeline.prepare(groups, ["b", "c"], "perturbation")
    assert ready.genes.tolist() == ["b"]
    np.testing.assert_array_equal(ready.imputed, [[1], [6]])
    np.testing.assert_array_equal(ready.stimulated, [[6]])


def test_perturbation_pipeline_gives_nothing_without_cells():
    groups = _groups(np.zeros((0, 2)), [[1, 1]])
    assert pipeline.prepare(groups, ["a"], "perturbation") is None
    assert pipeline.prepare(_groups([[1, 1]], np.zeros((0, 2))), ["a"], "perturbation") is None


def test_subsample_draws_imputed_then_stimulated_then_control():
    rng = np.random.RandomState(42)
    first, third = rng.choice(2100, 2000, replace=False), rng.choice(2500, 2000, replace=False)
    rows = pipeline.subsample_rows(2100, 2000, 2500)
    for got, expected in zip(rows, (first, np.arange(2000), third), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_pearson_distance_is_of_deltas_from_all_controls(rng):
    X = [rng.random((n, 6)) for n in (5, 7, 9)]
    groups = _groups(*X, genes=list("abcdef"))
    p, s, c = (x.mean(axis=0) for x in X)
    expected = 1 - stats.pearsonr(s - c, p - c)[0]
    assert pipeline.score(groups, "pearson_distance") == pytest.approx(expected, rel=1e-12)


def test_rounding_is_the_peers():
    assert pipeline.rounded(0.123456, "mse") == 0.1235
    assert pipeline.rounded(np.log2(3.00004), "sym_kldiv") == pytest.approx(np.log2(3.0), rel=1e-12)


def test_unknown_metric_names_those_there_are():
    with pytest.raises(MetricError, match="no metric 'dtw'; known: pearson_distance, mse"):
        pipeline.score(_groups([[1, 1]], [[1, 1]]), "dtw")
