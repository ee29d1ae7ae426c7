"""The set process and its kernel: hand values, and a dense Gaussian process beside it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess, condition_noise
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.core.strata_mean import StrataMean
from tests.support.factories import query_of, view_of

RNG = np.random.default_rng(0)


def similarity(kernel, rows, requested, *, delta=None, tables=(), **extra):
    """Return float64 [requested, rows], a kernel between conditions."""
    delta = np.random.default_rng(1).normal(size=(len(rows), 5)) if delta is None else np.asarray(delta)
    view = view_of(rows, delta, **extra)
    return SimilarityKernel(tables).fit(view).blocks(query_of(requested, delta.shape[1]))(kernel)


# ---- the kernel ----------------------------------------------------------------------------------------------


def test_identity_counts_shared_genes():
    rows = [("c", "a"), ("c", "b"), ("c", "a+b"), ("c", "b+d")]
    K = similarity(Kernel(identity=1.0), rows, [("c", "a"), ("c", "a+b"), ("c", "x"), ("c", "d+x")])
    np.testing.assert_allclose(K, [[1, 0, 1, 0], [1, 1, 2, 1], [0, 0, 0, 0], [0, 0, 0, 1]], atol=1e-12)


def test_switched_on_and_off_are_different_interventions():
    rows = [("c", "a", "CRISPRa"), ("c", "a", "CRISPRi")]
    K = similarity(Kernel(identity=1.0), rows, [("c", "a", "CRISPRi"), ("c", "a", "KO")])
    np.testing.assert_allclose(K, [[0, 1], [0, 0]], atol=1e-12)


# Singles 3 e0, 4 e1 and one without an effect, which together span both genes.
ROWS, DELTA = [("c", "a"), ("c", "b"), ("c", "z")], [[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]


def test_effect_is_an_rbf_of_the_summed_single_effects():
    # The sum of a and b lies at 4 from the first and at 3 from the second; an unseen gene at zero.
    K = similarity(Kernel(effect=1.0), ROWS, [("c", "a"), ("c", "a+b"), ("c", "x")], delta=DELTA)
    d2 = np.asarray([[0, 25, 9], [16, 9, 25], [9, 16, 0]])
    np.testing.assert_allclose(K, np.exp(-d2 / 16.0), atol=1e-6)


def test_pair_sums_over_pairs_of_genes():
    rows, delta = [("c", "a"), ("c", "b")], [[3.0, 0.0], [0.0, 4.0]]
    K = similarity(Kernel(pair=1.0), rows, [("c", "a+b")], delta=delta)
    np.testing.assert_allclose(K, [[1 + np.exp(-1.0), 1 + np.exp(-1.0)]], atol=1e-6)


def test_linear_is_the_inner_product_over_the_median_square():
    K = similarity(Kernel(linear=1.0), ROWS, [("c", "a+b"), ("c", "x")], delta=DELTA)
    np.testing.assert_allclose(K, np.asarray([[9, 16, 0], [0, 0, 0]]) / 9.0, atol=1e-6)


def test_features_are_the_weighted_mean_of_squared_cosines():
    table = GeneFeatures(
        "t", np.asarray(["a", "b", "x"]), np.asarray([[1, 0], [0, 2], [3, 3]], dtype=np.float32)
    )
    rows = [("c", "a"), ("c", "b")]
    K = similarity(Kernel(features=1.0), rows, [("c", "x"), ("c", "a"), ("c", "unknown")], tables=[table])
    cosine = np.asarray([[0.5**0.5, 0.5**0.5], [1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(K, cosine**2, atol=1e-6)
    other = GeneFeatures("o", np.asarray(["a", "x"]), np.ones((2, 1), dtype=np.float32))
    both = similarity(
        Kernel(features=1.0, tables=(0.25, 0.75)), rows, [("c", "x"), ("c", "a")], tables=[table, other]
    )
    np.testing.assert_allclose(both, [[0.875, 0.125], [1.0, 0.0]], atol=1e-6)


def test_features_are_signed():
    table = GeneFeatures("t", np.asarray(["a"]), np.ones((1, 1), dtype=np.float32))
    rows = [("c", "a", "CRISPRa"), ("c", "a", "CRISPRi")]
    K = similarity(Kernel(features=1.0), rows, [("c", "a", "CRISPRi")], tables=[table])
    np.testing.assert_allclose(K, [[-1.0, 1.0]], atol=1e-6)


def test_a_share_of_the_kernel_holds_in_like_contexts_only():
    rows = [("c", "a"), ("d", "a")]
    K = similarity(Kernel(identity=1.0, context=0.7, level=0.3), rows, [("c", "a"), ("e", "a"), ("c", "x")])
    # Without controls contexts are alike only if they are the same; the level is of the context alone.
    np.testing.assert_allclose(K, [[1.3, 0.3], [0.3, 0.3], [0.3, 0.0]], atol=1e-12)


def at_time(context: str, gene: str, time: str) -> tuple[str, ...]:
    return (context, gene, "CRISPRi", "", f'{{"time":"{time}"}}')


def test_a_share_of_the_kernel_holds_at_the_same_time_only():
    """Whatever the context, also one that train lacks."""
    rows = [at_time("c", "a", "6 h"), at_time("c", "a", "24 h"), at_time("d", "a", "24 h")]
    asked = [at_time("new", "a", "24 h"), at_time("new", "a", "72 h")]
    K = similarity(Kernel(identity=1.0, covariates=0.7), rows, asked)
    np.testing.assert_allclose(K, [[0.3, 1.0, 1.0], [0.3, 0.3, 0.3]], atol=1e-12)


@pytest.mark.parametrize("alike", [False, True])
def test_inner_folds_say_whether_effects_differ_by_time(alike):
    """Planted: effects of 6 h and 24 h that are unlike, or the same; contexts are held out."""
    rng = np.random.default_rng(2)
    effect = rng.normal(size=(2, 3, 60))
    effect[1] = effect[0] if alike else effect[1]
    times = ("6 h", "24 h")
    cases = [(c, t, p) for c in range(8) for t in range(2) for p in range(3)]
    rows = [at_time(f"c{c}", f"g{p}", times[t]) for c, t, p in cases]
    delta = np.asarray([effect[t, p] for _, t, p in cases]) + 0.5 * rng.normal(size=(len(cases), 60))
    inner = [[i for i, (c, _, _) in enumerate(cases) if c // 2 == j] for j in range(4)]
    view = view_of(rows, delta, inner=inner)
    both = [Kernel(identity=1.0), Kernel(identity=1.0, covariates=0.7)]
    process = SetProcess(presets=both).choose(view).fit(view)
    assert process.kernel == both[0 if alike else 1]
    predicted, _ = process.predict(query_of([at_time("new", "g0", t) for t in times], 60))
    for t in range(2):
        assert np.corrcoef(predicted[t], effect[t, 0])[0, 1] > 0.9


@pytest.mark.parametrize(("times", "tried"), [(("6 h", "6 h"), {0.0}), (("6 h", "24 h"), {0.0, 0.3, 0.7})])
def test_shares_of_covariates_are_tried_where_train_has_several(times, tried, monkeypatch):
    seen = []
    real = SetProcess._errors
    monkeypatch.setattr(SetProcess, "_errors", lambda *a, **k: (seen.extend(a[3]), real(*a, **k))[1])
    rows = [at_time(c, g, t) for c in "cdef" for g, t in zip("ab", times, strict=True)]
    view = view_of(rows, RNG.normal(size=(8, 5)), inner=[[0, 1, 2, 3], [4, 5, 6, 7]])
    SetProcess().choose(view)
    assert {k.covariates for k in seen} == tried


@pytest.mark.parametrize(
    "kernel",
    [
        Kernel(identity=0.7, level=0.2),
        Kernel(effect=1.0, pair=0.5, linear=2.0),
        Kernel(identity=0.3, effect=1.0, features=1.0, context=0.5, level=0.1),
        Kernel(identity=1.0, covariates=0.7),
    ],
)
def test_the_diagonal_is_that_of_the_kernel_which_is_positive_semidefinite(kernel):
    perts = ["a", "b", "d", "a+b", "b+d"]
    rows = [(c, p, m) for c in ("c", "d") for p in perts for m in ("CRISPRa", "CRISPRi")]
    table = GeneFeatures("t", np.asarray(["a", "b"]), RNG.normal(size=(2, 3)).astype(np.float32))
    view = view_of(rows, np.random.default_rng(2).normal(size=(len(rows), 6)))
    space = SimilarityKernel([table]).fit(view)
    K = space.blocks()(kernel)
    np.testing.assert_allclose(K, K.T, atol=1e-9)
    np.testing.assert_allclose(space.diagonal(view.query(), kernel), np.diag(K), atol=1e-9)
    if not kernel.features:
        assert np.linalg.eigvalsh(K).min() > -1e-9


# ---- the process ---------------------------------------------------------------------------------------------


def world(n=10, G=7, seed=3):
    """Return a view of singles and pairs without inner folds, and conditions to predict."""
    rng = np.random.default_rng(seed)
    perts = [f"p{i}" for i in range(n)] + [f"p{i}+p{i + 1}" for i in range(4)]
    rows = [("c", p) for p in perts]
    requested = query_of([("c", p) for p in ("p0", "p0+p5", "p2+new", "new")], G)
    return view_of(rows, rng.normal(size=(len(rows), G))), requested


@pytest.mark.parametrize(
    "kernel", [Kernel(identity=0.3, effect=1.0, pair=1.0, linear=0.5), Kernel(identity=0.4, level=0.3)]
)
@pytest.mark.parametrize("none", ["0", "0 nM", "0.0"])
def test_a_drug_at_a_dose_of_0_has_no_effect(kernel, none):
    rows = [("c", p, "drug", "10 uM") for p in ("a", "b", "d")] + [("c", "a+b", "drug", "10 uM+10 uM")]
    rng = np.random.default_rng(5)
    view = view_of(rows, rng.normal(size=(4, 6)) + 1.0)
    process = SetProcess(presets=[kernel]).choose(view)
    asked = [("a", none), ("a+b", f"{none}+{none}"), ("a+b", f"{none}+10 uM"), ("b", "10 uM")]
    asked = [("c", pert, "drug", doses) for pert, doses in asked]
    mean, _ = process.fit(view).predict(query_of(asked, 6))
    np.testing.assert_array_equal(mean[:2], 0.0)
    np.testing.assert_array_equal(mean[2], mean[3])
    assert np.abs(mean[3]).min() > 0.01
    alone, _ = process.predict(query_of(asked[:1], 6))
    np.testing.assert_array_equal(alone, 0.0)


def test_measured_doses_of_0_do_not_count_in_the_mean_of_others():
    rows = [("c", "a", "drug", "1 uM"), ("c", "a", "drug", "0 uM"), ("c", "b", "drug", "0 uM")]
    mean = StrataMean().fit(view_of(rows, [[3.0], [0.0], [0.0]]))
    found = mean.predict(query_of([("c", "d", "drug", "1 uM"), ("c", "a", "drug", "0")], 1))
    np.testing.assert_allclose(found, [[3.0], [0.0]])
    assert StrataMean().fit(view_of(rows[1:], [[0.1], [0.1]])).predict(query_of(rows[:1], 1)) == 0.0


def test_mean_and_variance_are_those_of_the_dense_formulas():
    view, query = world()
    process = SetProcess(presets=[Kernel(identity=0.4, effect=1.0, pair=0.5)])
    process.choose(view)
    lambdas = np.asarray([0.5, 0.5, 2.0, 2.0, 8.0, 8.0, 8.0])
    mean, var = process.fit(view, lambdas).predict(query)
    K, C = process.similarity.blocks()(process.kernel), process.similarity.blocks(query)(process.kernel)
    prior = process.similarity.diagonal(query, process.kernel)
    center = StrataMean().fit(view)
    Y = (view.delta - center.predict(view.query())).astype(np.float64)
    for g, lam in enumerate(lambdas):
        A = np.linalg.inv(K + lam * np.eye(len(K)))
        expected = center.predict(query)[:, g] + C @ A @ Y[:, g]
        np.testing.assert_allclose(mean[:, g], expected, rtol=1e-4, atol=1e-5)
        scale = Y[:, g] @ A @ Y[:, g] / len(K)
        left = np.maximum(prior - np.einsum("ij,jk,ik->i", C, A, C), 1e-6)
        np.testing.assert_allclose(var[:, g], left * scale, rtol=1e-3)


def test_the_identity_kernel_is_sklearns_linear_process_on_indicators():
    view, query = world()
    process = SetProcess(presets=[Kernel(identity=1.0)])
    process.choose(view)
    mean, var = process.fit(view, np.full(7, 1.5)).predict(query)
    genes = sorted({"new"} | {g for p in view.conditions["pert_id"] for g in p.split("+")})

    def indicators(conditions):
        return np.asarray([[float(g in p.split("+")) for g in genes] for p in conditions["pert_id"]])

    center = StrataMean().fit(view)
    X, Y = indicators(view.conditions), view.delta - center.predict(view.query())
    kernel = DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")
    reference = GaussianProcessRegressor(kernel, alpha=1.5, optimizer=None).fit(X, Y)
    expected, spread = reference.predict(indicators(query.conditions), return_std=True)
    np.testing.assert_allclose(mean, center.predict(query) + expected, rtol=1e-4, atol=1e-5)
    # One scale per gene lies between the two, whose process has variance 1.
    ratio = var / spread[:, :1] ** 2
    np.testing.assert_allclose(ratio, np.repeat(ratio[:1], len(query), axis=0), rtol=1e-3)


def test_a_condition_of_train_varies_less_than_a_new_one():
    view, query = world()
    process = SetProcess(presets=[Kernel(identity=0.3, effect=1.0)])
    process.choose(view)
    var = process.fit(view).predict(query)[1]
    assert (var[0] < var[2]).all()
    assert (var > 0).all()


def test_a_planted_noisy_condition_is_found():
    rng = np.random.default_rng(0)
    n, G = 40, 60
    W = rng.normal(size=(n, 3))
    K = W @ W.T
    Y = W @ rng.normal(size=(3, G)) + 0.3 * rng.normal(size=(n, G))
    Y[7] += 3.0 * rng.normal(size=G)
    noise = condition_noise(K, Y.astype(np.float32))
    assert int(np.argmax(noise)) == 7
    assert noise[7] > 3 * np.median(noise)
    # An odd effect in a few genes is not noise.
    odd = Y.copy()
    odd[7] = W[7] @ np.zeros((3, G)) + Y[8]
    odd[9, :3] += 30.0
    assert condition_noise(K, odd.astype(np.float32))[9] < 2 * np.median(
        condition_noise(K, odd.astype(np.float32))
    )


def test_few_conditions_are_all_as_precise():
    assert np.array_equal(condition_noise(np.eye(5), RNG.normal(size=(5, 3))), np.ones(5))


def test_inner_folds_choose_the_kernel_that_holds_out_best():
    rng = np.random.default_rng(4)
    n, G = 30, 20
    latent = rng.normal(size=(n, 3))
    table = GeneFeatures("t", np.asarray([f"p{i}" for i in range(n)]), latent.astype(np.float32))
    # Deltas follow the direction of the features; ids say nothing of held-out genes.
    direction = latent / np.linalg.norm(latent, axis=1, keepdims=True)
    delta = direction @ rng.normal(size=(3, G)) * 3
    view = view_of([("c", f"p{i}") for i in range(n)], delta, inner=[list(range(j, n, 5)) for j in range(5)])
    chosen = SetProcess([table]).choose(view)
    assert chosen.kernel.features > 0
    assert SetProcess().choose(view).kernel.features == 0
    assert chosen.choice["by"] == "5 inner folds"


def test_strata_means_are_shrunk_to_the_mean_of_all():
    view = view_of([("c", "a"), ("c", "b"), ("c", "a+b")], [[0.0], [3.0], [9.0]])
    mean = StrataMean().fit(view)
    # Mean of all 4; singles (3 + 5 * 4) / 7; pairs (9 + 5 * 4) / 6; a triple has the mean of all.
    out = mean.predict(query_of([("c", "x"), ("c", "x+y"), ("c", "x+y+z")], 1))
    np.testing.assert_allclose(out[:, 0], [23 / 7, 29 / 6, 4.0], rtol=1e-6)
    flat = StrataMean(by_size=False).fit(view)
    np.testing.assert_allclose(flat.predict(query_of([("c", "x"), ("c", "x+y")], 1))[:, 0], [4.0, 4.0])
