"""Conditions of a data set found by what a prediction file writes: perturbation, context, doses, times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import (
    canonical_covariates,
    canonical_pert,
    condition_key,
    label_parts,
    label_pieces,
    parse_covariates,
    parse_key,
    part_id,
    pert_genes,
    pert_parts,
    repeated_name,
    typed_pert,
)
from perturbfm_core.data.imports.control_names import control_like
from perturbfm_core.data.imports.guides import MERGED_GUIDES
from perturbfm_core.data.quantities import NUMBER, canonical_doses, canonical_time
from perturbfm_core.errors import DatasetError, PredictionError

# Positions of rows that are no condition of the data set.
CONTROL_ROW, UNKNOWN = -2, -3

TIME: Final = "time"
# The role of the column with units of doses, and, before its name, that of a covariate.
DOSE_UNIT: Final = "dose unit"
COVARIATE: Final = "covariate "
_CONTROLS = (schema.CONTROL, "ctrl", "non-targeting", "NT", "DMSO", "vehicle")


def covariate_names(conditions: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of the covariates that conditions have."""
    distinct = conditions[schema.COVARIATES].astype(str).unique()
    return tuple(sorted({name for text in distinct for name in parse_covariates(text)}))


def control_names(conditions: pd.DataFrame, imported: Mapping[str, Any]) -> set[str]:
    """Return what controls are called: as the import of a data set had them, and as is common; no name of a perturbation.

    Parameters
    ----------
    conditions
        Conditions of the data set.
    imported
        What the import of the data set recorded of the columns of its file.
    """
    labels = imported.get("control_label") or ()
    own = [labels] if isinstance(labels, str) else list(labels)
    own += [repeated_name(label, imported.get("separators", schema.COMBO_SEPARATOR)) for label in own]
    return {*_CONTROLS, *own} - {"", *map(str, conditions[schema.PERT_ID])}


