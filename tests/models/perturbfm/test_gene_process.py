"""The process with a kernel of each gene: likelihoods and priors by hand, a dense one beside it, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from perturbfm_core.models.perturbfm.core import gene_process
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.gene_likelihood import (
    LEVELS,
    decomposed,
    likeliest_noise,
    noise_deviation,
    shared_prior,
)
from perturbfm_core.models.perturbfm.core.gene_process import GeneProcess, applies
from perturbfm_core.models.perturbfm.core.kernel_weights import PRESETS, Kernel
from perturbfm_core.models.perturbfm.core.stack import OF_GENES, Core
from tests.support.factories import query_of, view_of

NOISE = np.asarray([1.0, 2.0, 0.5, 1.0])
ROOT = np.random.default_rng(3).normal(size=(4, 6))
K = ROOT @ ROOT.T
EFFECTS = Kernel(identity=0.3, effect=1.0, pair=1.0, linear=0.5, by_size=False)


def test_likelihood_is_that_of_a_normal_with_the_likeliest_variance():
    Y = np.random.default_rng(4).normal(size=(4, 3))
    found = decomposed(K, NOISE)
    log_likelihood = found.log_likelihood(Y / np.sqrt(NOISE)[:, None])
    for i, level in enumerate(LEVELS):
        C = K / found.scale + level * np.diag(NOISE)
        for g in range(3):
            variance = Y[:, g] @ np.linalg.solve(C, Y[:, g]) / 4
            exact = multivariate_normal(np.zeros(4), variance * C).logpdf(Y[:, g])
            # What no level and no kernel changes: the constant, and the determinant of the noise.
            constant = -2.0 * (np.log(2 * np.pi) + 1.0) - 0.5 * np.log(NOISE).sum()
            assert log_likelihood[i, g] + constant == pytest.approx(exact)


def test_dual_weights_are_means_over_noise_levels():
    Y = np.random.default_rng(5).normal(size=(4, 2))
    weights = np.zeros((len(LEVELS), 2))
    weights[2, 0], weights[[1, 7], 1] = 1.0, (0.25, 0.75)
    found = decomposed(K, NOISE)
    dual = found.dual(Y / np.sqrt(NOISE)[:, None], weights) / np.sqrt(NOISE)[:, None]

    def alone(i, g):
        return np.linalg.solve(K + found.scale * LEVELS[i] * np.diag(NOISE), Y[:, g])

    np.testing.assert_allclose(dual[:, 0], alone(2, 0))
    np.testing.assert_allclose(dual[:, 1], 0.25 * alone(1, 1) + 0.75 * alone(7, 1))


def test_prior_is_how_often_each_option_is_the_one_of_a_gene():
    sure = np.full((2, 1, 4), -50.0)
    sure[0, 0, :3] = sure[1, 0, 3] = 0.0
    np.testing.assert_allclose(shared_prior(sure), [[0.75], [0.25]], atol=1e-6)


def drawn(noise, n_genes=400, seed=0):
    rng = np.random.default_rng(seed)
    n = len(noise)
    signal = rng.normal(size=(n, 5))
    kernel = signal @ signal.T / 5
    deltas = np.linalg.cholesky(kernel + 1e-9 * np.eye(n)) @ rng.normal(size=(n, n_genes))
    return kernel, deltas + 0.7 * np.sqrt(noise)[:, None] * rng.normal(size=(n, n_genes))


def test_noise_of_conditions_is_found():
    noise = np.exp(np.random.default_rng(1).normal(scale=0.6, size=40))
    noise /= np.exp(np.log(noise).mean())
    kernel, deltas = drawn(noise)
    found = likeliest_noise(kernel, deltas, np.ones(40))
    assert np.corrcoef(np.log(found), np.log(noise))[0, 1] > 0.97
    np.testing.assert_allclose(np.log(found), np.log(noise), atol=0.35)
    np.testing.assert_allclose(np.median(noise_deviation(kernel, deltas, found)), 0.7, rtol=0.1)


def test_genes_that_never_vary_have_no_noise_and_change_none():
    noise = np.ones(30)
    kernel, deltas = drawn(noise)
    still = np.concatenate([deltas, np.zeros((30, 50))], axis=1)
    np.testing.assert_array_equal(
        likeliest_noise(kernel, still, noise), likeliest_noise(kernel, deltas, noise)
    )
    assert not noise_deviation(kernel, still, noise)[400:].any()


def two_kinds_of_genes(n_singles=14, n_genes=120, seed=0):
    """Return (view, test pairs, their noise-free deltas): half of the genes add up, half follow the stronger perturbation."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(n_singles)]
    effect = rng.normal(size=(n_singles, 4)) @ rng.normal(size=(4, n_genes)) / 2

    def delta(pair):
        a, b = (effect[names.index(x)] for x in pair)
        added, stronger = a + b, np.where(np.abs(a) > np.abs(b), a, b)
        return np.where(np.arange(n_genes) < n_genes // 2, added, stronger)

    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    train, test = pairs[:50], pairs[50:]
    rows = [("c", x) for x in names] + [("c", "+".join(p)) for p in train]
    truth = np.concatenate([effect, [delta(p) for p in train]])
    observed = truth + 0.3 * rng.normal(size=truth.shape)
    return view_of(rows, observed), [("c", "+".join(p)) for p in test], np.asarray([delta(p) for p in test])


@pytest.fixture(scope="module")
def case():
    return two_kinds_of_genes()


def fitted(view):
    process = SetProcess(presets=(EFFECTS,))
    process.kernel, process.lambdas = EFFECTS, np.full(len(view.genes), 1.0)
    return process.fit(view), GeneProcess(process).fit(view)


def test_it_predicts_better_than_one_kernel_where_genes_differ(case):
    view, test, truth = case
    one, own = fitted(view)
    query = query_of(test, truth.shape[1])
    of_one = ((one.predict(query)[0] - truth) ** 2).mean()
    assert ((own.predict(query) - truth) ** 2).mean() < 0.95 * of_one


def test_it_is_one_process_where_the_grid_is_one_kernel(case, monkeypatch):
    view, test, truth = case
    monkeypatch.setattr(gene_process, "_GRID", {"identity": (0.3,), "effect": (1.0,), "linear": (0.5,)})
    own = GeneProcess(SetProcess(presets=(EFFECTS,)))
    own.kernel = EFFECTS
    own.fit(view)
    query = query_of(test, truth.shape[1])
    K, C = own.similarity.blocks(), own.similarity.blocks(query)
    alone = Kernel(identity=0.3, effect=1.0, linear=0.5, by_size=False)
    # The prediction lies in the span of the cross kernel, whatever the noise levels are.
    predicted = own.predict(query).astype(np.float64) - own.mean.predict(query)
    weights = np.linalg.lstsq(C(alone), predicted, rcond=None)[0]
    np.testing.assert_allclose(C(alone) @ weights, predicted, atol=1e-4)
    assert K(alone).shape == (64, 64)
    assert own.summary["kernels"] == 1


def test_order_and_unit_of_genes_do_not_matter(case):
    view, test, truth = case
    order = np.random.default_rng(2).permutation(truth.shape[1])
    rows = list(
        zip(view.conditions["context_id"].astype(str), view.conditions["pert_id"].astype(str), strict=True)
    )
    other = view_of(rows, 10.0 * view.delta[:, order])
    query = query_of(test, truth.shape[1])
    np.testing.assert_allclose(
        fitted(other)[1].predict(query), 10.0 * fitted(view)[1].predict(query)[:, order], rtol=0.02, atol=0.02
    )


def test_saved_and_loaded_it_predicts_the_same(case):
    view, test, truth = case
    _, own = fitted(view)
    loaded = GeneProcess(SetProcess())
    loaded.restore("x", own.arrays("x"), own.meta("x"), [str(g) for g in view.genes])
    query = query_of(test, truth.shape[1])
    np.testing.assert_array_equal(loaded.predict(query), own.predict(query))


def test_it_needs_measured_effects_and_few_enough_conditions():
    assert applies(EFFECTS, 500)
    assert not applies(EFFECTS, 501)
    assert not any(applies(k, 50) for k in PRESETS if not (k.effect or k.pair or k.linear))


def test_it_is_a_member_of_the_core_where_inner_folds_hold_out_ten_units(case):
    view, _, _ = case
    pairs = 14 + np.random.default_rng(0).permutation(len(view) - 14)
    inner = [pairs[j::5] for j in range(5)]
    rows = list(
        zip(view.conditions["context_id"].astype(str), view.conditions["pert_id"].astype(str), strict=True)
    )
    core = Core().fit(view_of(rows, view.delta, inner=inner), seed=0)
    assert OF_GENES in core.names
    assert core.of_genes is not None
    assert core.weights["2 perturbed, 2 seen"][core.names.index(OF_GENES)] > 0.3
    few = [range(14, 18), range(18, 22)]
    assert OF_GENES not in Core().fit(view_of(rows, view.delta, inner=few), seed=0).names
