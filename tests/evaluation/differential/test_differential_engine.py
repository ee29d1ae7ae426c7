"""The shared engine against scipy: ranks and ties of every form of value, codes of counts, options."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import rankdata

from perturbfm_core.evaluation.differential import ordering, stacks
from perturbfm_core.evaluation.differential.comparison import DifferentialTest, gene_statistics
from perturbfm_core.evaluation.differential.ordering import count_codes, dense_codes, value_codes
from perturbfm_core.evaluation.differential.ranksum import normal_scores, two_sided_p
from perturbfm_core.evaluation.differential.stacks import GeneStack, compare_stacks, gene_chunks

SIZES = np.asarray([7, 1, 40, 12])


def naive(one, two):
    """Return (two times U, tie term) of one gene."""
    both = np.concatenate([one, two])
    ranks = rankdata(both)
    _, count = np.unique(both, return_counts=True)
    n = len(one)
    return 2 * ranks[:n].sum() - n * (n + 1), (count.astype(float) ** 3 - count).sum()


def stack_of(X, sizes):
    out = GeneStack(X.shape[1])
    for part in np.split(X, np.cumsum(sizes)[:-1]):
        out.add_group(sp.csr_array(part))
    return out


def counts(seed, n, genes=9):
    """Return counts with many zeros and ties; the first gene is absent, the last has large values."""
    X = np.random.default_rng(seed).poisson([0, 0.2, 0.5, 1, 2, 4, 0.1, 1, 300], (n, genes))
    return X.astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rows", [3, 512])
@pytest.mark.parametrize("values", [1, 20, 1 << 16])
@pytest.mark.parametrize("form", ["codes", "values", "merged"])
def test_rank_sums_of_every_form(monkeypatch, seed, rows, values, form):
    monkeypatch.setattr(stacks, "_ROWS", rows)
    monkeypatch.setattr(stacks, "_VALUES", values)
    kind = {"codes": np.uint32, "values": np.float32, "merged": np.float64}[form]
    control, X = counts(seed, 25).astype(kind), counts(seed + 10, SIZES.sum()).astype(kind)
    if form == "values":
        control[::3] *= -1
        X[::4] *= -1
    tested = np.ones(X.shape[1], dtype=np.bool_)
    tested[[2, 5]] = False
    twice, ties = compare_stacks(stack_of(control, [25]), stack_of(X, SIZES), SIZES, 25, tested, form)
    for i, part in enumerate(np.split(X, np.cumsum(SIZES)[:-1])):
        for g in np.flatnonzero(tested):
            expected = naive(part[:, g].astype(float), control[:, g].astype(float))
            assert (twice[i, g], ties[i, g]) == expected


def test_codes_far_apart_are_made_dense(monkeypatch):
    control, X = counts(3, 25).astype(np.uint32), counts(4, SIZES.sum()).astype(np.uint32)
    tested = np.ones(X.shape[1], dtype=np.bool_)
    near = compare_stacks(stack_of(control, [25]), stack_of(X, SIZES), SIZES, 25, tested)
    far = compare_stacks(stack_of(control * 100_003, [25]), stack_of(X * 100_003, SIZES), SIZES, 25, tested)
    np.testing.assert_array_equal(near, far)


def test_groups_without_values_and_controls_without_values():
    X = np.zeros((SIZES.sum(), 2), dtype=np.uint32)
    X[0, 1] = 5
    control = np.zeros((4, 2), dtype=np.uint32)
    twice, ties = compare_stacks(stack_of(control, [4]), stack_of(X, SIZES), SIZES, 4, np.ones(2, dtype=bool))
    for i, part in enumerate(np.split(X, np.cumsum(SIZES)[:-1])):
        for g in range(2):
            assert (twice[i, g], ties[i, g]) == naive(part[:, g].astype(float), np.zeros(4))


# ---- order ------------------------------------------------------------------------------------------------------


def test_values_with_one_logarithm_are_ties():
    # The second is the next number after the first, and their logarithms are equal; the third's is not.
    a = 437.35
    b = np.nextafter(a, 1e9)
    assert math.log1p(a) == math.log1p(b)
    codes = value_codes(np.asarray([b, a, a * (1 + 1e-12), 0.0]), merge=True)
    assert codes.tolist() == [1, 1, 2, 0]
    assert value_codes(np.asarray([b, a]), merge=False).tolist() == [1, 0]


def test_dense_codes_of_genes():
    codes, starts = dense_codes(np.asarray([9, 3, 9, 7], dtype=np.uint32), np.asarray([0, 0, 2, 2]), 4)
    assert codes.tolist() == [1, 0, 3, 2]
    assert starts.tolist() == [0, 2, 2, 4, 4]


@pytest.mark.parametrize("n_genes", [7, 1 << 31])
def test_order_of_codes_with_and_without_place_in_the_key(n_genes):
    rng = np.random.default_rng(6)
    codes = rng.integers(0, 40, 500).astype(np.uint32)
    codes[:3] = np.iinfo(np.uint32).max - np.arange(3, dtype=np.uint32)
    gene = rng.integers(0, 7, 500)
    order, keys = ordering._ascending(codes, gene, n_genes)
    assert sorted(order) == list(range(500))
    pairs = list(zip(gene[order].tolist(), codes[order].tolist(), strict=True))
    assert pairs == sorted(pairs)
    same = [a == b for a, b in zip(pairs[1:], pairs[:-1], strict=True)]
    assert (keys[1:] == keys[:-1]).tolist() == same


@pytest.mark.parametrize("table", [1, 40, 1 << 16])
def test_codes_of_counts_have_the_order_of_logarithms(monkeypatch, table):
    for name in ("_TABLE", "_LARGEST_TABLE"):
        monkeypatch.setattr(ordering, name, table)
    rng = np.random.default_rng(5)
    X = sp.csr_array(rng.poisson(rng.lognormal(0, 2, 6), (40, 6)).astype(np.float32))
    depth = rng.integers(1, 9, 40) / 7.0
    codes = count_codes([(X, depth), (X[:5], depth[:5])])
    got = codes.of(X.data, np.repeat(codes.places(depth), np.diff(X.indptr)))
    values = [math.log1p(v) for v in X.data / np.repeat(depth, np.diff(X.indptr))]
    np.testing.assert_array_equal(rankdata(got, "dense"), rankdata(values, "dense"))


def test_chunks_hold_every_tested_gene():
    tested = np.asarray([False, True, True, False, True, False, False])
    for budget in (1, 8, 10**6):
        chunks = list(gene_chunks(tested, 10, 4, budget))
        held = np.zeros(7, dtype=np.bool_)
        for chunk in chunks:
            held[chunk] = True
        assert held[tested].all()


# ---- options ----------------------------------------------------------------------------------------------------


def test_options_of_a_comparison():
    sums = np.asarray([[30.0, 20.0, 0.0]]), np.asarray([[0.0, 60.0, 990.0]])
    sizes = np.asarray([4]), 6
    means = np.asarray([[2.0, 0.0, 0.0]]), np.asarray([1.0, 1.0, 0.0])
    plain = gene_statistics(sums, sizes, means, DifferentialTest(epsilon=0.0))
    gap, sd = normal_scores(*sums, *sizes)
    assert plain.lfc[0, :2].tolist() == [1.0, -np.inf]
    # Undefined fold changes are never significant, unless they count as none.
    assert np.isnan(plain.lfc[0, 2])
    assert plain.p_adj[0, 2] == 1.0
    assert (
        gene_statistics(sums, sizes, means, DifferentialTest(epsilon=0.0, absent_change=0.0)).lfc[0, 2] == 0
    )
    corrected = gene_statistics(sums, sizes, means, DifferentialTest(continuity=True))
    assert corrected.p[0, 0] == pytest.approx(
        math.erfc((gap[0, 0] - 0.5) / sd[0, 0] / math.sqrt(2)), rel=1e-13
    )
    assert plain.p[0, 0] == pytest.approx(math.erfc(gap[0, 0] / sd[0, 0] / math.sqrt(2)), rel=1e-13)
    some = gene_statistics(sums, sizes, means, DifferentialTest(), np.asarray([True, False, True]))
    assert np.isnan([some.p[0, 1], some.p_adj[0, 1], some.lfc[0, 1]]).all()


def test_p_values_are_accurate_to_the_smallest():
    z = np.asarray([0.0, 1.0, -5.0, 20.0, 37.0])
    exact = [
        1.0,
        0.31731050786291410283,
        5.7330314375838782335e-7,
        5.50724823721246739015e-89,
        1.14511424450491536e-299,
    ]
    np.testing.assert_allclose(two_sided_p(z, np.ones(5)), exact, rtol=1e-11)
