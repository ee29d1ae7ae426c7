"""Numbers as pages show them, and what tests of pages share."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from perturbfm_core.reports.html import DASH, interval, number, render


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-1, "-1.000"),
        (None, DASH),
        (float("nan"), DASH),
        (123456.0, "1.23e+05"),
        (0, "0.000"),
        (0.000213, "0.00021"),
        (-0.0004, "-0.0004"),
        (2.1e-7, "2.1e-07"),
        (-1e-17, "0.000"),
    ],
)
def test_numbers_are_short_and_undefined_ones_a_dash(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.1, 0.2, "0.100 to 0.200"), (None, 0.2, DASH), (0.1, float("nan"), DASH), (None, None, DASH)],
)
def test_an_interval_needs_both_ends(low: float | None, high: float | None, text: str) -> None:
    assert interval(low, high) == text


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="study"):
        render("study.html")
