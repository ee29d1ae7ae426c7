"""Selection of a suite's cells by entry, split, data set and seed: the option ``--only``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.errors import ConfigError

FIELDS = ("entry", "split", "dataset", "seed")


@dataclass(frozen=True)
class CellFilter:
    """One selection of cells; what is empty selects all.

    Attributes
    ----------
    entry, dataset, seed
        Names and numbers, each exact.
    split
        Prefixes of hashes, or parts of keys or of board names.
    """

    entry: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    seed: tuple[str, ...] = ()


def parse_only(texts: Sequence[str], suite: SuiteEntry) -> tuple[CellFilter, ...]:
    """Return the selections that ``--only`` was given: ``entry=ridge,split=combo_ood`` each.

    Within one selection other fields narrow it, and the same field again widens it; several selections add up.

    Raises
    ------
    ConfigError
        If one is no list of ``field=value``, or names an entry or data set that the suite lacks.
    """
    known = {"entry": list(suite.models), "dataset": [group.dataset for group in suite.grid]}
    out = []
    for text in texts:
        given: dict[str, list[str]] = {}
        for item in text.split(","):
            field, sep, value = (part.strip() for part in item.partition("="))
            if field not in FIELDS or not sep or not value:
                msg = f"--only takes {'=..,'.join(FIELDS)}=.., found {item!r}; e.g. --only entry={suite.models[0]}"
                raise ConfigError(msg)
            if field in known and value not in known[field]:
                what = "entry" if field == "entry" else "data set"
                msg = f"suite {suite.name!r} has no {what} {value!r}; it has: {', '.join(known[field])}"
                raise ConfigError(msg)
            if field == "seed" and not value.isdecimal():
                msg = f"--only seed={value}: a seed is a whole number of 0 or more"
                raise ConfigError(msg)
            given.setdefault(field, []).append(value)
        out.append(CellFilter(**{field: tuple(values) for field, values in given.items()}))
    return tuple(out)


def selects_dataset(only: Sequence[CellFilter], dataset: str) -> bool:
    """Return whether any selection may have cells on a data set."""
    return not only or any(not f.dataset or dataset in f.dataset for f in only)
