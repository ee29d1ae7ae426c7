"""What the process leaves of combinations: learned where there is something to learn, and nothing added elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.models.perturbfm.core.combination_residual import CombinationResidual, left_out_together
from perturbfm_core.models.perturbfm.core.gene_likelihood import LEVELS, decomposed
from perturbfm_core.models.perturbfm.core.other_screens import OTHER_SCREEN
from tests.support.factories import query_of, view_of

N, G = 14, 150
NAMES = [f"g{i}" for i in range(N)]
PAIRS = [(a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]]
PAIRS = [PAIRS[i] for i in np.random.default_rng(0).permutation(len(PAIRS))]
TRAIN, TEST = PAIRS[:60], PAIRS[60:]
EFFECT = dict(zip(NAMES, np.random.default_rng(1).normal(size=(N, G)), strict=True))


def added(pair):
    return EFFECT[pair[0]] + EFFECT[pair[1]]


def capped(pair):
    """A sum that no gene can go beyond."""
    return 1.5 * np.tanh(added(pair) / 1.5)


def rows_of(pairs, context="c"):
    return [(context, x) for x in NAMES] + [(context, "+".join(p)) for p in pairs]


def fitted(truth, *, noise=0.1, context="c"):
    """Fit on pairs whose left-out predictions are sums, and return it with its view and predictions of test pairs."""
    draw = np.random.default_rng(2)
    deltas = np.concatenate([list(EFFECT.values()), [truth(p) for p in TRAIN]])
    view = view_of(rows_of(TRAIN, context), deltas + noise * draw.normal(size=deltas.shape))
    left_out = np.concatenate([list(EFFECT.values()), [added(p) for p in TRAIN]])
    found = CombinationResidual().fit(view, left_out, np.ones(len(view)))
    predicted = np.asarray([added(p) for p in TEST])
    return found, query_of([(context, "+".join(p)) for p in TEST], G), predicted


def test_a_cap_on_what_genes_can_do_is_learned():
    found, query, predicted = fitted(capped)
    truth = np.asarray([capped(p) for p in TEST])
    assert found.in_use
    mean, error = found.gain
    assert mean > 2 * error > 0
    left = ((predicted + found.predict(query, predicted) - truth) ** 2).mean()
    assert left < 0.15 * ((predicted - truth) ** 2).mean()


def test_nothing_is_added_where_predictions_miss_noise_only():
    found, query, predicted = fitted(added, noise=0.5)
    assert not found.in_use
    mean, error = found.gain
    assert mean < error
    assert not found.predict(query, predicted).any()
    assert found.arrays("x") == {}


def test_only_combinations_whose_parts_are_known_change():
    found, _, predicted = fitted(capped)
    asked = [("c", "g0+g1"), ("c", "g0"), ("c", "g0+new"), ("c", "g2+g3+g4"), ("other", "g0+g1")]
    out = found.predict(query_of(asked, G), predicted[: len(asked)])
    # Effects of another context are those over contexts.
    assert [bool(row.any()) for row in out] == [True, False, False, True, True]


def test_too_few_combinations_tell_nothing():
    view = view_of(rows_of(TRAIN[:39]), np.random.default_rng(3).normal(size=(N + 39, G)))
    found = CombinationResidual().fit(view, np.zeros(view.delta.shape), np.ones(len(view)))
    assert found.gain is None
    assert not found.in_use


def test_conditions_of_other_screens_are_no_evidence():
    found, _, _ = fitted(capped, context=OTHER_SCREEN + "donor")
    assert found.gain is None
    assert not found.in_use


def test_noisy_conditions_count_less():
    draw = np.random.default_rng(4)
    wild = np.arange(len(TRAIN)) % 2 == 0
    pairs = np.asarray([capped(p) for p in TRAIN]) + np.where(wild, 2.0, 0.1)[:, None] * draw.normal(
        size=(len(TRAIN), G)
    )
    view = view_of(rows_of(TRAIN), np.concatenate([list(EFFECT.values()), pairs]))
    left_out = np.concatenate([list(EFFECT.values()), [added(p) for p in TRAIN]])
    query, predicted = (
        query_of([("c", "+".join(p)) for p in TEST], G),
        np.asarray([added(p) for p in TEST]),
    )
    truth = np.asarray([capped(p) for p in TEST])

    def error(noise):
        found = CombinationResidual().fit(view, left_out, noise)
        return ((predicted + found.predict(query, predicted) - truth) ** 2).mean()

    assert error(np.concatenate([np.ones(N), np.where(wild, 400.0, 1.0)])) < 0.8 * error(np.ones(len(view)))


def with_doses():
    """Return a view of drugs at 1 and 10 (effects in proportion to the logarithm), pairs at 10, and a fit on it."""
    half = np.log1p(1.0) / np.log1p(10.0)
    rows = [("c", x, "", dose) for x in NAMES for dose in ("1", "10")]
    rows += [("c", "+".join(p), "", "10+10") for p in TRAIN]
    singles = [EFFECT[x] * share for x in NAMES for share in (half, 1.0)]
    view = view_of(rows, np.concatenate([singles, [capped(p) for p in TRAIN]]))
    left_out = np.concatenate([singles, [added(p) for p in TRAIN]])
    return CombinationResidual().fit(view, left_out, np.ones(len(view)))


def test_amounts_of_doses_are_those_of_train_whatever_is_asked_beside():
    found = with_doses()
    pairs = [("c", "+".join(p), "", "1+1") for p in TEST[:6]]
    predicted = 0.3 * np.asarray([added(p) for p in TEST[:6]])
    alone = found.predict(query_of(pairs, G), predicted)
    beside = query_of([*pairs, ("c", "g0+g1", "", "1000+1000")], G)
    np.testing.assert_array_equal(found.predict(beside, np.vstack([predicted, predicted[:1]]))[:6], alone)
    one_by_one = [found.predict(query_of([pair], G), predicted[[i]])[0] for i, pair in enumerate(pairs)]
    np.testing.assert_allclose(one_by_one, alone, atol=1e-5)


def test_effects_are_in_proportion_to_the_amount():
    found = with_doses()

    def strength(doses):
        ((_, parts),) = found._known(query_of([("c", "g0+g1", "", doses)], G).conditions)
        return np.linalg.norm(parts, axis=1)

    whole, less = strength("10+10"), strength("1+10")
    assert less[0] == pytest.approx(whole[0] * np.log1p(1.0) / np.log1p(10.0), rel=0.2)
    assert less[1] == pytest.approx(whole[1])


def test_combinations_of_other_contexts_are_left_out_with_their_own():
    contexts = "abcd"
    own = np.random.default_rng(6).normal(size=(len(TRAIN), G))
    rows = [(c, x) for c in contexts for x in NAMES]
    rows += [(c, "+".join(p)) for c in contexts for p in TRAIN]
    draw = np.random.default_rng(7)
    singles = np.tile(list(EFFECT.values()), (4, 1))
    pairs = np.tile([added(p) for p in TRAIN] + own, (4, 1)) + 0.3 * draw.normal(size=(4 * len(TRAIN), G))
    # Predictions that know the pair in other contexts, and those that do not.
    knows = np.concatenate([singles, np.tile([added(p) for p in TRAIN] + 0.5 * own, (4, 1))])
    view = view_of(rows, np.concatenate([singles, pairs]))
    assert list(left_out_together(view)) == list(range(len(view)))
    assert CombinationResidual().fit(view, knows, np.ones(len(view))).in_use
    held_out_whole = replace(view, unit="combo")
    groups = left_out_together(held_out_whole)
    assert len(set(groups)) == N + len(TRAIN)
    assert groups[0] == groups[N] == groups[2 * N]
    fair = np.concatenate([singles, np.tile([added(p) for p in TRAIN], (4, 1))])
    assert not CombinationResidual().fit(held_out_whole, fair, np.ones(len(view))).in_use


def test_beyond_the_strengths_of_train_it_fades_out():
    found, query, predicted = fitted(capped)
    inside = found.predict(query, predicted)
    for factor in (0.1, 10.0):
        weaker = CombinationResidual()
        weaker.restore("x", found.arrays("x"), found.meta("x"))
        weaker._singles.means = factor * weaker._singles.means
        assert np.abs(weaker.predict(query, factor * predicted)).max() < 1e-3 * np.abs(inside).max()


def test_an_anchor_that_never_varies_is_no_reason_for_large_corrections():
    anchored = [("g0", x) for x in NAMES[1:]] * 4
    rows = [("c", x) for x in NAMES] + [("c", "+".join(p)) for p in anchored]
    deltas = np.concatenate([list(EFFECT.values()), [capped(p) for p in anchored]])
    left_out = np.concatenate([list(EFFECT.values()), [added(p) for p in anchored]])
    found = CombinationResidual().fit(view_of(rows, deltas), left_out, np.ones(len(rows)))
    assert found.in_use
    found._singles.means = (
        np.where(np.isclose(found._singles.means, EFFECT["g0"], atol=1e-5).all(axis=1)[:, None], 1.01, 1.0)
        * found._singles.means
    )
    pairs = anchored[: N - 1]
    truth, predicted = (np.asarray([f(p) for p in pairs]) for f in (capped, added))
    corrected = predicted + found.predict(query_of([("c", "+".join(p)) for p in pairs], G), predicted)
    assert ((corrected - truth) ** 2).mean() < 0.3 * ((predicted - truth) ** 2).mean()


def test_parts_without_any_effect_have_no_cosine():
    found, _, predicted = fitted(capped)
    parts = np.stack([1e4 * EFFECT["g0"], np.zeros(G)])
    assert found._inputs([parts], predicted[:1], np.arange(G))[0, 0, -1] == 0.0
    assert found._inputs([np.stack([parts[0]] * 2)], predicted[:1], np.arange(G))[0, 0, -1] == pytest.approx(
        1.0
    )


def test_fits_saved_before_it_existed_are_not_corrected():
    loaded = CombinationResidual()
    loaded.restore("x", {}, {})
    assert not loaded.in_use
    assert loaded.gain is None


def test_saved_and_loaded_it_adds_the_same():
    found, query, predicted = fitted(capped)
    loaded = CombinationResidual()
    loaded.restore("x", found.arrays("x"), found.meta("x"))
    assert loaded.gain == found.gain
    np.testing.assert_array_equal(loaded.predict(query, predicted), found.predict(query, predicted))


@pytest.mark.parametrize("groups", [[0, 1, 2], [0, 1, 0]])
@pytest.mark.parametrize("level", [0, 6, len(LEVELS) - 1])
def test_left_out_predictions_are_those_of_the_other_conditions(level, groups):
    draw = np.random.default_rng(5)
    root, noise, Y = draw.normal(size=(7, 9)), np.exp(draw.normal(size=7)), draw.normal(size=(7, 3))
    K = root @ root.T
    found = decomposed(K, noise)
    weights = np.zeros((len(LEVELS), 3))
    weights[level] = 1.0
    asked, groups = np.asarray([4, 0, 6]), np.asarray(groups)
    got = found.left_out(Y / np.sqrt(noise)[:, None], weights, asked, groups) * np.sqrt(noise[asked])[:, None]
    for row, i, group in zip(got, asked, groups, strict=True):
        rest = ~np.isin(np.arange(7), asked[groups == group])
        C = K[np.ix_(rest, rest)] + LEVELS[level] * found.scale * np.diag(noise[rest])
        np.testing.assert_allclose(row, K[i, rest] @ np.linalg.solve(C, Y[rest]))
