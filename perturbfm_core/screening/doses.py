"""Doses of requests: conversion to the notation of the data set, and comparison with training doses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.errors import ConfigError, SplitError
from perturbfm_core.models.baselines.effects import components
from perturbfm_core.splits.quantity import parse_dose
from perturbfm_core.uncertainty.novelty import Trust

FAR = 10.0

_NUMBER = re.compile(r"^\s*((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*$")
_SLACK = 1e-9


def most_used(texts: Iterable[str]) -> str:
    """Return the most frequent dose, the largest of equally frequent ones; empty if there are none."""
    counts = Counter(texts)
    if not counts:
        return ""
    return max(counts, key=lambda t: (counts[t], (_amount(t) or (-1.0, ""))[0], t))


class TrainDoses:
    """Doses in the training conditions, in the notation of the data set.

    Parameters
    ----------
    train
        Condition table of the training conditions.
    conditions
        Condition table of the whole data set, used only for the notation of its doses.
    """

    def __init__(self, train: pd.DataFrame, conditions: pd.DataFrame) -> None:
        self._of_part: dict[tuple[str, str], list[str]] = {}
        self._of_modality: dict[str, list[str]] = {}
        parts, _ = components(train)
        columns = [parts[c].astype(str) for c in (schema.PERT_ID, schema.MODALITY, schema.DOSES)]
        for name, modality, dose in zip(*columns, strict=True):
            self._of_part.setdefault((name, modality), []).append(dose)
            self._of_modality.setdefault(modality, []).append(dose)
        written = Counter(components(conditions)[0][schema.DOSES].astype(str))
        del written[""]
        self._texts = set(written)
        self._units: Counter[str] = Counter()
        self._known: dict[tuple[str, str], str] = {}
        # Numbers in different notation ("10", "10.0", "1e1") map to the text that the data set has.
        for text in sorted(written):
            if found := _NUMBER.match(text):
                unit = found[2] or ""
                self._units[unit] += written[text]
                self._known.setdefault((f"{float(found[1]):.9g}", unit), text)

    def written(self, text: str) -> tuple[str, str | None]:
        """Return (a dose in the notation and unit of the data set, a note for the user or None).

        Raises
        ------
        ConfigError
            If it is not a number of at least 0, or its unit cannot be converted to one of the data set.
        """
        if text in self._texts or not text:
            return text, None
        found = _NUMBER.match(text)
        if found is None or not np.isfinite(float(found[1])):
            some = ", ".join(sorted(self._texts)[:3]) or "10, 0.5, 10 uM"
            msg = (
                f"dose {text!r} is not a number of at least 0 with an optional unit; give one such as {some}"
            )
            raise ConfigError(msg)
        number, unit = float(found[1]), found[2] or ""
        note = None
        if self._units and unit not in self._units:
            if not unit and len(self._units) == 1:
                unit = next(iter(self._units))
            elif set(self._units) == {""}:
                note = f"doses of the data set have no unit; the unit of {text!r} is not read"
                unit = ""
            else:
                number, unit = self._converted(text)
        plain = np.format_float_positional(float(f"{number:.9g}"), trim="-")
        return self._known.get((f"{number:.9g}", unit), f"{plain} {unit}".strip()), note

    def _converted(self, text: str) -> tuple[float, str]:
        """Return (value, unit) of a dose in the most frequent compatible unit of the data set."""
        amount = _amount(text)
        for unit, _ in self._units.most_common():
            one = _amount(f"1 {unit}")
            if amount is not None and one is not None and one[1] == amount[1] and unit:
                return amount[0] / one[0], unit
        named = ", ".join(repr(u) for u in sorted(self._units) if u) or "such as uM or ng/ml"
        msg = f"dose {text!r} has no unit that compares with those of the data set; give it in {named}"
        raise ConfigError(msg)

    def usual(self, name: str, modality: str) -> str:
        """Return the most frequent training dose of a part, or of its modality if the part is not in train.

        Empty if train has some of these without a dose.
        """
        doses = self._of_part.get((name, modality)) or self._of_modality.get(modality, [])
        return "" if "" in doses else most_used(doses)

    def judged(self, name: str, modality: str, dose: str) -> tuple[Trust, str]:
        """Return (trust in a prediction at a dose, reason): ``high`` within the range of training doses.

        Trust is ``fair`` outside that range, and ``low`` if it is exceeded by more than ten times. A part
        that train does not have, or has without doses only, is compared with all doses of its modality; in
        the second case trust is at most ``fair``.

        Parameters
        ----------
        name
            The part: a gene or drug.
        modality
            Its modality.
        dose
            Its dose in the notation of the data set, empty if none is given.
        """
        own = self._of_part.get((name, modality), [])
        if dose in own or (not dose and not own):
            return "high", ""
        if not dose:
            return "fair", f"no dose of {name} was given"
        texts = [t for t in own if t] or [t for t in self._of_modality.get(modality, []) if t]
        what = f"dose {dose} of {name}"
        amount = _amount(dose)
        # Training doses in the same base unit, by amount; the texts are for the reason.
        ordered = sorted({(a[0], t) for t in texts if (a := _amount(t)) and amount and a[1] == amount[1]})
        if not ordered or amount is None:
            return "low", f"{what} compares with no dose of train"
        low, high = ordered[0], ordered[-1]
        times = max(_times(amount[0], high[0]), _times(low[0], amount[0]))
        if times > 1.0 + _SLACK:
            whole = low[1] if low[1] == high[1] else f"{low[1]} to {high[1]}"
            return ("low" if times > FAR + _SLACK else "fair"), f"{what} is outside train's {whole}"
        return ("fair", f"train has {name} without a dose only") if own and not any(own) else ("high", "")


def _times(above: float, below: float) -> float:
    """Return the ratio `above` / `below`, 1 if `above` is not the larger one."""
    if above <= below:
        return 1.0
    return above / below if below > 0 else np.inf


def _amount(text: str) -> tuple[float, str] | None:
    """Return (value, base unit) of a dose; an unknown unit is its own base. None if it is not a number."""
    found = _NUMBER.match(text)
    if found is None:
        return None
    try:
        return parse_dose(text)
    except SplitError:
        return float(found[1]), found[2] or ""
