"""Parsing of doses and times such as "10 uM", "0.5+1 uM", "6 h" and "24 h & 4 h" into numbers."""

from __future__ import annotations

import re

from perturbfm_core import schema
from perturbfm_core.errors import SplitError

_NUMBER = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*$")
_SEVERAL = re.compile(r"\s*(?:&|,|;|\band\b)\s*")

_PREFIX = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}
_DOSE_UNITS: dict[str, tuple[str, float]] = {
    "": ("", 1.0),
    "%": ("share", 0.01),
    "moi": ("MOI", 1.0),
    **{f"{p}M": ("M", f) for p, f in _PREFIX.items()},
    **{f"{p}mol/l": ("M", f) for p, f in _PREFIX.items()},
    **{f"{p}g/ml": ("g/ml", f) for p, f in _PREFIX.items()},
    **{f"{p}g/l": ("g/ml", f * 1e-3) for p, f in _PREFIX.items()},
    **{f"{p}Gy": ("Gy", f) for p, f in _PREFIX.items()},
}
_TIME_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), ("h", 1 / 3600)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), ("h", 1 / 60)),
    **dict.fromkeys(("", "h", "hr", "hrs", "hour", "hours"), ("h", 1.0)),
    **dict.fromkeys(("d", "day", "days"), ("h", 24.0)),
    **dict.fromkeys(("w", "wk", "week", "weeks"), ("h", 168.0)),
}


def parse_dose(text: str) -> tuple[float, str] | None:
    """Return (value, base unit) of a dose, None for no dose.

    The parts of a combination ("1+0.5 uM") are summed; a part without a unit has that of the last part. Molar
    concentrations are returned in M, masses per volume in g/ml.

    Raises
    ------
    SplitError
        If a part is not a number, or the parts have incompatible units.
    """
    # A plus sign after "e" belongs to an exponent ("1e+3"), not to a combination.
    if not text.strip():
        return None
    pieces = [p.strip() for p in re.split(r"(?<![eE])" + re.escape(schema.COMBO_SEPARATOR), text)]
    parts = [_number(p, "dose") for p in pieces if p]
    last = parts[-1][1] if parts else ""
    total, base = 0.0, None
    for value, unit in parts:
        kind, factor = _unit(unit or last, _DOSE_UNITS, "dose", text)
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
    for part in filter(None, _SEVERAL.split(text.strip())):
        value, unit = _number(part, "time")
        out.add(float(f"{value * _unit(unit, _TIME_UNITS, 'time', text)[1]:.12g}"))
    return tuple(sorted(out))


def _number(text: str, what: str) -> tuple[float, str]:
    match = _NUMBER.match(text)
    if match is None:
        msg = f"{what} {text!r} is not a number with an optional unit; name it so on import, or use another kind"
        raise SplitError(msg)
    return float(match[1]), match[2] or ""


def _unit(text: str, known: dict[str, tuple[str, float]], what: str, whole: str) -> tuple[str, float]:
    plain = text.replace("µ", "u").replace("μ", "u").strip()
    folded = {name.lower(): value for name, value in reversed(list(known.items()))}
    # An exact match first; otherwise upper and lower case are not distinguished.
    found = known.get(plain) or folded.get(plain.lower())
    if found is None:
        msg = f"{what} {whole!r} has the unknown unit {text!r}; use one of {', '.join(u for u in known if u)}"
        raise SplitError(msg)
    return found
