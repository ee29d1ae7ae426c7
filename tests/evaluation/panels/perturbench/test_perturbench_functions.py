import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.spatial.distance import cdist

from perturbfm_core.evaluation.panels.perturbench import (
    aggregate,
    clouds,
    collapse,
    components,
    differential,
    undefined_ranks,
)
from perturbfm_core.evaluation.panels.perturbench.parity_moments import as_tested
from perturbfm_core.evaluation.panels.perturbench.parity_records import (
    Sides,
    pair_of,
    pair_records,
    unless_noise,
)
from perturbfm_core.evaluation.panels.perturbench.parity_ties import near_rank_bounds, recall_bounds
from perturbfm_core.evaluation.panels.perturbench.population import clipped_mean, moments_of, table_population
from perturbfm_core.evaluation.panels.perturbench.rank import ranks
from perturbfm_core.evaluation.panels.perturbench.vector import VECTOR_METRICS, r2_score, top_k_recall
from perturbfm_core.evaluation.parity import Record


@pytest.fixture
def cells(rng):
    """40 cells x 12 genes: 3 groups and controls in two covariate combinations, rows in no order."""
    group = np.repeat([-1, 0, 1, -1, 2], [8, 8, 8, 8, 8])
    covariate = np.repeat([0, 0, 0, 1, 1], 8)
    order = rng.permutation(40)
    X = np.where(rng.random((40, 12)) < 0.5, rng.gamma(2, 1, (40, 12)), 0)
    return X, group[order], covariate[order]


def population(cells, sparse=False):
    X, group, covariate = cells
    return table_population(sp.csr_array(X) if sparse else X, group, covariate, 3)


@pytest.mark.parametrize("sparse", [False, True])
def test_moments(cells, sparse):
    X, group, _ = cells
    found = population(cells, sparse)
    for k in range(3):
        np.testing.assert_allclose(found.moments.mean[k], X[group == k].mean(axis=0), atol=1e-14)
        np.testing.assert_allclose(found.moments.spread[k], X[group == k].var(axis=0), atol=1e-13)
        np.testing.assert_allclose(found.moments.var()[k], X[group == k].var(axis=0, ddof=1), atol=1e-13)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array])
def test_the_peers_scores_of_a_constant_gene_depend_on_the_rounding_of_its_square(rng, kind):
    values = np.log1p(np.arange(1, 40)).astype(np.float32)
    low = (values * values).astype(np.float64) < values.astype(np.float64) ** 2
    assert low.any()
    assert not low.all()
    X = np.tile(values, (12, 1))
    X[6:] += rng.random((6, len(values)), dtype=np.float32)
    group, covariate = np.repeat([0, -1], 6), np.zeros(12, dtype=int)
    plain = table_population(kind(X), group, covariate, 1)
    ours, peer = (differential.scores(p)[0] for p in (plain, as_tested(plain)))
    assert (ours != 0).all()
    np.testing.assert_array_equal(peer[low], 0.0)
    np.testing.assert_allclose(peer[~low], ours[~low], rtol=1e-5)
    p = differential.pvals(as_tested(plain))[0]
    assert (p[low] == 1).all()
    assert (p[~low] < 1).all()
    # Without constant genes they are the same.
    table = table_population(kind(X[6:]), np.repeat([0, -1], 3), covariate[:6], 1)
    np.testing.assert_allclose(differential.scores(as_tested(table)), differential.scores(table), rtol=1e-5)


def test_a_change_of_the_size_of_rounding_has_no_direction(rng):
    labels, R = [("c", "a"), ("c", "b")], rng.normal(size=(2, 30))
    P = np.stack([R[0], 1e-8 * rng.normal(size=30)])
    for metric in ("cosine", "pearson", "r2_score"):
        degenerate = pair_of(metric, Sides(labels, P, R, ["c", "c"])).degenerate
        np.testing.assert_array_equal(degenerate, [False, True])
        wrong = Record(f"V1.{metric}_logfc_deg10", "m|c_a", 0.5, 0.1)
        kept, left = (unless_noise(wrong, metric, P[[i]], R[[i]]) for i in range(2))
        assert kept is wrong
        assert left.skipped.startswith("ill_conditioned")
    assert unless_noise(wrong, "mse", P[[1]], R[[1]]) is wrong


