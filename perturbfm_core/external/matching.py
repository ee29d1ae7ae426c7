"""Genes and conditions of a raw output matched by name to those that were asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.prediction_conditions import CONTROL_ROW, UNKNOWN, ConditionFinder
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.raw import Raw
from perturbfm_core.schema import IntArray, StrArray

# Position of a row whose condition the data set has, and that was not asked for.
NOT_ASKED = -1

_VERSION = re.compile(r"^(ENS[A-Z]*\d+)\.\d+$")


def _without_version(gene: str) -> str:
    return _VERSION.sub(r"\1", gene)


# Ways to write a gene that are shown where its own name is absent; none is taken for it, as case tells species apart.
_SPELLINGS: Final[tuple[tuple[Callable[[str], str], str], ...]] = (
    (_without_version, "with another version"),
    (str.casefold, "in other case"),
    (str.strip, "with spaces"),
)


def gene_order(raw: Raw, genes: StrArray) -> IntArray:
    """Return int64 [G], the column of the raw output that holds each gene of the data set.

    Raises
    ------
    PredictionError
        If its genes are not unique, or not those of the data set.
    """
    own, wanted = [str(g) for g in raw.genes], [str(g) for g in genes]
    if twice := _repeated(own):
        msg = f"{raw.source} repeats {len(twice)} gene names, e.g. {twice[:3]}; give every gene once"
        raise PredictionError(msg)
    position = {g: i for i, g in enumerate(own)}
    missing = [g for g in wanted if g not in position]
    if missing:
        msg = (
            f"{raw.source} lacks {len(missing)} of {len(wanted)} genes, e.g. {missing[:3]}"
            f"{_other_spelling(missing, own)}; predict every gene of the data set by its name"
        )
        raise PredictionError(msg)
    if len(own) > len(wanted):
        unknown = sorted(set(own) - set(wanted))
        msg = f"{raw.source} has {len(unknown)} genes unknown to the data set, e.g. {unknown[:3]}; leave them out"
        raise PredictionError(msg)
    return np.asarray([position[g] for g in wanted], dtype=np.int64)


def _other_spelling(missing: Sequence[str], own: Iterable[str]) -> str:
    """Return what missing genes are called in a raw output, if they are there under another spelling."""
    for normal, what in _SPELLINGS:
        spelled = {normal(g): g for g in own}
        found = [spelled[normal(g)] for g in missing if normal(g) in spelled]
        if found:
            return f" ({len(found)} of them are there {what}, e.g. {found[0]!r})"
    return ""


@dataclass(frozen=True, eq=False)
class Keys:
    """Rows of a raw output by the condition that they predict.

    Attributes
    ----------
    row
        int64 [C], the row of each condition asked for, -1 where there is none.
    not_asked, controls
        Number of rows of conditions that were not asked for, and of controls, both left out.
    """

    row: IntArray
    not_asked: int
    controls: int


def condition_rows(raw: Raw, asked: Asked) -> Keys:
    """Return which row of a raw output predicts each condition.

    Raises
    ------
    PredictionError
        If a condition is unknown to the data set or predicted twice, or a name fits several.
    """
    at = ConditionNames(asked, raw.source).positions(raw.key)
    unknown = [str(k) for k, p in zip(raw.key, at, strict=True) if p == UNKNOWN]
    if unknown:
        msg = (
            f"{raw.source} has {len(unknown)} of {len(at)} conditions unknown to the data set, e.g. {unknown[:3]}; "
            f"write the keys of the request, e.g. {str(asked.conditions.index[0])!r}"
        )
        raise PredictionError(msg)
    used = at[at >= 0]
    counts = np.bincount(used, minlength=len(asked))
    if (counts > 1).any():
        names = asked.conditions.index[counts > 1].tolist()
        msg = (
            f"{raw.source} predicts {len(names)} conditions more than once, e.g. {names[:3]}; give each once"
        )
        raise PredictionError(msg)
    row = np.full(len(asked), -1, dtype=np.int64)
    row[used] = np.flatnonzero(at >= 0)
    return Keys(row, int((at == NOT_ASKED).sum()), int((at == CONTROL_ROW).sum()))


class ConditionNames:
    """Conditions found by a key, by the beginning of one (context|perturbation), or by the perturbation alone.

    Parameters
    ----------
    asked
        The conditions asked for.
    source
        What holds the names, for messages.
    """

    def __init__(self, asked: Asked, source: str) -> None:
        self._source, self._asked = source, asked
        tables = [asked.conditions, *([] if asked.known is None else [asked.known])]
        self._finders = [self._finders_of(t) for t in tables]

    def positions(self, names: Iterable[Any]) -> IntArray:
        """Return int64 [n], position among the conditions asked for; `NOT_ASKED`, `CONTROL_ROW` or `UNKNOWN`."""
        return np.asarray([self._position(str(n).strip()) for n in names], dtype=np.int64)

    def fitting(self, name: str) -> list[int]:
        """Return the positions of all conditions asked for that a name fits: of a perturbation, in every context."""
        *context, pert = name.split("|")
        if len(context) > 1:
            found = self._finders[0]["key"].of_key(name)
            return [found] if found >= 0 else []
        try:
            one = self._finders[0]["pair" if context else "pert"].position([*context, pert])
        except PredictionError:
            one = UNKNOWN
        if one >= 0:
            return [one]
        bare = schema.COMBO_SEPARATOR.join(
            p for p in pert.split(schema.COMBO_SEPARATOR) if p.casefold() not in ("ctrl", schema.CONTROL)
        )
        wanted = sorted(bare.split(schema.COMBO_SEPARATOR))
        perts = self._asked.conditions[schema.PERT_ID].astype(str)
        contexts = self._asked.conditions[schema.CONTEXT_ID].astype(str)
        return [
            i
            for i, (p, c) in enumerate(zip(perts, contexts, strict=True))
            if sorted(p.split(schema.COMBO_SEPARATOR)) == wanted and context in ([], [c])
        ]

    def _finders_of(self, table: Any) -> dict[str, ConditionFinder]:
        roles: dict[str, tuple[str, ...]] = {
            "key": (),
            "pert": (schema.PERT_ID,),
            "pair": (schema.CONTEXT_ID, schema.PERT_ID),
        }
        return {
            name: ConditionFinder(table, self._asked.imported, None, r, Path(self._source))
            for name, r in roles.items()
        }

    def _position(self, name: str) -> int:
        found = self._found(self._finders[0], name)
        if found != UNKNOWN:
            return found
        if any(self._found(f, name, several=0) >= 0 for f in self._finders[1:]):
            return NOT_ASKED
        return UNKNOWN

    def _found(self, finders: dict[str, ConditionFinder], name: str, several: int | None = None) -> int:
        """Return the position of a name, or `several` if it fits more than one condition and that is no fault."""
        fields = name.split("|")
        if len(fields) == len(schema.CONDITION_COLUMNS):
            return finders["key"].of_key(name)
        if len(fields) > 2:
            return UNKNOWN
        if len(fields) == 2 and schema.CONTROL in fields:
            return CONTROL_ROW
        try:
            return finders["pert" if len(fields) == 1 else "pair"].position(fields)
        except PredictionError:
            if several is not None:
                return several
            fits = self.fitting(name)
            shown = [str(self._asked.conditions.index[i]) for i in fits[:3]]
            msg = f"{self._source}: {name!r} fits {max(len(fits), 2)} conditions, e.g. {shown}; write the keys of the request"
            raise PredictionError(msg) from None


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, n in Counter(names).items() if n > 1)
