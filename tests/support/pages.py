"""HTML pages as tests read them, and names that a page must escape."""

from __future__ import annotations

from html.parser import HTMLParser

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
