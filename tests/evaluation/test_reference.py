"""Comparison of metrics with reference numbers."""

from __future__ import annotations

from typing import Any

import pytest

from perturbfm_core.evaluation.reference import compare_json

OURS: dict[str, Any] = {
    "delta": {
        "global": {"pearson": 0.5, "cosine": None, "rmse": 0.0},
        "per_context": {"A": {"pearson": 0.25}},
        "coverage": {"0.9": 0.8},
    },
    "notes": {"delta.global.cosine": "constant"},
}


def outcome(**sections: Any) -> tuple[int, int, int, int]:
    found = compare_json(OURS, sections, 1e-6)
    return found["compared"], found["failed"], found["missing"], found["not_numbers"]


def test_our_own_metrics_agree_with_themselves() -> None:
    found = compare_json(OURS, OURS, 0.0)
    assert (found["compared"], found["failed"], found["missing"]) == (5, 0, 0)


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        "abc",
        "",
        True,
        False,
        [0.5],
        [],
        {},
        {"mean": 0.5},
        float("nan"),
        float("inf"),
        -float("inf"),
        10**400,
    ],
)
@pytest.mark.parametrize("metric", ["pearson", "cosine", "rmse"])
def test_what_is_no_longer_a_number_fails(metric: str, value: Any) -> None:
    assert outcome(delta={"global": {metric: value}}) == (1, 1, 0, 1)


def test_what_is_no_longer_a_number_is_named() -> None:
    found = compare_json(OURS, {"delta": {"per_context": {"A": {"pearson": "0.25"}}}}, 1e-6)
    (difference,) = found["differences"]
    assert (difference["at"], difference["expected"]) == ("delta.per_context.A.pearson", "text '0.25'")


@pytest.mark.parametrize("value", ["text", [1.0], 1.0, None, True])
def test_a_whole_section_that_is_no_longer_one_fails(value: Any) -> None:
    assert outcome(delta={"global": value})[:2] == (1, 1)
    assert outcome(delta=value)[:2] == (1, 1)


def test_numbers_of_ours_that_are_none_or_objects_fail() -> None:
    assert outcome(delta={"global": {"cosine": 0.1}}) == (1, 1, 0, 0)
    assert outcome(delta={"global": {"pearson": None}}) == (1, 1, 0, 0)
    assert outcome(delta={"per_context": {"A": 0.25}}) == (1, 1, 0, 1)


@pytest.mark.parametrize("value", [1.0, None, "1.0", [1.0], True])
def test_a_metric_that_we_do_not_have_is_missing_whatever_it_holds(value: Any) -> None:
    assert outcome(delta={"global": {"other": value, "rmse": 0.0}}) == (1, 0, 1, 0)


def test_notes_and_text_of_other_sections_are_ignored() -> None:
    assert outcome(notes={"a": "b"}, source="somewhere", delta={"global": {"pearson": 0.5}}) == (1, 0, 0, 0)


def test_a_difference_counts_in_proportion_to_large_numbers() -> None:
    ours = {"delta": {"global": {"nll": 1e6}}}
    assert compare_json(ours, {"delta": {"global": {"nll": 1e6 + 0.5}}}, 1e-6)["failed"] == 0
    assert compare_json(ours, {"delta": {"global": {"nll": 1e6 + 2}}}, 1e-6)["failed"] == 1
