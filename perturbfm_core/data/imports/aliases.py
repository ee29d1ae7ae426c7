"""Alias tables: for labels of a file, the perturbation, its genes and its modality."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.data.condition import part_id
from perturbfm_core.errors import DatasetError
from perturbfm_core.parsing import read_text

LABEL, PERTURBATION, GENES = "label", "perturbation", "genes"
_COLUMNS = (LABEL, PERTURBATION, GENES, schema.MODALITY)


class Aliases(Frozen):
    """Alias table of an import.

    Attributes
    ----------
    perturbation
        {label or part of a label: perturbation to use}.
    modality
        {label: modality of its rows}.
    """

    perturbation: dict[str, str] = Field(default_factory=dict)
    modality: dict[str, str] = Field(default_factory=dict)


def read_aliases(path: Path) -> Aliases:
    """Return the alias table of a CSV or tab-separated file.

    Its first line names the columns: ``label``, and at least one of ``perturbation`` (the name to use, kept
    whole), ``genes`` (the perturbed genes, separated by ``+`` or ``;``; they take precedence) and
    ``modality``.

    Raises
    ------
    DatasetError
        If the file cannot be read, lacks a column, has a line of more cells than columns, or gives a label twice.
    """
    text = read_text(path, DatasetError)
    head = text.splitlines()[0] if text.strip() else ""
    separator = max(",;\t", key=head.count)
    try:
        # Lines of old programs of the Macintosh end in a carriage return.
        lines = io.StringIO(text, newline=None)
        rows = list(csv.DictReader(lines, delimiter=separator, skipinitialspace=True))
    except csv.Error as exc:
        msg = f"alias table {path} is not a table ({exc}); give a CSV file with the columns {', '.join(_COLUMNS)}"
        raise DatasetError(msg) from exc
    named = {str(c).strip().casefold(): c for c in (rows[0] if rows else {}) if c is not None}
    if LABEL not in named or not set(named) & set(_COLUMNS[1:]):
        msg = (
            f"alias table {path} needs the columns {LABEL} and one of {', '.join(_COLUMNS[1:])}; found: "
            f"{head[:80] or 'nothing'}"
        )
        raise DatasetError(msg)
    perturbation: dict[str, str] = {}
    modality: dict[str, str] = {}
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        # A name cut at a comma or semicolon would be another name.
        more = [cell for cell in row.get(None) or () if cell.strip()]
        if more:
            msg = (
                f"alias table {path}: line {number} has more cells than there are columns ({more[0].strip()!r} is left over); put "
                f"names with {separator!r} in quotes, or part genes with {schema.COMBO_SEPARATOR}"
            )
            raise DatasetError(msg)
        label, name, genes, kind = ((row.get(named.get(c, c)) or "").strip() for c in _COLUMNS)
        if not label:
            continue
        if label in seen:
            msg = f"alias table {path}: line {number} gives label {label!r} a second time; keep one"
            raise DatasetError(msg)
        seen.add(label)
        parts = [g.strip() for g in genes.replace(";", schema.COMBO_SEPARATOR).split(schema.COMBO_SEPARATOR)]
        if genes:
            perturbation[label] = schema.COMBO_SEPARATOR.join(g for g in parts if g)
        elif name:
            perturbation[label] = part_id(name)
        if kind:
            modality[label] = kind
    return Aliases(perturbation=perturbation, modality=modality)