@pytest.mark.parametrize(("mean", "ok"), [(1 / 3, True), (2 / 3, True), (0.7, False)])
def test_mean_ranks_lie_between_those_of_all_orders_of_ties(mean, ok):
    labels = [("c", name) for name in "abx"]
    # Predictions of a and b are equal; that of x is the farthest from x.
    sides = Sides(labels, np.asarray([[0.0], [0.0], [50.0]]), np.asarray([[0.0], [1.0], [5.0]]), ["c"] * 3)
    values = {"c_a": 0.0, "c_b": 1.0, "c_x": 2025.0}
    records = {
        "per_perturbation": {"m": values},
        "mean": {"m": np.mean(list(values.values()))},
        "rank": {"m": {"c_a": 0.5, "c_b": 0.0, "c_x": 1.0}},
        "rank_mean": {"m": mean},
    }
    found = {r.key: r for r in pair_records("V2.mse", "average", "m", pair_of("mse", sides), records, "V2")}
    assert all(found[f"m|{key}"].ok for key in values)
    last = [
        r
        for r in pair_records("V2.mse", "average", "m", pair_of("mse", sides), records, "V2")
        if r.key == "m|mean" and "rank" in r.metric
    ]
    assert [r.ok for r in last] == [ok]


def test_a_constant_gene_has_no_variance_at_all():
    X = np.full((5, 2), np.float32(0.1))
    assert (moments_of(lambda _: X, 1).spread == 0).all()
    assert (moments_of(lambda _: sp.csr_array(X), 1).spread == 0).all()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_the_mean_of_an_infinite_value_is_infinite_wherever_its_cell_stands(order):
    X = np.asarray([[np.inf, 1.0, -np.inf], [2.0, 3.0, 0.0], [0.0, 2.0, 1.0]])[order]
    for block in (X, sp.csr_array(X)):
        np.testing.assert_array_equal(moments_of(lambda _, A=block: A, 1).mean, [[np.inf, 2.0, -np.inf]])


def test_logfc_by_hand():
    mean, control = np.asarray([[0.3, 0.0]]), np.asarray([[0.1, 0.1]])
    np.testing.assert_allclose(aggregate.logfc(mean, control), [[1.0, -1.0]])
    assert aggregate.logfc(np.asarray([[-1.0]]), np.asarray([[1.0]])) == 0
    # A mean of minus the pseudocount.
    assert aggregate.logfc(np.asarray([[-0.1]]), np.asarray([[1.0]])) == -np.inf


