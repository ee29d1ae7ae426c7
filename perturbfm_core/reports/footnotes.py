"""Numbered notes below a table: why a cell has no value."""

from __future__ import annotations

from markupsafe import Markup

from perturbfm_core.reports.html import DASH


class Footnotes:
    """Reasons in the order in which a table needs them, equal ones once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, reason: str) -> int:
        """Return the number of a reason."""
        text = " ".join(reason.split())
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    def html(self, text: str, reason: str | None) -> Markup:
        """Return a cell of a page: its text, and the number of a reason where the text is a dash."""
        if text != DASH:
            return Markup("{}").format(text)
        reason = reason or "no reason was recorded"
        return Markup('{}<sup title="{}">{}</sup>').format(text, reason, self.number(reason))

    def markdown(self, text: str, reason: str | None) -> str:
        """Return a cell of a Markdown table: its text, and the number of a reason where the text is a dash."""
        if text != DASH:
            return text
        return f"{text}<sup>{self.number(reason or 'no reason was recorded')}</sup>"

    def note(self, text: str, reason: str | None) -> str:
        """Return a cell of a Markdown table with the number of what must be said of it, if there is something."""
        return text if reason is None else f"{text}<sup>{self.number(reason)}</sup>"

    def lines(self) -> list[tuple[int, str]]:
        """Return (number, reason) of all that were used."""
        return [(number, text) for text, number in self._numbers.items()]

    def markdown_line(self) -> list[str]:
        """Return the paragraph below a Markdown table, nothing where no cell is empty."""
        if not self._numbers:
            return []
        notes = "; ".join(f"<sup>{number}</sup> {text.replace('|', ' ')}" for number, text in self.lines())
        return ["", f"{notes}."]
