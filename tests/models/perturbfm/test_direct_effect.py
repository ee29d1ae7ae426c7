"""Effects of perturbations on their own targets, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.models.perturbfm.core.direct_effect import DirectEffect
from tests.support.factories import query_of, view_of

GENES = ["g0", "g1", "g2", "g3"]


def targets_view(effects, *, contexts=("c", "d"), elsewhere=0.0, control=None):
    """Return singles of g0, g1, g2 in contexts; `effects` [3][contexts] on their own gene."""
    rows = [(c, f"g{i}") for i in range(3) for c in contexts]
    delta = np.full((len(rows), 4), elsewhere)
    for k in range(len(rows)):
        delta[k, k // len(contexts)] = effects[k // len(contexts)][k % len(contexts)]
    return view_of(rows, delta, genes=GENES, control=control)


def on_target(model, *perts):
    """Return what a model says of the first gene of each perturbation."""
    out = model.predict(query_of([("c", p) for p in perts], GENES))
    return [float(out[i, GENES.index(p.split("+")[0])]) for i, p in enumerate(perts)]


def test_targets_that_differ_for_sure_keep_their_own_effect():
    # Departures -1, 1, 0 from the mean -3, twice each alike: no variance within, so nothing is shrunk.
    model = DirectEffect().fit(targets_view([(-4, -4), (-2, -2), (-3, -3)]))
    np.testing.assert_allclose(on_target(model, "g0", "g1", "g2"), [-4, -2, -3], atol=1e-6)
    # A target never perturbed gets the mean effect.
    assert on_target(model, "g3")[0] == pytest.approx(-3)


def test_own_effects_are_shrunk_by_the_share_of_variance_between_targets():
    # Mean -5; departures (1, 3), (-3, -1), (-1, 1): means 2, -2, 0; within 6 / 3 = 2, between 8/3 - 2/2 = 5/3,
    # weight (5/3) / (5/3 + 2/2) = 0.625.
    model = DirectEffect().fit(targets_view([(-4, -2), (-8, -6), (-6, -4)]))
    np.testing.assert_allclose(
        on_target(model, "g0", "g1", "g2", "g3"), [-3.75, -6.25, -5.0, -5.0], atol=1e-6
    )


def test_single_measurements_say_nothing_of_the_target_itself():
    # One each: the variance between targets cannot be distinguished from noise.
    model = DirectEffect().fit(targets_view([(-4,), (-2,), (-3,)], contexts=("c",)))
    np.testing.assert_allclose(on_target(model, "g0", "g1", "g2"), [-3, -3, -3], atol=1e-6)


def test_the_background_is_what_the_gene_does_elsewhere():
    view = targets_view([(-4, -4), (-2, -2), (-3, -3)], elsewhere=0.5)
    model = DirectEffect().fit(view)
    # Effects are beyond the background: -4.5, -2.5, -3.5.
    np.testing.assert_allclose(on_target(model, "g0", "g1", "g2"), [-4.5, -2.5, -3.5], atol=1e-6)
    without = model.without(view)
    np.testing.assert_allclose(without, 0.5, atol=1e-6)
    np.testing.assert_allclose(without + model.predict(view.query()), view.delta, atol=1e-6)


def test_a_pair_has_the_effects_of_both_and_nothing_elsewhere():
    model = DirectEffect().fit(targets_view([(-4, -4), (-2, -2), (-3, -3)]))
    out = model.predict(query_of([("c", "g0+g1"), ("c", "unmeasured")], GENES))
    np.testing.assert_allclose(out, [[-4, -2, 0, 0], [0, 0, 0, 0]], atol=1e-6)


def test_with_the_state_the_mean_effect_follows_the_expression_of_the_target():
    contexts = tuple(f"c{i}" for i in range(8))
    level = np.random.default_rng(0).uniform(0, 3, size=(3, 8))
    # A silent gene cannot be switched off: the effect is minus its level.
    control = np.zeros((24, 4))
    for i in range(3):
        control[8 * i : 8 * i + 8, i] = level[i]
    view = targets_view(-level, contexts=contexts, control=control)
    low, high = (query_of([("new", "g0")], GENES, control=[[x, 0, 0, 0]]) for x in (0.2, 2.8))
    with_state = DirectEffect(state=True).fit(view)
    found = [float(with_state.predict(q)[0, 0]) for q in (low, high)]
    assert found[0] == pytest.approx(-0.2, abs=0.35)
    assert found[1] == pytest.approx(-2.8, abs=0.35)
    constant = DirectEffect().fit(view)
    assert constant.predict(low)[0, 0] == constant.predict(high)[0, 0]


def test_saved_effects_predict_the_same():
    model = DirectEffect(state=True).fit(targets_view([(-4, -2), (-8, -6), (-6, -4)]))
    back = DirectEffect(state=True)
    back.restore("x", model.arrays("x"), model.meta("x"), GENES)
    query = query_of([("c", "g0"), ("c", "g1+g3")], GENES)
    assert np.array_equal(back.predict(query), model.predict(query))


def test_a_dose_of_0_changes_no_target_and_is_not_fitted():
    rows = [("c", f"g{i}", "drug", dose) for i in range(3) for dose in ("0", "10 uM")]
    delta = np.full((6, 4), 0.5)
    delta[[1, 3, 5], [0, 1, 2]] = -3.0
    view = view_of(rows, delta, genes=GENES)
    model = DirectEffect().fit(view)
    found = model.predict(query_of([("c", "g3", "drug", d) for d in ("0", "10 uM")], GENES))
    np.testing.assert_allclose(found[:, 3], [0.0, -3.5], atol=1e-6)
    np.testing.assert_allclose(model.without(view), 0.5, atol=1e-6)


def test_the_noise_of_low_doses_is_not_scaled_up():
    """A value that is off by 1 at a hundredth of the dose says next to nothing of the effect at the full one."""
    doses = ("0.1", "1", "10")
    rows = [("c", f"g{i}", "drug", d) for i in range(4) for d in doses]
    delta = np.zeros((12, 5))
    for k in range(12):
        delta[k, k // 3] = -3.0 * float(doses[k % 3]) / 10
        delta[k, 4] = 40.0 * float(doses[k % 3]) / 10  # decides the curve: proportional to the dose
    genes = [f"g{i}" for i in range(5)]
    asked = query_of([("c", "g0", "drug", "10"), ("c", "g3", "drug", "10")], genes)
    plain = DirectEffect().fit(view_of(rows, delta, genes=genes)).predict(asked)
    np.testing.assert_allclose(plain[[0, 1], [0, 3]], -3.0, rtol=0.05)
    delta[0, 0] += 1.0
    found = DirectEffect().fit(view_of(rows, delta, genes=genes)).predict(asked)
    np.testing.assert_allclose(found[[0, 1], [0, 3]], plain[[0, 1], [0, 3]], atol=0.3)
