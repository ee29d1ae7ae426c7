"""Parsing of doses and times such as "10 uM", "0.5+1 uM", "6 h" and "24 h & 4 h" into numbers."""

from __future__ import annotations

from perturbfm_core.data.quantities import (
    DOSE_UNITS,
    NUMBER,
    SEVERAL_TIMES,
    TIME_UNITS,
    Units,
    find_unit,
    split_doses,
)
from perturbfm_core.errors import SplitError


def parse_dose(text: str) -> tuple[float, str] | None:
    """Return (value, base unit) of a dose, None for no dose.

    The parts of a combination ("1+0.5 uM") are summed; a part without a unit has that of the last part. Molar
    concentrations are returned in M, masses per volume in g/ml.

    Raises
    ------
    SplitError
        If a part is not a number, or the parts have incompatible units.
    """
    if not text.strip():
        return None
    parts = [_number(p, "dose") for p in split_doses(text) if p]
    last = parts[-1][1] if parts else ""
    total, base = 0.0, None
    for value, unit in parts:
        kind, factor = _unit(unit or last, DOSE_UNITS, "dose", text)
        if base not in (None, kind):
            msg = f"dose {text!r} has units that do not add up ({base}, {kind}); use one unit on import"
            raise SplitError(msg)
        base, total = kind, total + value * factor
    # Twelve digits remove rounding errors of the conversion, so that equal doses compare equal.
    return None if base is None else (float(f"{total:.12g}"), base)


def parse_times(text: str) -> tuple[float, ...]:
    """Return the times in a text, in hours, ascending; empty for an empty text.

    Raises
    ------
    SplitError
        If a part of the text is not a time.
    """
    out = set()
    for part in filter(None, SEVERAL_TIMES.split(text.strip())):
        value, unit = _number(part, "time")
        out.add(float(f"{value * _unit(unit, TIME_UNITS, 'time', text)[1]:.12g}"))
    return tuple(sorted(out))


def _number(text: str, what: str) -> tuple[float, str]:
    match = NUMBER.match(text)
    if match is None:
        msg = f"{what} {text!r} is not a number with an optional unit; name it so on import, or use another kind"
        raise SplitError(msg)
    return float(match[1]), match[2] or ""


def _unit(text: str, known: Units, what: str, whole: str) -> tuple[str, float]:
    found = find_unit(text, known)
    if found is None:
        msg = f"{what} {whole!r} has the unknown unit {text!r}; use one of {', '.join(u for u in known if u)}"
        raise SplitError(msg)
    return found
