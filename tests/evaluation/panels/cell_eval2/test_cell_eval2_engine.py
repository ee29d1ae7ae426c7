"""The engine against plain loops: profiles, leave-one-out spread, ranks with ties, p-values, halves, baseline."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import false_discovery_control, mannwhitneyu, rankdata

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.differential import ordering
from perturbfm_core.evaluation.differential.comparison import DifferentialTest
from perturbfm_core.evaluation.panels.cell_eval2.anchor import disjoint_halves, split_seeds
from perturbfm_core.evaluation.panels.cell_eval2.baseline import mean_response, mean_response_cells
from perturbfm_core.evaluation.panels.cell_eval2.bulk import profiles
from perturbfm_core.evaluation.panels.cell_eval2.catalog import PROFILES
from perturbfm_core.evaluation.panels.cell_eval2.cells import check_pair, label_cells
from perturbfm_core.evaluation.panels.cell_eval2.differential import (
    control_reference,
    differential_expression,
)
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate
from perturbfm_core.evaluation.panels.cell_eval2.targets import target_columns


def draw(seed, sizes, n_genes=30, mean=1.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    labels = np.repeat([f"G{k}" if k else "ctrl" for k in range(len(sizes))], sizes)
    rate = rng.lognormal(mean, 1.5, (len(sizes), n_genes))[np.repeat(np.arange(len(sizes)), sizes)]
    X = rng.poisson(rate * rng.lognormal(0, 0.5, (len(labels), 1))).astype(dtype)
    order = rng.permutation(len(labels))
    return X[order], labels[order], np.asarray([f"G{j}" for j in range(n_genes)])


def cells_of(seed, sizes, **other):
    return label_cells(*draw(seed, sizes, **other), "ctrl")


# ---- profiles -------------------------------------------------------------------------------------------------


def naive_jackknife(X, target=5e4):
    n = len(X)
    if n < 2:
        return 0.0
    left = X.sum(axis=0) - X
    depth = left.sum(axis=1, keepdims=True)
    v = np.log1p(np.where(depth > 0, target * left / np.where(depth > 0, depth, 1), 0.0))
    return (n - 1) / n * ((v - v.mean(axis=0)) ** 2).sum()


@pytest.mark.parametrize("sizes", [(5, 2, 3), (40, 12, 1, 33), (300, 100)])
def test_leave_one_out_spread_is_that_of_the_loop(sizes):
    X, labels, genes = draw(1, sizes)
    cells = label_cells(X, labels, genes, "ctrl")
    got = profiles(cells)
    for k, name in enumerate(cells.names):
        part = X[labels == name].astype(np.float64)
        assert got.correction[k] == pytest.approx(naive_jackknife(part), rel=1e-11)
        total = part.sum(axis=0)
        np.testing.assert_allclose(got.means[k], np.log1p(5e4 * total / total.sum()), rtol=1e-13)


def test_leave_one_out_spread_of_odd_groups():
    """One cell with all or most of the counts, cells without any, a gene in one cell."""
    one = np.zeros((14, 4))
    one[3] = [5, 2, 0, 1]
    most = np.ones((20, 4))
    most[0] = [500, 0, 30, 2]
    X = np.concatenate([one, most, np.zeros((3, 4)), np.ones((2, 4))])
    labels = ["a"] * 14 + ["b"] * 20 + ["c"] * 3 + ["ctrl"] * 2
    got = profiles(label_cells(X, labels, list("WXYZ"), "ctrl"))
    expected = [naive_jackknife(one), naive_jackknife(most), 0.0, 0.0]
    np.testing.assert_allclose(got.correction, expected, rtol=1e-11, atol=1e-20)
    assert not got.means[2].any()


def test_profiles_of_log_values_are_means_and_variances():
    X, labels, genes = draw(2, (9, 5, 1))
    X = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    cells = label_cells(X, labels, genes, "ctrl", "lognorm")
    got = profiles(cells)
    for k, name in enumerate(cells.names):
        part = X[labels == name].astype(np.float64)
        np.testing.assert_allclose(got.means[k], part.mean(axis=0), rtol=1e-13)
        variance = part.var(axis=0, ddof=1).sum() / len(part) if len(part) > 1 else 0.0
        assert got.correction[k] == pytest.approx(variance, rel=1e-10)


# ---- differential expression ----------------------------------------------------------------------------------


def naive_test(X, labels, name):
    """Return (p, log2 fold change, mean of the controls) by sorting the values that scanpy ranks."""
    totals = X.sum(axis=1, dtype=np.float64)
    linear = X.astype(np.float64) / np.where(totals == 0, 1, totals / 1e6)[:, None]
    logs = np.asarray([[math.log1p(v) for v in row] for row in linear])
    one, two = logs[labels == name], logs[labels == "ctrl"]
    n, m = len(one), len(two)
    p = []
    for g in range(X.shape[1]):
        ranks = rankdata(np.concatenate([one[:, g], two[:, g]]))
        _, count = np.unique(ranks, return_counts=True)
        ties = 1 - (count.astype(float) ** 3 - count).sum() / ((n + m) ** 3 - (n + m))
        sd = math.sqrt(ties * n * m * (n + m + 1) / 12)
        z = (ranks[:n].sum() - n * (n + m + 1) / 2) / sd if sd > 0 else 0.0
        p.append(math.erfc(abs(z) / math.sqrt(2)))
    means = [linear[labels == label].mean(axis=0) for label in (name, "ctrl")]
    return np.asarray(p), np.log2((means[0] + 1e-9) / (means[1] + 1e-9)), means[1]


@pytest.mark.parametrize(
    ("seed", "sizes", "mean"), [(0, (20, 15, 4), 1.0), (1, (50, 7, 30, 2), -1.0), (2, (12, 40), 4.0)]
)
def test_p_values_are_those_of_ranks(seed, sizes, mean, monkeypatch):
    X, labels, genes = draw(seed, sizes, mean=mean)
    X[labels == "ctrl", 3] = 0
    X[:, 4] = 0
    cells = label_cells(X, labels, genes, "ctrl")
    got = differential_expression(cells, control_reference(cells))
    for i, name in enumerate(got.names):
        p, lfc, control = naive_test(X, labels, name)
        tested = control > 5
        np.testing.assert_array_equal(got.tested, tested)
        np.testing.assert_allclose(got.p[i, tested], p[tested], rtol=1e-10)
        np.testing.assert_allclose(got.lfc[i, tested], lfc[tested], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(got.p_adj[i, tested], false_discovery_control(p[tested]), rtol=1e-10)
        assert np.isnan(got.p[i, ~tested]).all()
    # Counts beyond the table, one by one.
    monkeypatch.setattr(ordering, "_TABLE", 1)
    monkeypatch.setattr(ordering, "_LARGEST_TABLE", 1)
    other = differential_expression(cells, control_reference(cells))
    np.testing.assert_array_equal(other.p, got.p)


def test_fractions_and_log_values_rank_as_they_are():
    X, labels, genes = draw(3, (25, 20))
    for kind, values in (("counts", X * 0.3), ("lognorm", np.log1p(X / 7)), ("lognorm", np.log1p(X / 7.0))):
        cells = label_cells(values, labels, genes, "ctrl", kind, whole=False)
        test = DifferentialTest(min_control_cpm=None)
        got = differential_expression(cells, control_reference(cells, test))
        assert got.tested.all()
        values = values.astype(np.float64)
        ranked = values if kind == "lognorm" else naive_scaled(values)
        expected = mannwhitneyu(
            ranked[labels == "G1"], ranked[labels == "ctrl"], use_continuity=False, method="asymptotic"
        ).pvalue
        np.testing.assert_allclose(got.p[0], np.nan_to_num(expected, nan=1.0), rtol=1e-9)


def naive_scaled(X):
    linear = X / (X.sum(axis=1, keepdims=True, dtype=np.float64) / 1e6)
    return np.asarray([[math.log1p(v) for v in row] for row in linear])


def test_geometric_means_without_gate_and_epsilon():
    X, labels, genes = draw(4, (10, 10))
    cells = label_cells(X, labels, genes, "ctrl")
    test = DifferentialTest("geometric", 0.0, None)
    got = differential_expression(cells, control_reference(cells, test))
    logs = naive_scaled(X)
    means = [np.expm1(logs[labels == label].mean(axis=0)) for label in ("G1", "ctrl")]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.log2(means[0] / means[1])
    np.testing.assert_allclose(got.lfc[0], expected, rtol=1e-12)
    # Undefined where a gene is in neither: never significant.
    assert (got.p_adj[0, np.isnan(expected)] == 1.0).all()


def test_the_form_of_the_matrix_does_not_matter():
    X, labels, genes = draw(5, (30, 20, 10))
    truth = label_cells(X, labels, genes, "ctrl")
    pred = label_cells(*draw(6, (30, 20, 10)), "ctrl")
    expected = evaluate(Truth(truth), pred, PROFILES["full"])
    order = np.random.default_rng(0).permutation(len(X))
    explicit = sp.csr_array(X)
    explicit.data[::7] = 0
    dense = explicit.toarray()
    for form in (sp.csr_array(X[order]), sp.csc_matrix(X[order]), X[order].astype(np.int64), X[order]):
        other = Truth(label_cells(form, labels[order], genes, "ctrl"))
        got = evaluate(other, pred, PROFILES["full"])
        for name, values in expected.values.items():
            np.testing.assert_allclose(got.values[name], values, rtol=1e-10, atol=1e-13, err_msg=name)
    stored, absent = (label_cells(form, labels, genes, "ctrl") for form in (explicit, dense))
    np.testing.assert_array_equal(Truth(stored).table.p, Truth(absent).table.p)


# ---- input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X + 0.5, "hold 0.5|hold .*5, which is no count"),
        (lambda X: -X, "negative values"),
        (lambda X: X * np.nan, "NaN or infinite"),
        (lambda X: X * 1e6, "at most 1e\\+06"),
    ],
)
def test_values_that_are_no_counts_are_refused(change, message):
    X, labels, genes = draw(7, (5, 5))
    with pytest.raises(MetricError, match=message):
        label_cells(change(X), labels, genes, "ctrl")


def test_labels_and_genes_are_checked():
    X, labels, genes = draw(8, (5, 5, 5))
    with pytest.raises(MetricError, match="no control 'none'; labels are G1, G2, ctrl"):
        label_cells(X, labels, genes, "none")
    with pytest.raises(MetricError, match="more than once"):
        label_cells(X, labels, ["G0", *genes[:-1]], "ctrl")
    with pytest.raises(MetricError, match="all controls"):
        label_cells(X[labels == "ctrl"], ["ctrl"] * 5, genes, "ctrl")
    with pytest.raises(MetricError, match="whole numbers only"):
        label_cells(X, labels, genes, "ctrl", "lognorm")
    real = label_cells(X, labels, genes, "ctrl")
    with pytest.raises(MetricError, match="lacks 1 labels of the other file \\(G2\\)"):
        check_pair(real, label_cells(X[labels != "G2"], labels[labels != "G2"], genes, "ctrl"))
    with pytest.raises(MetricError, match="in another order: gene 1 is 'G29'"):
        check_pair(real, label_cells(X, labels, genes[::-1], "ctrl"))
    with pytest.raises(MetricError, match="30 genes, the truth 29"):
        check_pair(label_cells(X[:, 1:], labels, genes[1:], "ctrl"), real)


def test_a_truth_without_its_cells_gives_the_same_values():
    for seed, kind in ((12, "counts"), (13, "counts"), (14, "lognorm")):
        both = []
        for n in (seed, seed + 20):
            X, labels, genes = draw(n, (40, 30, 20))
            both.append(label_cells(X if kind == "counts" else np.log1p(X / 7), labels, genes, "ctrl", kind))
        truth = Truth(both[0])
        released = truth.released()
        assert released.cells.X.nnz == 0
        expected, got = (evaluate(t, both[1], PROFILES["full"]) for t in (truth, released))
        for name, values in expected.values.items():
            np.testing.assert_array_equal(got.values[name], values, err_msg=name)


def test_target_genes():
    names, genes = np.asarray(["G1", "drug"]), np.asarray(["G0", "G1"])
    assert target_columns(names, genes).tolist() == [1, -1]
    assert target_columns(names, genes, {"drug": "G0"}).tolist() == [1, 0]
    assert target_columns(names, genes, {"*": None}).tolist() == [-1, -1]
    with pytest.raises(MetricError, match="no label is the name of a gene"):
        target_columns(names[1:], genes)


# ---- halves and baseline ----------------------------------------------------------------------------------------


def test_halves_are_disjoint_and_drawn_like_the_peers():
    assert split_seeds() == [2968811710, 3677149159, 745650761, 2884920346, 2642120001]
    cells = cells_of(9, (11, 6, 3))
    first, second = disjoint_halves(cells, 7)
    assert not set(np.flatnonzero(first.group >= 0)) & set(np.flatnonzero(second.group >= 0))
    assert first.sizes.tolist() == second.sizes.tolist() == [3, 1, 5]
    rng = np.random.default_rng(7)
    for k, rows in enumerate(cells.rows):
        drawn = rng.permutation(rows)
        assert set(first.rows[k]) == set(drawn[: len(rows) // 2])
    # Another order of groups draws others.
    assert (disjoint_halves(cells, 7, ["ctrl", "G2", "G1"])[0].group != first.group).any()
    with pytest.raises(MetricError, match="'G1' has one cell"):
        disjoint_halves(cells_of(9, (4, 1)), 0)


def test_halves_score_as_files_of_their_own():
    X, labels, genes = draw(10, (40, 30, 20))
    cells = label_cells(X, labels, genes, "ctrl")
    first, second = disjoint_halves(cells, 3)
    apart = [label_cells(X[h.group >= 0], labels[h.group >= 0], genes, "ctrl") for h in (first, second)]
    got = evaluate(Truth(first), second, PROFILES["full"], own_control=True)
    expected = evaluate(Truth(apart[0]), apart[1], PROFILES["full"], own_control=True)
    for name, values in expected.values.items():
        np.testing.assert_allclose(got.values[name], values, rtol=1e-12, err_msg=name)


def test_mean_response_leaves_out_own_targets():
    X = np.asarray([[2, 4, 0], [10, 0, 2], [0, 2, 4], [1, 1, 1]])
    truth = Truth(label_cells(X, ["G0", "G1", "drug", "ctrl"], ["G0", "G1", "G2"], "ctrl"))
    np.testing.assert_allclose(mean_response(truth), [(10 + 0) / 2, (4 + 2) / 2, (0 + 2 + 4) / 3])


def test_mean_response_cells_have_the_response_and_the_controls():
    cells = cells_of(11, (400, 300, 300))
    truth = Truth(cells)
    pred = mean_response_cells(truth, seed=1)
    check_pair(cells, pred)
    control = cells.rows[cells.control]
    np.testing.assert_array_equal(pred.X[control].toarray(), cells.X[control].toarray())
    response = mean_response(truth)
    used = response > 1
    got = np.asarray(pred.X[cells.rows[0]].mean(axis=0)).ravel()
    np.testing.assert_allclose(got[used], response[used], rtol=0.3)
    logs = label_cells(np.log1p(draw(11, (9, 5, 4))[0] / 3), *draw(11, (9, 5, 4))[1:], "ctrl", "lognorm")
    flat = mean_response_cells(Truth(logs))
    np.testing.assert_allclose(
        flat.X[logs.rows[0]].toarray(), np.tile(mean_response(Truth(logs)), (5, 1)), rtol=1e-6
    )
