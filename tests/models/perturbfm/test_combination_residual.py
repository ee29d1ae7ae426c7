"""What the process leaves of combinations: learned where there is something to learn, and nothing added elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.models.perturbfm.core.combination_residual import CombinationResidual
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


def test_effects_are_in_proportion_to_the_amount():
    found, query, _ = fitted(capped)
    whole = found._known(query)[1][0]
    conditions = query.conditions.copy()
    conditions["doses"] = "0.5+1"
    half = found._known(type(query)(**{**vars(query), "conditions": pd.DataFrame(conditions)}))[1][0]
    np.testing.assert_allclose(half[1], whole[1], rtol=1e-6)
    assert np.linalg.norm(half[0]) < np.linalg.norm(whole[0])


def test_saved_and_loaded_it_adds_the_same():
    found, query, predicted = fitted(capped)
    loaded = CombinationResidual()
    loaded.restore("x", found.arrays("x"), found.meta("x"))
    assert loaded.gain == found.gain
    np.testing.assert_array_equal(loaded.predict(query, predicted), found.predict(query, predicted))


@pytest.mark.parametrize("level", [0, 6, len(LEVELS) - 1])
def test_left_out_predictions_are_those_of_the_other_conditions(level):
    draw = np.random.default_rng(5)
    root, noise, Y = draw.normal(size=(7, 9)), np.exp(draw.normal(size=7)), draw.normal(size=(7, 3))
    K = root @ root.T
    found = decomposed(K, noise)
    weights = np.zeros((len(LEVELS), 3))
    weights[level] = 1.0
    asked = np.asarray([4, 0, 6])
    got = found.left_out(Y / np.sqrt(noise)[:, None], weights, asked) * np.sqrt(noise[asked])[:, None]
    for row, i in zip(got, asked, strict=True):
        rest = np.arange(7) != i
        C = K[np.ix_(rest, rest)] + LEVELS[level] * found.scale * np.diag(noise[rest])
        np.testing.assert_allclose(row, K[i, rest] @ np.linalg.solve(C, Y[rest]))
