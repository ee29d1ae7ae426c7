"""Numbers as pages show them, and what tests of pages share."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from perturbfm_core.reports.html import DASH, interval, number, render
from perturbfm_core.splits.folder import SplitStats

SCRIPT = "<script>alert(1)</script>"
DOLLAR = "$E=mc^2$ & $\\frac{"
QUOTED = '"onmouseover="alert(1)\' http'
PERTS = [SCRIPT, DOLLAR, "A"]
CONTEXTS = ["<b>x</b>", "y"]


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[list[str]] = []
        self.text: list[str] = []
        self._in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect tags and attributes, and begin rows and cells."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.cells.append([])
        self._in_cell = tag in ("td", "th")
        if self._in_cell:
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text.append(data)
        if self._in_cell:
            self.cells[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """Return the first row that begins with a cell."""
        return next(r for r in self.cells if r and r[0] == first)


STATS = SplitStats(
    counts={"train": {"conditions": 3, "rows": 6}, "test": {"conditions": 3, "rows": 6}},
    row_digests={},
    ceiling={"pearson": {"half": 0.8125, "noise_free": 0.9475}, "rmse": {"half": 0.375}},
    floor={
        "train_mean": {"pearson": 0.25, "pearson_centered": None},
        "control_mean": {"pearson": None},
        "null": {"pearson": 0.0625},
    },
)


# ---- numbers ----------------------------------------------------------------------------------------------


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
