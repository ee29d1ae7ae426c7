"""Doses and times in one notation: "10 uM", "10000 nM" and "1e+1 uM" are one dose, "24h" and "1 day" one time."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from perturbfm_core import schema

NUMBER = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*$")
# The plus of an exponent ("1e+3") separates nothing.
_JOINT = re.compile(r"(?<![0-9.][eE])" + re.escape(schema.COMBO_SEPARATOR))
# Drug, dose and unit in one, as Tahoe-100M's h5ad files have them: "[('Imatinib', 0.5, 'uM')]".
# Of several drugs none is read: which dose belongs to which part of the perturbation, its name may say in another order.
_WITH_DRUG = re.compile(
    r"\[\((?P<drug>['\"])(?:(?!(?P=drug),\s*[-+.\deE]+,).)*(?P=drug),\s*(?P<dose>[-+.\deE]+),\s*'(?P<unit>[^']*)'\)\]"
)

# Signs between several times; a comma between digits may be that of a decimal number (1,5 h).
SEVERAL_TIMES = re.compile(r"\s*(?:&|(?<!\d),|,(?!\d)|;|\band\b)\s*")

Units = Mapping[str, tuple[str, float]]

_WORDS = {"femto": 1e-15, "pico": 1e-12, "nano": 1e-9, "micro": 1e-6, "milli": 1e-3}
_PREFIX = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}
# Unit -> (base unit, factor).
DOSE_UNITS: Units = {
    "": ("", 1.0),
    "%": ("share", 0.01),
    "moi": ("MOI", 1.0),
    **{f"{p}M": ("M", f) for p, f in _PREFIX.items()},
    **{f"{p}mol/l": ("M", f) for p, f in _PREFIX.items()},
    **{f"{p}molar": ("M", f) for p, f in _PREFIX.items()},
    **{f"{p}molar": ("M", f) for p, f in _WORDS.items()},
    **{f"{p}g/ml": ("g/ml", f) for p, f in _PREFIX.items()},
    **{f"{p}g/l": ("g/ml", f * 1e-3) for p, f in _PREFIX.items()},
    **{f"{p}g/kg": ("g/kg", f) for p, f in _PREFIX.items()},
    **{f"{p}Gy": ("Gy", f) for p, f in _PREFIX.items()},
}
TIME_UNITS: Units = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), ("h", 1 / 3600)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), ("h", 1 / 60)),
    **dict.fromkeys(("", "h", "hr", "hrs", "hour", "hours"), ("h", 1.0)),
    **dict.fromkeys(("d", "day", "days"), ("h", 24.0)),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), ("h", 168.0)),
}
# Base unit -> (unit that is written, how many of it are one base unit).
_WRITTEN: Units = {
    "": ("", 1.0),
    "share": ("%", 100.0),
    "MOI": ("MOI", 1.0),
    "M": ("uM", 1e6),
    "g/ml": ("ug/ml", 1e6),
    "g/kg": ("mg/kg", 1e3),
    "Gy": ("Gy", 1.0),
    "h": ("h", 1.0),
}


def find_unit(text: str, known: Units) -> tuple[str, float] | None:
    """Return (base unit, factor) of a unit, None if it is not known.

    An exact match comes first; otherwise upper and lower case, the two characters for micro, and spaces are
    not distinguished.

    Parameters
    ----------
    text
        The unit as written.
    known
        `DOSE_UNITS` or `TIME_UNITS`.
    """
    plain = text.replace("µ", "u").replace("μ", "u").strip().rstrip(".")
    folded = {name.lower(): value for name, value in reversed(list(known.items()))}
    return known.get(plain) or folded.get(plain.lower().replace(" ", ""))


def unit_in_name(column: str, known: Units) -> str | None:
    """Return the unit with which the name of a column ends (`dose_uM`, `time (hr)`), None if it has none.

    Parameters
    ----------
    column
        Name of the column.
    known
        `DOSE_UNITS` or `TIME_UNITS`.
    """
    words = [w for w in re.split(r"[\s_.()\[\]]+", column) if w]
    # One letter says little, but for that of hours and days behind another word.
    usable = bool(words) and (len(words[-1]) > 1 or (len(words) > 1 and words[-1] in {"h", "d", "%"}))
    return words[-1] if usable and find_unit(words[-1], known) is not None else None


def split_doses(text: str) -> list[str]:
    """Return the doses of the parts of a combination; the plus of an exponent ("1e+3") separates nothing."""
    return [piece.strip() for piece in _JOINT.split(text)]


def canonical_dose(text: str, unit: str = "") -> tuple[str, bool]:
    """Return (a dose in canonical notation, whether it could be read); a dose that cannot be read stays text.

    Concentrations are written in uM or ug/ml, doses per weight in mg/kg.

    Parameters
    ----------
    text
        A dose, with or without a unit.
    unit
        Unit of doses that have none.
    """
    return _canonical(text, unit, DOSE_UNITS)


def canonical_doses(text: str, unit: str = "") -> tuple[list[str], bool]:
    """Return (canonical doses of the parts of a combination, whether all could be read).

    A part without a unit has that of the last part ("1+2 uM"), else `unit`.
    """
    if whole := _WITH_DRUG.fullmatch(text.strip()):
        # A plus sign in the name of the drug separates nothing.
        text = f"{whole['dose']} {whole['unit']}"
    pieces = split_doses(text)
    last = NUMBER.match(pieces[-1])
    own = (last[2] or "") if last else ""
    read = [canonical_dose(piece, own or unit) for piece in pieces]
    return [dose for dose, _ in read], all(known for _, known in read)


def canonical_time(text: str, unit: str = "") -> tuple[str, bool]:
    """Return (a time in hours, e.g. "24 h" or "24 h & 4 h", whether it could be read).

    A number without a unit stays one.

    Parameters
    ----------
    text
        A time, with or without a unit.
    unit
        Unit of times that have none.
    """
    pieces = [p for p in SEVERAL_TIMES.split(text.strip()) if p]
    if len(pieces) > 1:
        # Several times of one condition, as after a change of medium: "24 h & 4 h".
        read = [canonical_time(piece, unit) for piece in pieces]
        known = all(ok for _, ok in read)
        return (" & ".join(t for t, _ in read), True) if known else (text, False)
    found = NUMBER.match(text)
    if found and not found[2] and not unit:
        return _number(float(found[1])), True
    return _canonical(text, unit, TIME_UNITS)


def _canonical(text: str, unit: str, units: Units) -> tuple[str, bool]:
    text = " ".join(text.split())
    found = NUMBER.match(text)
    if found is None or not np.isfinite(float(found[1])):
        return text, not text
    known = find_unit(found[2] or unit, units)
    if known is None and re.search(r"[\d;:]|^[-+.,/]", found[2] or unit):
        # A range, a list or a fraction, not a unit.
        return text, False
    if known is None:
        # The number is in one notation all the same, and the unit as it was.
        return f"{_number(float(found[1]))} {(found[2] or unit).strip()}", False
    base, factor = known
    written, size = _WRITTEN[base]
    # Multiplied in one go: two roundings could make 10000 nM other than 10 uM.
    return f"{_number(float(found[1]) * (factor * size))} {written}".strip(), True


def _number(value: float) -> str:
    """Return a number with at most 12 digits, without an exponent; conversions round in the digits behind."""
    return np.format_float_positional(float(f"{value:.12g}") + 0.0, trim="-")
