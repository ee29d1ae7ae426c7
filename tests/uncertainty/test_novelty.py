"""Verdicts: what is new by name, p-values among held-out conditions, and trust."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.uncertainty.novelty import Evidence, judge, membership, overlap, p_values, state_distance
from tests.support.factories import conditions_of

TRAIN = conditions_of(
    [("c", "A", "on"), ("c", "B", "on"), ("d", "A", "on"), ("c", "B+C", "on"), ("c", "E", "off")]
)
SEEN = Evidence(
    parts=2,
    alone=2,
    anywhere=2,
    same=False,
    known=False,
    known_here=False,
    context_seen=True,
    p=0.6,
    n_reference=99,
)


def test_membership_counts_parts_by_name_and_modality():
    requested = conditions_of(
        [("c", "A", "on"), ("d", "B", "on"), ("c", "A+B", "on"), ("c", "A+C", "on"), ("e", "E+X", "on")]
    )
    m = membership(requested, TRAIN)
    assert m.parts.tolist() == [1, 1, 2, 2, 2]
    assert m.alone.tolist() == [1, 1, 2, 1, 0]  # E was switched off, not on
    assert m.anywhere.tolist() == [1, 1, 2, 2, 0]
    assert m.here.tolist() == [1, 0, 2, 2, 0]
    assert m.same.tolist() == [True, False, False, False, False]
    assert m.known.tolist() == [True, True, False, False, False]
    assert m.context.tolist() == [True, True, True, True, False]
    assert m.lacking.tolist() == [0, 0, 0, 0, 1]
    # In train; in another context (.25); new pair (.25); and C seen in a pair only (.5 * .25); everything new (1).
    assert m.novelty.tolist() == [0.0, 0.25, 0.25, 0.375, 1.0]
    assert m.with_similarity(np.asarray([1, 0.5, 0.5, 0.5, 0.8])).tolist() == pytest.approx(
        [0.0, 0.25, 0.25, 0.25, 0.6]
    )


def test_overlap_is_the_share_of_parts_and_prefers_the_context():
    got = overlap(conditions_of([("c", "A+B", "on"), ("d", "B", "on"), ("c", "Z", "on")]), TRAIN)
    root = 1 / np.sqrt(2)
    assert got[0] == pytest.approx([root, root, 0.9 * root, 0.5, 0.0])
    assert got[1] == pytest.approx([0.0, 0.9, 0.0, 0.9 * root, 0.0])
    assert not got[2].any()


def test_p_values_count_the_conditions_that_are_as_novel_and_one_more():
    reference = np.asarray([0.1, 0.2, 0.2, 0.5])
    assert p_values(np.asarray([0.0, 0.2, 0.3, 0.9]), reference).tolist() == [1.0, 0.8, 0.4, 0.2]


def test_p_values_of_exchangeable_conditions_are_valid():
    rng = np.random.default_rng(0)
    drawn = np.asarray(
        [p_values(rng.normal(size=1), rng.normal(size=39))[0] for _ in range(4000)], dtype=np.float64
    )
    for alpha in (0.05, 0.25, 0.5):
        assert abs((drawn <= alpha).mean() - alpha) < 3.5 * np.sqrt(alpha * (1 - alpha) / 4000)


def test_state_distance_is_in_units_of_the_train_contexts():
    train = np.asarray([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    # Nearest neighbours are 3, 1 and 1 away: the unit is 3.
    got = state_distance(np.asarray([[0.0, 0.0], [0.0, 6.0], [-1.5, 0.0]]), train)
    assert got == pytest.approx([0.0, np.hypot(3, 5) / 3, 0.5])
    assert state_distance(train, train[:2]) is None


@pytest.mark.parametrize(
    ("changed", "kind", "inside", "trust"),
    [
        pytest.param({}, "new combination of seen genes", True, "high", id="typical"),
        pytest.param({"p": 0.3}, "new combination of seen genes", True, "fair", id="within"),
        pytest.param({"p": 0.05}, "new combination of seen genes", False, "low", id="beyond"),
        pytest.param({"epistemic": 0.6}, "new combination of seen genes", True, "fair", id="epistemic"),
        pytest.param({"epistemic": 0.5}, "new combination of seen genes", True, "high", id="half-epistemic"),
        pytest.param({"same": True, "p": 1.0}, "in train", True, "high", id="in-train"),
        pytest.param({"p": None}, "new combination of seen genes", None, "low", id="nothing-held-out"),
        pytest.param({"n_reference": 18}, "new combination of seen genes", None, "fair", id="few-held-out"),
        pytest.param({"widened": True}, "new combination of seen genes", True, "low", id="widened"),
        pytest.param({"calibrated": False}, "new combination of seen genes", True, "low", id="uncalibrated"),
        pytest.param(
            {"alone": 1, "anywhere": 1, "unseen": ("X",), "blank": ("X",)},
            "new combination, 1 of 2 genes unseen (X)",
            None,
            "low",
            id="blank",
        ),
        pytest.param(
            {"parts": 1, "alone": 0, "anywhere": 0, "unseen": ("X",)},
            "unseen gene (X)",
            True,
            "high",
            id="described",
        ),
        pytest.param(
            {"known": True, "context_seen": False, "contexts_held_out": True, "state": 0.7},
            "seen perturbation, unseen context",
            True,
            "fair",
            id="context-near",
        ),
        pytest.param(
            {"known": True, "context_seen": False, "contexts_held_out": True, "state": 1.2},
            "seen perturbation, unseen context",
            True,
            "low",
            id="context-far",
        ),
        pytest.param(
            {"known": True, "context_seen": False, "state": 0.7},
            "seen perturbation, unseen context",
            True,
            "low",
            id="context-never-held-out",
        ),
        pytest.param({"known": True}, "seen perturbation, new to this context", True, "high", id="moved"),
        pytest.param(
            {"known": True, "known_here": True},
            "seen perturbation at a new dose or covariate",
            True,
            "high",
            id="dose",
        ),
        pytest.param(
            {"doses": ("outside",), "dose_trust": "fair"},
            "new combination of seen genes",
            None,
            "fair",
            id="dose-outside",
        ),
        pytest.param(
            {"doses": ("far",), "dose_trust": "low"},
            "new combination of seen genes",
            False,
            "low",
            id="dose-far",
        ),
        pytest.param(
            {"covariates": ("strange",)}, "new combination of seen genes", None, "fair", id="covariate"
        ),
        pytest.param(
            {"covariates": ("strange",), "p": 0.01}, "new combination of seen genes", False, "low", id="both"
        ),
        pytest.param(
            {"alone": 1, "anywhere": 1, "unseen": ("X",), "blank": ("X",), "other_modality": ("X",)},
            "new combination, 1 of 2 genes seen under another modality only (X)",
            None,
            "low",
            id="other-modality",
        ),
    ],
)
def test_verdicts_follow_the_documented_rules(changed, kind, inside, trust):
    got = judge(replace(SEEN, **changed))
    assert (got.kind, got.in_distribution, got.trust) == (kind, inside, trust)
    assert f": {kind}; trust: {trust}" in got.text
    assert "\n" not in got.text