def test_dispersion_by_hand():
    X = np.asarray([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]])
    moments = moments_of(lambda _: X, 1)
    np.testing.assert_allclose(aggregate.dispersion(moments), [[0.5, 0.0, 0.0]])
    np.testing.assert_allclose(aggregate.dispersion(moments, adjust=False), [[1.0, 0.0, 0.0]])
    around_zero = moments_of(lambda _: np.asarray([[-1.0], [1.0]]), 1)
    assert aggregate.dispersion(around_zero) == np.inf


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_scaled_is_within_the_covariate_in_v2_only(cells, version, sparse):
    X, group, covariate = cells
    found = aggregate.scaled(population(cells, sparse), version)
    for k, v in enumerate([0, 0, 1]):
        scope = X if version == "V1" else X[covariate == v]
        z = (X[group == k] - scope.mean(axis=0)) / scope.std(axis=0, ddof=1)
        np.testing.assert_allclose(found[k], np.clip(z, -10, 10).mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("bounds", [(-1.0, 0.7), (0.2, 0.7), (-2.0, -0.5)])
def test_clipping_counts_implicit_zeros(rng, bounds):
    X = np.where(rng.random((6, 4)) < 0.5, rng.normal(size=(6, 4)), 0)
    low, high = (np.full(4, b) for b in bounds)
    expected = np.clip(X, low, high).mean(axis=0)
    np.testing.assert_allclose(clipped_mean(X, low, high), expected)
    np.testing.assert_allclose(clipped_mean(sp.csr_array(X), low, high), expected)


def test_a_gene_that_is_constant_at_two_values_is_certain_in_v1_and_undefined_in_v2():
    # Up, down, unchanged, and one that varies.
    X = np.asarray([[1.0, 0.0, 2.0, 1.0], [1.0, 0.0, 2.0, 3.0], [0.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 1.0]])
    population = table_population(X, np.asarray([0, 0, -1, -1]), np.zeros(4, int), 1)
    sure = -np.log(1e-24)
    np.testing.assert_allclose(
        differential.logp_v1(population, "t-test_overestim_var")[0, :3], [sure, -sure, 0.0]
    )
    for function, value in ((differential.scores, 0.0), (differential.pvals, 1.0), (differential.logp, 0.0)):
        assert (function(population)[0, :3] == value).all()
    assert 0 < differential.logp_v1(population, "t-test_overestim_var")[0, 3] < sure


@pytest.mark.parametrize("similarity", [True, False])
def test_positions_that_rounding_decides_lie_within_bounds(similarity):
    sign = 1.0 if similarity else -1.0
    M = sign * np.asarray([[0.5, 0.2, np.nan], [0.5 + 1e-8, 0.3, 0.1], [0.1, 0.3 - 1e-3, 0.2]])
    least, most = near_rank_bounds(M, similarity=similarity)
    assert list(least) == [0, 0, 0]
    assert list(most) == [1, 0, 0]
    exact = ranks(M, similarity=similarity, denominator="n") * 3
    assert ((least <= exact) & (exact <= most)).all()


def test_scores_take_the_groups_size_on_both_sides(cells):
    X, group, covariate = cells
    X = np.concatenate([X, X[(group < 0) & (covariate == 0)] + 0.1])
    group, covariate = np.append(group, [-1] * 8), np.append(covariate, [0] * 8)
    found = population((X, group, covariate))
    a, b = X[group == 0], X[(group < 0) & (covariate == 0)]
    sides = (a.mean(0), a.std(0, ddof=1), 8, b.mean(0), b.std(0, ddof=1), 8)
    t, p = stats.ttest_ind_from_stats(*sides, equal_var=False)
    np.testing.assert_allclose(differential.scores(found)[0], t, rtol=1e-6)
    np.testing.assert_allclose(differential.pvals(found)[0], p, rtol=1e-9)
    q = stats.false_discovery_control(p)
    np.testing.assert_allclose(differential.logp(found)[0], np.sign(t) * -np.log(q), rtol=1e-6)
    pooled = stats.ttest_ind_from_stats(a.mean(0), b.std(0, ddof=1), 8, b.mean(0), b.std(0, ddof=1), 16)
    with_control = differential.scores(found, control_variance=True)[0]
    np.testing.assert_allclose(with_control, pooled.statistic, rtol=1e-6)


@pytest.mark.parametrize("test", differential.TESTS)
def test_every_test_of_the_peer(cells, test):
    X, group, covariate = cells
    a, b = X[group == 0], X[(group < 0) & (covariate == 0)][:5]
    X, group = np.concatenate([a, b]), np.asarray([0] * 8 + [-1] * 5)
    found = table_population(X, group, np.zeros(13, int), 1)
    if test == "wilcoxon":
        score = np.asarray([stats.ranksums(x, y).statistic for x, y in zip(a.T, b.T, strict=True)])
        p = 2 * stats.norm.sf(np.abs(score))
    else:
        n = 8 if test == "t-test_overestim_var" else 5
        sides = (a.mean(0), a.std(0, ddof=1), 8, b.mean(0), b.std(0, ddof=1), n)
        score, p = stats.ttest_ind_from_stats(*sides, equal_var=False)
    np.testing.assert_allclose(differential.scores(found, test)[0], score, rtol=1e-6)
    np.testing.assert_allclose(differential.pvals(found, test)[0], p, rtol=1e-9)
    q = stats.false_discovery_control(p)
    np.testing.assert_allclose(differential.logp(found, test)[0], np.sign(score) * -np.log(q), rtol=1e-9)
    np.testing.assert_allclose(differential.logp_v1(found, test)[0], np.sign(score) * -np.log(p), rtol=1e-9)


def test_a_gene_that_is_constant_at_two_values_counts_in_the_adjustment_of_the_others():
    # Its p-value is 0 when p-values are adjusted; its score is dropped after that.
    X = np.asarray([[1.0, 1.0], [1.0, 3.0], [0.0, 0.0], [0.0, 1.0]])
    found = table_population(X, np.asarray([0, 0, -1, -1]), np.zeros(4, int), 1)
    t, p = differential.scores(found)[0, 1], differential.pvals(found)[0, 1]
    np.testing.assert_allclose(differential.logp(found)[0], [0.0, np.sign(t) * -np.log(p)])


def test_undefined_values_rank_above_all_others():
    # As numbers larger than any, in the rank sum and among the largest entries.
    X = np.asarray([[np.nan, 5.0], [1.0, 0.0], [0.0, 2.0], [2.0, 1.0], [3.0, 4.0]])
    group, covariate = np.asarray([0, 0, -1, -1, -1]), np.zeros(5, int)
    found = table_population(X, group, covariate, 1)
    as_largest = table_population(np.nan_to_num(X, nan=99.0), group, covariate, 1)
    np.testing.assert_allclose(differential.rank_sum_scores(found), differential.rank_sum_scores(as_largest))
    A = np.asarray([[1.0, np.nan, 3.0, np.inf]])
    for k, first in ((1, [[0, 1, 0, 0]]), (2, [[0, 1, 0, 1]]), (3, [[0, 1, 1, 1]])):
        B = np.asarray(first, dtype=np.float64)
        assert top_k_recall(A, B, k) == 1
        np.testing.assert_allclose(recall_bounds(A, B, k), 1)


def test_undefined_values_of_both_sides_come_as_in_the_peers_sort():
    # Of numba 0.68, by which scanpy 1.11.5 ranks; the first 15 cells are the group.
    values = np.round(np.random.default_rng(0).random(40) * 4)
    values[values == 2] = np.nan
    last = [36, 34, 8, 31, 17, 25, 24, 19, 6]
    order = undefined_ranks.sorted_order(values)
    assert order[-9:].tolist() == last
    assert (np.diff(values[order[:-9]]) >= 0).all()
    found = undefined_ranks.ranks(values[:, None], 15)[:, 0]
    assert found[last].tolist() == list(range(32, 41))
    np.testing.assert_array_equal(found[order[:-9]], stats.rankdata(values[order[:-9]]))
    group = np.where(np.arange(40) < 15, 0, -1)
    z = differential.rank_sum_scores(table_population(values[:, None], group, np.zeros(40, int), 1))
    np.testing.assert_allclose(z, (found[:15].sum() - 15 * 41 / 2) / np.sqrt(15 * 25 * 41 / 12))
    # Infinite values come before.
    np.testing.assert_array_equal(
        undefined_ranks.ranks(np.asarray([[np.nan], [np.inf], [0.0]]), 1), [[3], [2], [1]]
    )


def test_infinite_scores_are_zero():
    X = np.asarray([[1.0], [1.0], [0.0], [0.0]])
    group = np.asarray([0, 0, -1, -1])
    found = table_population(X, group, np.zeros(4, dtype=int), 1)
    assert differential.scores(found) == 0
    assert differential.pvals(found) == 1
    assert differential.logp(found) == 0


def test_rank_sum_scores(cells):
    X, group, covariate = cells
    found = differential.rank_sum_scores(population(cells))
    for k, v in enumerate([0, 0, 1]):
        expected = stats.ranksums(X[group == k], X[(group < 0) & (covariate == v)]).statistic
        np.testing.assert_allclose(found[k], expected, atol=1e-12)


@pytest.mark.parametrize("wide", [False, True])
def test_components_are_those_of_all_cells(cells, wide, monkeypatch):
    if wide:
        monkeypatch.setattr(components, "_WIDEST", 3)
    X, group, _ = cells
    found = population(cells, sparse=True)
    basis = components.fit(found, 4)
    D = X - X.mean(axis=0)
    axes = np.linalg.svd(D, full_matrices=False)[2][:4].T
    np.testing.assert_allclose(np.abs(basis.axes.T @ axes), np.eye(4), atol=1e-9)
    largest = np.abs(basis.axes).argmax(axis=0)
    assert (basis.axes[largest, np.arange(4)] > 0).all()
    np.testing.assert_allclose(components.project(found, basis)[1], D[group == 1] @ basis.axes, atol=1e-9)
    np.testing.assert_allclose(
        components.pca_average(found.moments.mean, basis)[1], (D[group == 1] @ basis.axes).mean(0), atol=1e-9
    )


def test_r2_divides_by_the_predictions_variance():
    P, R = np.asarray([[0.0, 2.0], [1.0, 1.0], [1.0, 1.0]]), np.asarray([[0.0, 4.0], [1.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(r2_score(P, R), [1 - 4 / 2, 1.0, 0.0])


def test_top_k_recall_by_hand():
    P, R = np.asarray([[3.0, -2.0, 1.0, 0.0]]), np.asarray([[0.0, -2.0, 1.0, 0.5]])
    assert top_k_recall(P, R, 2) == 0.5
    assert top_k_recall(P, P, 8) == 0.5  # four columns for eight places
    tied = np.asarray([[1.0, 1.0, -1.0]])
    assert top_k_recall(tied, np.asarray([[5.0, 4.0, 0.0]]), 2) == 1.0  # the earlier columns


@pytest.mark.parametrize("name", VECTOR_METRICS)
def test_pairs_order_as_the_metric_does(rng, name):
    P, R = rng.normal(size=(6, 80)), rng.normal(size=(6, 80))
    kind = VECTOR_METRICS[name]
    exact, fast = kind.all_pairs(P, R), kind.pairwise(P, R)
    np.testing.assert_allclose(np.diag(exact), kind.score(P, R))
    similar = kind.similarity
    np.testing.assert_array_equal(ranks(exact, similarity=similar), ranks(fast, similarity=similar))


@pytest.mark.parametrize("name", VECTOR_METRICS)
def test_vector_metrics_are_best_on_a_perfect_prediction(rng, name):
    R = rng.normal(size=(5, 60))
    kind = VECTOR_METRICS[name]
    best = kind.bounds[1] if kind.similarity else kind.bounds[0]
    np.testing.assert_allclose(kind.score(R, R), best, atol=1e-12)
    assert (ranks(kind.pairwise(R, R), similarity=kind.similarity) == 0).all()


def test_ranks_by_hand():
    # Columns are observations: own values 3, 2, 9 of distances.
    M = np.asarray([[3.0, 1.0, 9.0], [1.0, 2.0, 9.0], [4.0, 5.0, 9.0]])
    np.testing.assert_allclose(ranks(M, similarity=False), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(ranks(M, similarity=False, denominator="n"), [1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(ranks(M, similarity=True), [0.5, 0.5, 0.5])
    assert ranks(np.asarray([[7.0]]), similarity=False) == 0


def test_undefined_values_rank_last():
    M = np.asarray([[np.nan, 0.1, 0.3], [0.2, 0.5, 0.1], [0.9, np.nan, 0.2]])
    np.testing.assert_allclose(ranks(M, similarity=True), [1.0, 0.0, 0.5])
    np.testing.assert_allclose(ranks(np.full((3, 3), np.nan), similarity=True), 0.5)


def test_equal_predictions_tie_whatever_the_rounding(rng):
    P, R = np.tile(rng.normal(size=80), (7, 1)), rng.normal(size=(7, 80))
    P *= 1 + 1e-15 * rng.normal(size=P.shape)
    for kind in VECTOR_METRICS.values():
        np.testing.assert_allclose(ranks(kind.pairwise(P, R), similarity=kind.similarity), 0.5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_mmd_is_the_energy_distance(rng, dtype, monkeypatch):
    monkeypatch.setattr(clouds, "_ROWS", 3)
    monkeypatch.setattr(clouds, "_COLUMNS", 4)
    P = [rng.normal(size=(n, 3)) for n in (4, 7)]
    R = [rng.normal(size=(n, 3)) for n in (5, 6, 2)]
    found = clouds.mmd_matrix(P, R, dtype=dtype)
    for i, p in enumerate(P):
        for j, r in enumerate(R):
            expected = cdist(p, r).mean() - 0.5 * cdist(p, p).mean() - 0.5 * cdist(r, r).mean()
            assert found[i, j] == pytest.approx(expected, abs=1e-10 if dtype is np.float64 else 1e-5)
    np.testing.assert_allclose(clouds.mmd(P, P), 0.0, atol=1e-6)


def test_energy_leaves_self_distances_out(rng):
    p, r = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)) + 1
    squared = [cdist(a, b, "sqeuclidean").sum() for a, b in ((p, r), (p, p), (r, r))]
    expected = 2 * squared[0] / 20 - squared[1] / 12 - squared[2] / 20
    found = clouds.energy(moments_of(lambda _: p, 1), moments_of(lambda _: r, 1))
    np.testing.assert_allclose(found, expected)


def test_collapse_by_hand():
    R = np.asarray([[1.0, 0.0], [0.0, 1.0]])
    assert collapse.variance_ratio(R / 2, R) == pytest.approx(0.25)
    assert collapse.diversity_ratio(R / 2, R) == pytest.approx(1.0)
    same = np.ones((2, 2))
    assert collapse.variance_ratio(same, R) == 0
    assert collapse.diversity_ratio(same, R) == pytest.approx(0, abs=1e-12)
    assert collapse.diversity_ratio(np.zeros((2, 2)), R) == 0
    assert np.isnan([collapse.variance_ratio(R, same), collapse.diversity_ratio(R, same)]).all()
    assert np.isnan([collapse.variance_ratio(R[:1], R[:1]), collapse.diversity_ratio(R[:1], R[:1])]).all()


def test_spearman(rng):
    P, R = rng.normal(size=(3, 20)), rng.normal(size=(3, 20))
    expected = [stats.spearmanr(p, r).statistic for p, r in zip(P, R, strict=True)]
    np.testing.assert_allclose(collapse.spearman(P, R), expected)


def test_cells_in_another_order_give_the_same(cells, rng):
    X, group, covariate = cells
    order = rng.permutation(len(X))
    a, b = population(cells), population((X[order], group[order], covariate[order]))
    for function in (aggregate.scaled, differential.scores, differential.logp, differential.logp_v1):
        np.testing.assert_allclose(function(a), function(b), atol=1e-6)
