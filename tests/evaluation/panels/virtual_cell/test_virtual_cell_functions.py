"""The functions on arrays against scipy, scikit-learn and values worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control, mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score

from perturbfm_core.evaluation.differential.comparison import adjusted
from perturbfm_core.evaluation.panels.virtual_cell import aggregate, de_metrics, differential, means
from perturbfm_core.evaluation.panels.virtual_cell.differential import (
    DifferentialExpression,
    differential_expression,
    log2_ratio,
    prepare_controls,
)
from perturbfm_core.evaluation.panels.virtual_cell.edistance import ControlDistances, energy_distances
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.panels.virtual_cell.profiles import (
    FULL,
    VCC,
    ControlCells,
    Sample,
    pearson_of_edistances,
    profile,
)


def de_of(lfc, fdr):
    """Return a table of differential expression with only fold changes and adjusted p-values."""
    lfc, fdr = np.atleast_2d(np.asarray(lfc, dtype=float)), np.atleast_2d(np.asarray(fdr, dtype=float))
    blank = np.zeros_like(lfc)
    return DifferentialExpression(blank, fdr, fdr, lfc, blank, blank[0], blank)


def cells_of(rng, n=220, genes=30, perturbed=4, change=0.8):
    """Return (X [n, G], rows of each perturbation, control rows): log1p counts with a change of some genes."""
    label = np.arange(n) % (perturbed + 1)
    rate = np.full((n, genes), 0.7)
    for p in range(1, perturbed + 1):
        rate[np.ix_(label == p, np.arange(genes) % perturbed == p - 1)] += change * (1 + p)
    X = np.log1p(rng.poisson(rate)).astype(np.float32)
    return X, [np.flatnonzero(label == p) for p in range(1, perturbed + 1)], np.flatnonzero(label == 0)


# ---- rank sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_matrix", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("block", [10, 10**7], ids=["one_by_one", "together"])
@given(seed=st.integers(0, 10**6), signed=st.booleans())
def test_rank_sums_are_those_of_scipy(as_matrix, block, seed, signed):
    rng = np.random.default_rng(seed)
    X = rng.poisson(0.7, (60, 7)).astype(np.float32)
    X *= rng.choice([-1, 1, 1], X.shape) if signed else 1
    X[:, 0], X[:, 1], X[:, 2] = 0, 2, rng.random(60)
    rows = np.split(np.arange(20, 60), [1, 15])
    M = as_matrix(X)
    control, sample = prepare_controls(M[:20]), CellGroups.of_rows(M, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differential, "_BLOCK_VALUES", block)
        sums = differential_expression(sample, control)
    p = sums.p
    for i, part in enumerate(rows):
        np.testing.assert_allclose(sums.mean[i], X[part].mean(axis=0, dtype=float), rtol=1e-12)
        for g in range(1, X.shape[1]):
            if np.ptp(X[np.concatenate([part, np.arange(20)]), g]) == 0:
                assert p[i, g] == 1
                continue
            theirs = mannwhitneyu(X[part, g].astype(float), X[:20, g].astype(float), method="asymptotic")
            assert sums.statistic[i, g] == theirs.statistic
            np.testing.assert_allclose(p[i, g], min(theirs.pvalue, 1.0), rtol=1e-12)
    assert (p[:, 0] == 1).all()


def test_explicit_zeros_are_zeros():
    X = sp.csr_array(np.asarray([[1, 2], [1, 3], [2, 1], [1, 1]], dtype=np.float32))
    X.data[1] = X.data[4] = 0
    both = [
        differential_expression(CellGroups.of_rows(M, [np.arange(2, 4)]), prepare_controls(M[:2]))
        for M in (X, X.toarray())
    ]
    np.testing.assert_array_equal(both[0].statistic, both[1].statistic)
    np.testing.assert_array_equal(both[0].p, both[1].p)


def test_adjusted_p_values_are_those_of_scipy(rng):
    p = rng.random((3, 40)) ** 3
    p[:, ::4] = p[:, [1]]
    np.testing.assert_allclose(adjusted(p), false_discovery_control(p, axis=1), rtol=1e-14)


def test_fold_changes_of_absent_genes():
    ratio = log2_ratio(np.asarray([0.0, 0.0, 2.0, 4.0]), np.asarray([0.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(ratio, [0.0, -np.inf, np.inf, 2.0])


# ---- metrics of differential expression --------------------------------------------------------------------

# Genes 0 to 3 are observed DE (by falling size 0, 1, 2, 3), genes 1, 0, 5 predicted DE in this order.
REAL = de_of([[4, -3, 2, 1, 9, 0]], [[0.01, 0.01, 0.01, 0.01, 0.5, 0.9]])
PRED = de_of([[3, -5, -1, 0, 8, 1]], [[0.01, 0.02, 0.30, 0.60, 0.2, 0.04]])


def test_overlaps_by_hand():
    assert de_metrics.overlap_at(REAL, PRED, None)[0] == 2 / 4
    assert de_metrics.overlap_at(REAL, PRED, 2)[0] == 2 / 2
    assert de_metrics.overlap_at(REAL, PRED, 1)[0] == 0
    assert de_metrics.overlap_at(REAL, PRED, 50)[0] == 2 / 4
    assert de_metrics.precision_at(REAL, PRED, None)[0] == 2 / 3
    assert de_metrics.precision_at(REAL, PRED, 2)[0] == 1


def test_signs_recall_and_areas_by_hand():
    assert de_metrics.direction_match(REAL, PRED)[0] == 2 / 4
    assert de_metrics.recall(REAL, PRED)[0] == 2 / 4
    # Ranks 4 1 3 2 beside 4 1 2 3.
    np.testing.assert_allclose(de_metrics.spearman_of_changes(REAL, PRED), [0.8])
    precision, area = de_metrics.areas(REAL, PRED)
    label, score = REAL.significant[0], -PRED.fdr[0]
    np.testing.assert_allclose(precision, [average_precision_score(label, score)])
    np.testing.assert_allclose(area, [roc_auc_score(label, score)])


def test_areas_of_tied_scores_are_those_of_sklearn(rng):
    real = de_of(rng.normal(size=(5, 40)), rng.choice([0.01, 0.2], (5, 40)))
    pred = de_of(rng.normal(size=(5, 40)), rng.choice([1e-30, 1e-12, 0.01, 0.2, 1.0], (5, 40)))
    precision, area = de_metrics.areas(real, pred)
    for i in range(5):
        score = -np.log10(np.clip(pred.fdr[i], 1e-10, 1))
        np.testing.assert_allclose(precision[i], average_precision_score(real.significant[i], score))
        np.testing.assert_allclose(area[i], roc_auc_score(real.significant[i], score))


def test_infinite_fold_changes_come_first_in_order_of_genes():
    de = de_of([[1, np.inf, -np.inf, 2, np.inf]], [[0.01, 0.01, 0.01, 0.01, 0.9]])
    np.testing.assert_array_equal(de.rank, [[3, 0, 1, 2, 5]])


def test_conventions_without_any_de_gene():
    none = de_of(np.ones((2, 4)), np.ones((2, 4)))
    some = de_of(np.ones((2, 4)), np.full((2, 4), 0.01))
    for real, pred in ((none, some), (some, none), (none, none)):
        assert (de_metrics.overlap_at(real, pred, None) == 0).all()
        assert (de_metrics.precision_at(real, pred, 50) == 0).all()
    assert de_metrics.spearman_of_counts(none, some) == 1.0
    assert np.isnan(de_metrics.spearman_of_counts(some, some))
    for function in (de_metrics.direction_match, de_metrics.recall, de_metrics.spearman_of_changes):
        assert np.isnan(function(none, some)).all()
    assert np.isnan(de_metrics.areas(none, some)).all()
    assert np.isnan(de_metrics.areas(some, some)).all()


def test_thresholds_are_met_in_single_precision():
    # 0.05 - 1e-10 rounds to 0.05 in float32, whose comparison is strict in that precision.
    assert not de_of([[1.0]], [[0.05 - 1e-10]]).significant[0, 0]
    assert de_of([[1.0]], [[0.0499]]).significant[0, 0]


# ---- means -------------------------------------------------------------------------------------------------

GENES = np.asarray(["A", "B", "C"])


def test_discrimination_by_hand():
    real = np.asarray([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    pred = np.asarray([[1.0, 0, 0], [0, 0.4, 0.6], [0, 0, 0]])
    names = np.asarray(["x", "y", "z"])
    l1 = means.discrimination(pred, real, names, GENES, "l1")
    # Second: z is nearer than y. Third: a zero prediction is equally far from all.
    np.testing.assert_allclose(l1, [1, 1 - 1 / 3, 1 - 1 / 3])
    np.testing.assert_allclose(
        means.discrimination(pred, real, names, GENES, "cosine"), [1, 1 - 1 / 3, 1 - 1 / 3]
    )


@pytest.mark.parametrize("distance", means.DISTANCES)
def test_discrimination_leaves_out_only_the_gene_of_that_name(rng, distance):
    real, pred = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    names, genes = np.asarray(["a", "b", "c+d", "x", "y", "z"]), np.asarray(["a", "b", "c", "d", "e"])
    got = means.discrimination(pred, real, names, genes, distance)
    metric = {"l1": "cityblock", "l2": "euclidean", "cosine": "cosine"}[distance]
    for i, name in enumerate(names):
        keep = genes != name
        d = cdist(pred[[i]][:, keep], real[:, keep], metric)[0]
        assert got[i] == 1 - (d < d[i]).sum() / 6


@pytest.mark.parametrize("distance", means.DISTANCES)
def test_discrimination_lies_within_its_bounds_over_orders_of_ties(rng, distance):
    real = rng.normal(size=(4, 30))
    real[1] = real[0]
    pred = real + 0.01 * rng.normal(size=real.shape)
    names, genes = np.asarray(list("abcd")), np.arange(30).astype(str)
    least, most = means.discrimination_bounds(pred, real, names, genes, distance)
    np.testing.assert_allclose(least, [0.75, 0.75, 1, 1])
    np.testing.assert_allclose(most, 1)
    np.testing.assert_allclose(means.discrimination(pred, real, names, genes, distance), [0.875, 0.875, 1, 1])
    # Distances that are equal in single precision only.
    real[1] = real[0] * (1 + 1e-9)
    least, most = means.discrimination_bounds(pred, real, names, genes, distance)
    np.testing.assert_allclose(least, [0.75, 0.75, 1, 1])


def test_discrimination_of_a_constant_prediction_is_chance(rng):
    real, names = rng.normal(size=(9, 40)), np.asarray([f"p{i}" for i in range(9)])
    for distance in means.DISTANCES:
        zero = means.discrimination(np.zeros_like(real), real, names, np.arange(40).astype(str), distance)
        assert zero.mean() == pytest.approx((9 + 1) / 18)


def test_errors_by_hand():
    pred, real = np.asarray([[1.0, 2.0]]), np.asarray([[0.0, 4.0]])
    assert means.mse(pred, real)[0] == 2.5
    assert means.mae(pred, real)[0] == 1.5
    assert means.pearson(pred, real)[0] == pytest.approx(1.0)
    assert np.isnan(means.pearson(np.ones((1, 2)), real)[0])


# ---- E-distances -------------------------------------------------------------------------------------------


def test_energy_distances_by_hand():
    X = np.asarray([[0.0], [2.0], [1.0], [1.0]], dtype=np.float32)
    sample = CellGroups.of_rows(X, [np.asarray([2, 3]), np.asarray([0, 1])])
    # 2 * 1 - 0 - 1, and of a sample with itself 2 * 1 - 1 - 1.
    np.testing.assert_allclose(energy_distances(sample, ControlDistances(X[:2])), [1.0, 0.0], atol=1e-7)


@pytest.mark.parametrize("block", [7, 50, 10**6])
def test_energy_distances_in_blocks_and_with_equal_cells(rng, monkeypatch, block):
    monkeypatch.setattr("perturbfm_core.evaluation.single_distances._BLOCK_PAIRS", block)
    X = rng.gamma(2.0, size=(40, 12)).astype(np.float32) + 30
    X[5:15], X[20:25] = X[0], X[30]
    rows = [np.arange(20, 30), np.arange(30, 40), np.arange(5, 12)]
    got = energy_distances(CellGroups.of_rows(X, rows), ControlDistances(X[:20]))

    def distance(a, b):
        return cdist(X[a].astype(float), X[b].astype(float)).mean()

    c = np.arange(20)
    expected = [2 * distance(r, c) - distance(r, r) - distance(c, c) for r in rows]
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_constant_energy_distances_have_no_correlation():
    varied = np.asarray([1.0, 2.0, 3.0])
    assert np.isnan(pearson_of_edistances(varied, 1 + 1e-8 * varied))
    assert np.isnan(pearson_of_edistances(varied[:1], varied[:1]))
    assert pearson_of_edistances(varied, 2 * varied) == pytest.approx(1.0)


# ---- profiles ----------------------------------------------------------------------------------------------


def test_a_perfect_prediction_is_best(rng):
    X, rows, control = cells_of(rng)
    real = Sample(CellGroups.of_rows(X, rows), ControlCells(X[control]))
    pred = Sample(CellGroups.of_rows(sp.csr_array(X), rows), real.control)
    values = profile(real, pred, np.asarray(list("abcd")), np.arange(30).astype(str))
    assert tuple(values) == FULL
    assert real.de.significant.any(axis=1).all()
    for name, value in values.items():
        if not name.startswith("de_nsig"):
            np.testing.assert_allclose(value, 0 if name.startswith(("m",)) else 1, atol=1e-12, err_msg=name)


def test_order_of_cells_perturbations_and_genes_does_not_matter(rng):
    X, rows, control = cells_of(rng)
    noise = rng.normal(0, 0.3, X.shape).astype(np.float32)
    Y = np.maximum(X + noise, 0)
    names, genes = np.asarray(["g1", "b", "c", "d"]), np.asarray([f"g{i}" for i in range(30)])

    def scores(order, columns, shuffle):
        def side(M):
            parts = [shuffle(rows[i]) for i in order]
            M = M[:, columns]
            return Sample(CellGroups.of_rows(M, parts), ControlCells(M[shuffle(control)]))

        return profile(side(X), side(Y), names[order], genes[columns])

    plain = scores(np.arange(4), np.arange(30), np.asarray)
    mixed = scores(np.asarray([2, 0, 3, 1]), rng.permutation(30), rng.permutation)
    for name in FULL:
        np.testing.assert_allclose(mixed[name], plain[name][[2, 0, 3, 1]], atol=1e-6, err_msg=name)


def test_own_controls_are_an_option(rng):
    X, rows, control = cells_of(rng)
    real = Sample(CellGroups.of_rows(X, rows), ControlCells(X[control]))
    own = Sample(real.groups, ControlCells(X[control] + 0.5))
    names, genes = np.asarray(list("abcd")), np.arange(30).astype(str)
    values = profile(real, own, names, genes, ("mae", "mae_delta"))
    assert (values["mae"] == 0).all()
    np.testing.assert_allclose(values["mae_delta"], 0.5, rtol=1e-5)
    assert tuple(profile(real, own, names, genes, VCC)) == VCC


def test_literal_and_exact_agree(rng):
    X, rows, control = cells_of(rng)
    sides = [
        Sample(CellGroups.of_rows(X, rows), ControlCells(X[control]), literal=literal)
        for literal in (True, False)
    ]
    np.testing.assert_allclose(sides[0].edistance, sides[1].edistance, atol=1e-5)
    np.testing.assert_allclose(sides[0].de.lfc, sides[1].de.lfc, atol=1e-5)
    plain = differential_expression(sides[1].groups, sides[1].control.ranked)
    np.testing.assert_array_equal(sides[0].de.p, plain.p)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 0), (np.float64, 1e-13)])
def test_literal_means_and_fold_changes_have_the_precision_of_the_cells(rng, dtype, rounding):
    X, rows, control = cells_of(rng)
    # Predicted cells that all equal the mean control: their change is what rounding leaves, in the peer too.
    own = X[control].astype(dtype)
    flat = np.tile(own.astype(np.float64).mean(axis=0).astype(dtype), (5, 1))
    groups = CellGroups.of_rows(np.vstack([X.astype(dtype), flat]), [rows[0], np.arange(len(X), len(X) + 5)])
    sample = Sample(groups, ControlCells(own), literal=True)
    centre = own.astype(np.float64).mean(axis=0).astype(dtype)
    for i in range(2):
        cells = groups.get(i)
        mean = cells.astype(np.float64).mean(axis=0).astype(dtype)
        np.testing.assert_allclose(sample.mean[i], mean, atol=rounding, rtol=0)
        np.testing.assert_allclose(sample.delta[i], mean - centre, atol=rounding, rtol=0)
        ratio = np.expm1(cells.mean(axis=0)).astype(np.float64) / np.expm1(own.mean(axis=0))
        np.testing.assert_allclose(sample.de.lfc[i], np.log2(ratio), atol=rounding, rtol=0)


def test_bounds_of_overlaps_are_those_of_all_tie_orders(rng):
    genes, orders = 9, 400
    lfc = rng.integers(1, 4, (2, 6, genes)).astype(float)
    lfc[1, :2] = -np.inf
    fdr = np.where(rng.random((2, 6, genes)) < 0.8, 0.01, 0.5)
    real, pred = (de_of(lfc[i], fdr[i]) for i in range(2))
    for of_predicted, metric in ((False, de_metrics.overlap_at), (True, de_metrics.precision_at)):
        for k in (None, 3):
            found = []
            for _ in range(orders):
                by, pby = rng.permutation(genes), rng.permutation(genes)
                ranks = [np.argsort(by), np.argsort(pby)]
                sides = [
                    replace(de_of(lfc[i][:, order], fdr[i][:, order]), ties_in_order=True).rank[:, back]
                    for i, (order, back) in enumerate(zip((by, pby), ranks, strict=True))
                ]
                n = (pred if of_predicted else real).significant.sum(axis=1)
                length = n if k is None else np.minimum(n, k)
                shared = ((sides[0] < length[:, None]) & (sides[1] < length[:, None])).sum(axis=1)
                found.append(shared / np.maximum(length, 1))
            least, most = de_metrics.overlap_bounds(real, pred, k, of_predicted=of_predicted)
            assert (least <= np.min(found, axis=0)).all()
            assert (most >= np.max(found, axis=0)).all()
            value = metric(real, pred, k)
            assert ((least - 1e-12 <= value) & (value <= most + 1e-12)).all()
            assert (least < most).any()
    single = de_of(np.arange(1.0, genes + 1), np.full(genes, 0.01))
    least, most = de_metrics.overlap_bounds(single, single, 4, of_predicted=False)
    assert least[0] == most[0] == 1


def test_changes_too_short_for_the_peer_to_scale_are_tied_in_the_bounds(rng):
    real = rng.normal(size=(4, 12))
    names, genes = np.asarray(list("abcd")), np.arange(12).astype(str)
    least, most = means.discrimination_bounds(1e-8 * real, real, names, genes, "cosine")
    np.testing.assert_allclose((least, most), [[0.25] * 4, [1.0] * 4])
    np.testing.assert_allclose(means.discrimination(1e-8 * real, real, names, genes, "cosine"), 1.0)


# ---- aggregates --------------------------------------------------------------------------------------------


def test_summaries_by_hand():
    values = {
        "de_nsig_counts_real": np.asarray([0.0, 3.0, 1.0, 2.0]),
        "de_sig_genes_recall": np.asarray([np.nan, 0.5, 1.0, 0.0]),
        "pr_auc": np.asarray([np.nan, 0.5, 0.25, 1.0]),
    }
    got = aggregate.describe(values)
    recall, area = got["de_sig_genes_recall"], got["pr_auc"]
    assert (recall["count"], recall["null_count"], recall["mean"], recall["std"]) == (3, 1, 0.5, 0.5)
    assert (recall["25%"], recall["50%"], recall["75%"]) == (0.5, 0.5, 1.0)
    assert np.isnan(area["mean"])
    assert (area["count"], area["min"], area["max"]) == (4, 0.25, 1.0)
    empty = {"de_nsig_counts_real": np.zeros(2), "de_direction_match": np.full(2, np.nan)}
    assert set(aggregate.describe(empty)) == {"de_nsig_counts_real"}


def test_scores_by_hand():
    entry = {
        "mae": 0.1,
        "pearson_delta": 0.75,
        "overlap_at_N": 0.1,
        "pr_auc": np.nan,
        "de_nsig_counts_real": 5.0,
    }
    base = {"mae": 0.4, "pearson_delta": 0.5, "overlap_at_N": 0.2, "pr_auc": 0.5, "de_nsig_counts_real": 5.0}
    got = aggregate.normalised_scores(entry, base)
    expected = {"mae": 0.75, "pearson_delta": 0.5, "overlap_at_N": 0.0, "pr_auc": 0.0, "avg_score": 1.25 / 4}
    assert got == pytest.approx(expected)
    perfect = aggregate.normalised_scores({"pearson_delta": 1.0}, {"pearson_delta": 1.0})
    assert perfect["pearson_delta"] == 0


def test_halves_are_disjoint_and_equal_in_size():
    labels = np.asarray(["b"] * 5 + ["a"] * 4 + ["c"])
    first, second, kept = aggregate.disjoint_halves(labels, seed=3)
    assert kept.tolist() == ["a", "b"]
    assert not set(first) & set(second)
    np.testing.assert_array_equal(labels[first], ["a", "a", "b", "b"])
    np.testing.assert_array_equal(labels[second], labels[first])
    np.testing.assert_array_equal(first, aggregate.disjoint_halves(labels, seed=3)[0])


def test_ceilings_by_hand():
    got = aggregate.split_half_ceiling(
        {
            "pearson_delta": np.asarray([0.4, 0.6]),
            "de_spearman_sig": np.asarray([-0.5, -0.5]),
            "mae": np.ones(2),
        }
    )
    assert got["pearson_delta"] == pytest.approx(2 / 3)
    assert np.isnan(got["de_spearman_sig"])
    assert np.isnan(got["mae"])
    np.testing.assert_allclose(aggregate.mean_vector(np.asarray([[1.0, 2.0], [3.0, 0.0]])), [2.0, 1.0])
