"""Names of perturbations and genes that are dates, states, contexts or spike-ins."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Of columns such as is_control, and of those that Mixscape makes.
_STATES = frozenset(["true", "false", "yes", "no", "perturbed", "targeting"])
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)"
# What spreadsheets make of MARCH1, SEPT2 and DEC1; with the month first only with two digits, since OCT-4 is a gene.
_DATE = re.compile(
    rf"\d{{1,2}}[-/. ]{_MONTH}|{_MONTH}[-/. ]\d\d|\d{{4}}-\d\d-\d\d(?:[ T][\d:.]+)?|\d{{1,2}}[/.]\d{{1,2}}[/.]\d{{2,4}}",
    re.IGNORECASE,
)
# Controls of the External RNA Controls Consortium.
_SPIKE_IN = re.compile(r"ERCC[-_.]\d{5}")


def date_like(names: Iterable[str]) -> list[str]:
    """Return the names that read like a date ("2-Sep", "2022-03-01 00:00:00"), into which spreadsheets turn gene names."""
    return sorted({n for n in names if _DATE.fullmatch(n)})


def states_only(perts: Iterable[str]) -> list[str]:
    """Return the perturbations whose name says whether a cell is perturbed, not with what: true, no, Perturbed."""
    return sorted({p for p in perts if p.casefold() in _STATES})


def spike_ins(genes: Iterable[str]) -> list[str]:
    """Return the genes that are spike-ins by their name."""
    return sorted({g for g in genes if _SPIKE_IN.fullmatch(g)})


def names_context(pert: str, context: str) -> bool:
    """Return whether the name of a perturbation holds that of a context as a word of its own ("A549_Vorinostat_1.0")."""
    # Short names, such as those of donors, are words of much else.
    word = rf"(?<![A-Za-z0-9]){re.escape(context)}(?![A-Za-z0-9])"
    return len(context) > 2 and context != pert and bool(re.search(word, pert))
