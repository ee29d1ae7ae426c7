"""Generators of counts: whole numbers of the predicted mean, at the controls' depth, the same in any order."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data.matrix import normalize_log1p
from perturbfm_core.evaluation.control_profile import ControlProfile
from perturbfm_core.evaluation.count_generators import MAX_COUNTS, draw_counts

KINDS = ("multinomial", "negative_binomial", "redraw", "scaled")
N, G = 2000, 30


def draw(seed=0, n=N, genes=G, depth=600.0, dispersion=0.3):
    """Return CSR counts [n, genes], negative binomial at unequal depths; the last two genes have none."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 1.2, genes)
    share[-2:] = 0.0
    share /= share.sum()
    rate = rng.lognormal(0, 0.3, (n, 1)) * depth * share
    if dispersion:
        rate = rate * rng.gamma(1 / dispersion, dispersion, rate.shape)
    return sp.csr_array(rng.poisson(rate).astype(np.int32))


def profile_of(counts, target_sum=1e4):
    log_mean = np.asarray(normalize_log1p(counts, target_sum).mean(axis=0)).reshape(-1)
    return ControlProfile(counts, log_mean.astype(np.float64), target_sum)


@pytest.fixture(scope="module")
def control():
    return draw()


@pytest.fixture(scope="module")
def profile(control):
    return profile_of(control)


def drawn(kind, control, profile, delta, seed=1):
    return draw_counts(kind, control, profile, np.asarray(delta, float), np.random.default_rng(seed))


def change(seed=3, size=0.5):
    delta = np.random.default_rng(seed).normal(0, size, G)
    delta[-2:] = 0.0
    return delta


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_predicted_one(kind, control, profile):
    delta = change()
    made = drawn(kind, control, profile, delta)
    share = np.asarray(made.sum(axis=0)).reshape(-1) / made.sum()
    fold = np.expm1(profile.log_mean + delta)[:-2] / np.expm1(profile.log_mean)[:-2]
    expected = profile.share[:-2] * fold
    expected /= expected.sum()
    error = np.sqrt(expected / made.sum() + 2 * profile.dispersion[:-2] * expected**2 / N)
    assert (np.abs(share[:-2] - expected) < 5 * error + 1e-4).all()
    assert share[-2:].sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_whole_and_the_same_for_the_same_seed(kind, control, profile):
    made = drawn(kind, control, profile, change())
    assert made.dtype == np.int32
    assert made.format == "csr"
    assert made.shape == control.shape
    assert (made.data > 0).all()
    again, other = drawn(kind, control, profile, change()), drawn(kind, control, profile, change(), seed=2)
    assert (made != again).nnz == 0
    assert (made != other).nnz > 0


@pytest.mark.parametrize("kind", ["multinomial", "redraw"])
@pytest.mark.parametrize("delta", [change(), change(5, 3.0), np.full(G, -9.0), np.full(G, 2.0)])
def test_every_cell_keeps_its_depth(kind, control, profile, delta):
    expected = np.asarray(control.sum(axis=1)).reshape(-1)
    if not profile.composition(delta).any():
        expected = expected * 0
    np.testing.assert_array_equal(
        np.asarray(drawn(kind, control, profile, delta).sum(axis=1)).reshape(-1), expected
    )


@pytest.mark.parametrize("kind", ["negative_binomial", "scaled"])
def test_depth_is_kept_on_average(kind, control, profile):
    made = drawn(kind, control, profile, change())
    assert made.sum() == pytest.approx(control.sum(), rel=0.02)


@pytest.mark.parametrize("kind", ["multinomial", "negative_binomial", "scaled"])
def test_without_a_change_cells_are_the_controls(kind, control, profile):
    assert (drawn(kind, control, profile, np.zeros(G)) != control).nnz == 0


def test_the_dispersion_is_that_of_the_controls(control, profile):
    top = np.argsort(-profile.share)[:6]
    np.testing.assert_allclose(profile.dispersion[top], 0.3, atol=0.1)
    delta = change(size=0.4)
    again = profile_of(drawn("negative_binomial", control, profile, delta)).dispersion[top]
    np.testing.assert_allclose(again, profile.dispersion[top], rtol=0.25)
    # A draw on top of the control's own noise has more, and a scaled cell more of a gene that falls.
    redrawn = profile_of(drawn("redraw", control, profile, np.zeros(G)))
    assert (redrawn.dispersion[top] > profile.dispersion[top]).all()
    poisson = profile_of(draw(4, dispersion=0.0))
    assert poisson.dispersion[np.argsort(-poisson.share)[:6]].max() < 0.01


@pytest.mark.parametrize("kind", ["multinomial", "negative_binomial"])
def test_a_gene_that_no_control_has_gets_its_predicted_share(kind, control, profile):
    delta = np.zeros(G)
    delta[-1] = np.log1p(500.0)
    made = drawn(kind, control, profile, delta)
    share = made[:, [G - 1]].sum() / made.sum()
    assert share == pytest.approx(500.0 / 1e4 / (1 + 500.0 / 1e4), rel=0.05)
    assert made[:, [G - 2]].sum() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "delta",
    [
        np.where(np.arange(G) == 3, 1e6, 0.0),
        np.where(np.arange(G) == 3, 40.0, -40.0),
        np.full(G, 1e300),
        np.full(G, -1e300),
        np.where(np.arange(G) == G - 1, 30.0, 0.0),
    ],
    ids=["one huge", "one left", "all huge", "none left", "absent huge"],
)
def test_any_prediction_gives_counts_that_the_challenge_takes(kind, control, profile, delta):
    made = drawn(kind, control, profile, delta)
    assert made.data.dtype == np.int32
    assert (made.data > 0).all()
    assert np.asarray(made.sum(axis=1)).max(initial=0) <= MAX_COUNTS
    if (delta < -1e200).all():
        assert made.nnz == 0


@pytest.mark.parametrize("kind", KINDS)
def test_deep_cells_and_empty_ones(kind):
    deep = sp.csr_array(np.array([[400_000, 500_000, 10], [0, 0, 0], [1, 0, 0]], dtype=np.int32))
    profile = profile_of(deep)
    made = drawn(kind, deep, profile, [3.0, -3.0, 5.0])
    depth = np.asarray(made.sum(axis=1)).reshape(-1)
    assert depth[1] == 0
    assert depth.max() <= MAX_COUNTS
    # Nothing at all: no control has a count.
    none = sp.csr_array((3, 3), dtype=np.int32)
    assert drawn(kind, none, profile_of(none), np.zeros(3)).nnz == 0
    assert drawn(kind, none, profile_of(none), np.ones(3)).nnz == 0