class ConditionFinder:
    """Finds the condition of (perturbation, context, ...) as a file writes them.

    Parameters
    ----------
    conditions
        Conditions of the data set, index = key.
    imported
        What the import of the data set recorded of the columns of its file.
    control_label
        Label of control rows in the file, if it is given.
    roles
        What the values are that `position` is given, in order.
    source
        The file, for messages.
    """

    def __init__(
        self,
        conditions: pd.DataFrame,
        imported: Mapping[str, Any],
        control_label: str | None,
        roles: tuple[str, ...],
        source: Path,
    ) -> None:
        self._roles, self._source, self._imported = roles, source, imported
        self._keys = conditions.index
        kept = imported.get("separators", schema.COMBO_SEPARATOR)
        joints = kept if isinstance(kept, str) else tuple(kept)
        perts = {str(p) for p in conditions[schema.PERT_ID]}
        own = control_names(conditions, imported)
        self._controls = {*own, *([control_label] if control_label and control_label not in perts else [])}
        self._known = perts
        self._guides: dict[str, str] = dict(imported.get(MERGED_GUIDES) or {})
        self._genes_of: dict[str, str | None] = {}
        # {separators: names that have one in them and stay whole}, those of the import first.
        parts = {name for p in perts for name in (*pert_parts(p), *pert_genes(p))}
        names = {*parts, *self._controls, *self._guides, *(imported.get("aliases") or ())}
        self._whole = {
            s: {n for n in names if len(label_pieces(n, s)) > 1} for s in (joints, schema.COMBO_SEPARATOR)
        }
        self._plus = [p for p in perts if part_id("+") in p]
        self._stated = {
            c: conditions[c].astype(str).str.strip().to_numpy(dtype=object) for c in schema.CONDITION_COLUMNS
        }
        # Fields and covariates of every condition in one notation.
        self._table = {
            c: self._in_one_notation(c, self._stated[c]) for c in (schema.CONTEXT_ID, schema.MODALITY)
        }
        self._table[schema.PERT_ID] = self._stated[schema.PERT_ID]
        for role in (schema.DOSES, schema.COVARIATES):
            self._table[role] = self._in_one_notation(role, self._stated[role])
        each = {t: parse_covariates(t) for t in set(self._table[schema.COVARIATES])}
        for name in sorted({n for found in each.values() for n in found}):
            self._table[COVARIATE + name] = np.asarray(
                [each[t].get(name, "") for t in self._table[schema.COVARIATES]], dtype=object
            )
        self._by_key: dict[str, list[int]] | None = None

    def position(self, values: Sequence[str]) -> int:
        """Return the position of the condition, `CONTROL_ROW` or `UNKNOWN`.

        Raises
        ------
        PredictionError
            If several conditions fit.
        """
        given = dict(zip(self._roles, values, strict=True))
        unit = given.pop(DOSE_UNIT, "")
        dose = given.get(schema.DOSES, "")
        found = NUMBER.match(dose)
        if found and not found[2]:
            given[schema.DOSES] = dose = f"{dose} {unit}".strip()
        pert, doses = self._canonical(given.pop(schema.PERT_ID), dose)
        if pert == schema.CONTROL:
            return CONTROL_ROW
        hits = self._table[schema.PERT_ID] == pert
        exact = hits
        for role, text in given.items():
            own = self._table[role]
            # What one side does not state (modality, dose) does not tell conditions apart.
            if role != schema.CONTEXT_ID and not (text and (own[hits] != "").any()):
                continue
            value = doses if role == schema.DOSES else self._one_notation(role, text)
            hits = hits & (own == value)
            if role in self._stated:
                exact = exact & (self._stated[role] == text)
        where = np.flatnonzero(hits)
        if len(where) > 1 and (hits & exact).sum() == 1:
            where = np.flatnonzero(hits & exact)
        if len(where) > 1:
            raise PredictionError(self._several(pert, where))
        return int(where[0]) if len(where) else UNKNOWN

    def of_key(self, text: str) -> int:
        """Return the position of the condition of a key, `CONTROL_ROW` or `UNKNOWN`."""
        if text in self._keys:
            return int(self._keys.get_loc(text))
        try:
            field = parse_key(text)
        except DatasetError:
            return CONTROL_ROW if text == schema.CONTROL else UNKNOWN
        if field[schema.PERT_ID] == schema.CONTROL:
            return CONTROL_ROW
        if self._by_key is None:
            self._by_key = {}
            columns = [self._table[c] for c in schema.CONDITION_COLUMNS]
            for i, row in enumerate(zip(*columns, strict=True)):
                self._by_key.setdefault(condition_key(*row), []).append(i)
        pert, doses = self._canonical(field[schema.PERT_ID], field[schema.DOSES])
        rest = {
            c: self._one_notation(c, field[c])
            for c in (schema.CONTEXT_ID, schema.MODALITY, schema.COVARIATES)
        }
        key = condition_key(
            rest[schema.CONTEXT_ID], pert, rest[schema.MODALITY], doses, rest[schema.COVARIATES]
        )
        where = self._by_key.get(key, [])
        # Conditions that differ in notation alone have only their own keys.
        return where[0] if len(where) == 1 else UNKNOWN

    def gene_of_guides(self, label: str) -> str | None:
        """Return the perturbation that a label was found as by the guides of an import, None if by its own name."""
        return self._genes_of.get(label.strip())

    def _several(self, pert: str, where: Any) -> str:
        """Return what is wrong with a row that fits several conditions, and which column would tell them apart."""
        roles = [
            r for r in self._table if r != schema.COVARIATES and len(set(self._table[r][where].tolist())) > 1
        ]
        start = f"{self._source}: perturbation {pert!r} fits {len(where)} conditions of the data set"
        if schema.CONTEXT_ID in roles and schema.CONTEXT_ID not in self._roles:
            return f"{start}; add a context column (--context-col), as `perturbfm predictions template` writes it"
        shown = [
            f"{_shown(r)} ({', '.join(repr(v) for v in sorted(set(self._table[r][where].tolist()))[:3])})"
            for r in roles
        ]
        differ = f" that differ in {' and '.join(shown)}" if shown else ""
        column = f" {_shown(roles[0])!r}, or `condition`" if roles else " `condition`"
        return (
            f"{start}{differ}; add a column{column} with keys as `perturbfm predictions template` writes it"
        )

    def _canonical(self, label: str, dose: str) -> tuple[str, str]:
        """Return perturbation and doses as the data set writes them."""
        label = label.strip()
        unit = self._imported.get("dose_unit") or ""
        doses = canonical_doses(dose, unit)[0] if dose else None
        found = self._resolved(label, doses, self._imported.get("aliases") or {})
        if found is None and self._guides:
            found = self._resolved(label, doses, {**self._guides, **(self._imported.get("aliases") or {})})
            self._genes_of[label] = None if found is None else found[0]
        if found is not None:
            return found
        # The data set's own names come first; a gene that it lacks is none beside a control ("FOO+ctrl") either.
        named = [p for p in label.split(schema.COMBO_SEPARATOR) if any(c.isalpha() for c in p)]
        if named and len(control_like(named, self._known)) == len(set(named)):
            return schema.CONTROL, ""
        return label, schema.COMBO_SEPARATOR.join(doses or ())

    def _resolved(
        self, label: str, doses: list[str] | None, aliases: Mapping[str, str]
    ) -> tuple[str, str] | None:
        """Return perturbation and doses of a label that the data set knows, None if it does not.

        Parameters
        ----------
        label
            The label.
        doses
            Its doses, or None.
        aliases
            {other name of a part: perturbation id}.
        """
        # A name may have a plus sign: in full, or as typed.
        forms = dict.fromkeys((label, typed_pert(label, self._plus) if self._plus else label))
        for form in (*forms, *([aliases[label]] if label in aliases else [])):
            if form in self._known and form != schema.CONTROL:
                # Its parts are in order, and so are its doses.
                n = len(form.split(schema.COMBO_SEPARATOR))
                each = [] if doses is None else doses * (n if len(doses) == 1 else 1)
                return form, schema.COMBO_SEPARATOR.join(each)
            for separators, whole in self._whole.items():
                parts = label_parts(form, separators, whole)
                try:
                    found = canonical_pert(
                        form,
                        doses,
                        control=self._controls,
                        separators=separators,
                        aliases=aliases,
                        parts=parts,
                    )
                except DatasetError:
                    continue
                if found[0] in self._known or found[0] == schema.CONTROL:
                    return found
        return None

    def _in_one_notation(self, role: str, texts: Any) -> Any:
        known = {t: self._one_notation(role, t) for t in set(texts)}
        return np.asarray([known[t] for t in texts], dtype=object)

    def _one_notation(self, role: str, text: str) -> str:
        """Return a field of a condition in the notation of an import."""
        if role == schema.DOSES:
            doses = canonical_doses(text, self._imported.get("dose_unit") or "")[0] if text else [""]
            return schema.COMBO_SEPARATOR.join(doses)
        if role == COVARIATE + TIME:
            return canonical_time(text, self._imported.get("time_unit") or "")[0] if text else ""
        if role == schema.COVARIATES:
            try:
                each = json.loads(text) if text else {}
            except ValueError:
                return text
            if not isinstance(each, dict):
                return text
            return canonical_covariates(
                {k: self._one_notation(COVARIATE + str(k), str(v)) for k, v in each.items()}
            )
        return _plain(text)


def _shown(role: str) -> str:
    return role.removeprefix(COVARIATE)


def _plain(text: str) -> str:
    """Return a number in one form ("10.0" is "10"), and other text without spaces around it."""
    text = text.strip()
    return f"{float(text):.12g}" if text.replace(".", "", 1).isdecimal() and text.isascii() else text
