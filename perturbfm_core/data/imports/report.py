"""Report of an import: what was read from where, what was changed, and what a reader should look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

_EXAMPLES = 3


@dataclass
class ImportReport:
    """What an import read and decided.

    Attributes
    ----------
    facts
        {name: value} in the order of reading, plain JSON.
    warnings
        One line each: what looks wrong, and the option that cures it.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON, as it is kept in the metadata of a data set."""
        return {**self.facts, "warnings": list(self.warnings)}


def examples(items: Iterable[str]) -> str:
    """Return the first few items for a message."""
    known = list(items)
    more = f" and {len(known) - _EXAMPLES} more" if len(known) > _EXAMPLES else ""
    return ", ".join(repr(x) for x in known[:_EXAMPLES]) + more


def levels_dropped(labels: pd.Series, dropped: Iterable[str]) -> dict[str, int]:
    """Return {label: rows} of the labels that are left out."""
    counts = labels.value_counts()
    return {label: int(counts.get(label, 0)) for label in dropped}
