"""Labels of predicted rows, matched to the conditions of a data set: keys, or perturbation, context and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_key
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.guides import MERGED_GUIDES
from perturbfm_core.data.prediction_conditions import (
    CONTROL_ROW,
    COVARIATE,
    DOSE_UNIT,
    TIME,
    UNKNOWN,
    ConditionFinder,
    covariate_names,
)
from perturbfm_core.errors import DatasetError, PredictionError
from perturbfm_core.schema import IntArray

# Position of rows of conditions that the split does not test.
NOT_ASKED = -1

# Names that a column goes by where none is given, in order; those of the imported file come first.
_NAMES: dict[str, tuple[str, ...]] = {
    schema.CONDITION: (schema.CONDITION, "condition_key", "key"),
    schema.PERT_ID: (
        *("perturbation", "pert_id", "pert", "target_gene", "perturbed_gene", "gene", "guide_target"),
        *("drug", "compound", "perturbagen", "condition", "target"),
    ),
    schema.CONTEXT_ID: (
        "context",
        "context_id",
        "cell_line",
        "cell_type",
        "celltype",
        "cell_context",
        "tissue",
    ),
    schema.MODALITY: ("modality",),
    schema.DOSES: ("doses", "dose", "concentration"),
    DOSE_UNIT: ("dose_unit",),
    schema.COVARIATES: ("covariates",),
}
_TIMES = (TIME, "timepoint", "time_point")


@dataclass(frozen=True)
class LabelColumns:
    """Names of columns of a prediction file, None where they are to be recognised.

    Attributes
    ----------
    condition
        Condition keys.
    perturbation, context
        Perturbation and context, as the data set or the file it was imported from names them.
    control_label
        Perturbation label of control cells, which are left out.
    layer, gene_col
        Of an h5ad file, the layer with the values (default ``X``) and the var column with gene ids.
    imported
        What the data set's own import recorded of the columns of its file, whose names are recognised too.
    covariates
        Names of the covariates of the data set's conditions, such as ``time``.
    """

    condition: str | None = None
    perturbation: str | None = None
    context: str | None = None
    control_label: str | None = None
    layer: str | None = None
    gene_col: str | None = None
    imported: Mapping[str, Any] = field(default_factory=dict)
    covariates: tuple[str, ...] = ()

    def of(self, ds: PerturbDataset) -> LabelColumns:
        """Return these names with what the import of a data set recorded, and its covariates."""
        recorded = ds.metadata.notes.get("columns")
        imported = dict(recorded) if isinstance(recorded, dict) else {}
        if isinstance(merged := ds.metadata.notes.get(MERGED_GUIDES), dict):
            imported[MERGED_GUIDES] = merged
        return replace(self, imported=imported, covariates=covariate_names(ds.conditions))

    def given(self) -> tuple[str, ...]:
        """Return the names that are given."""
        return tuple(c for c in (self.condition, self.perturbation, self.context) if c is not None)


def is_known(name: str, columns: LabelColumns) -> bool:
    """Return whether a column of this name can be a label."""
    common = (n for names in _names(columns).values() for n in names)
    return name in {*columns.given(), "kind", *common}


def _names(columns: LabelColumns) -> dict[str, tuple[str, ...]]:
    """Return {what a column says: its names, in order}, those of the imported file first."""
    imported = columns.imported
    own = {
        schema.PERT_ID: imported.get("pert_col"),
        schema.CONTEXT_ID: imported.get("context_col"),
        schema.MODALITY: imported.get("modality_col"),
        schema.DOSES: imported.get("dose_col"),
        DOSE_UNIT: imported.get("dose_unit_col"),
        COVARIATE + TIME: imported.get("time_col"),
    }
    further = {COVARIATE + c: _TIMES if c == TIME else (c,) for c in columns.covariates}
    return {
        role: (*([str(own[role])] if own.get(role) else []), *names)
        for role, names in {**_NAMES, **further}.items()
    }


@dataclass(frozen=True, eq=False)
class Matched:
    """Rows of a prediction matched to test conditions.

    Attributes
    ----------
    code
        int64 [R], position among the test conditions; `NOT_ASKED`, `CONTROL_ROW` or `UNKNOWN`.
    not_asked, unknown
        Labels of conditions that the split does not test, and that the data set does not have.
    label
        int64 [R], number of the distinct label of a row that names guides, -1 where a label names a condition.
    guides
        {label with guides that the import took as their gene: perturbation}.
    name
        int64 [R], number of the distinct label of each row.
    """

    code: IntArray
    not_asked: list[str]
    unknown: list[str]
    label: IntArray
    guides: dict[str, str]
    name: IntArray


def match_rows(
    labels: pd.DataFrame, ds: PerturbDataset, tested: pd.Index, columns: LabelColumns, source: Path
) -> Matched:
    """Match labelled rows to the conditions of a data set.

    Parameters
    ----------
    labels
        Text columns [R], index = names of the rows.
    ds
        The data set.
    tested
        Keys of the test conditions [C].
    columns
        Names of the columns, as far as they are given.
    source
        The file, for messages.

    Raises
    ------
    PredictionError
        If no column says what the rows are, or labels fit several conditions.
    """
    roles = _roles(labels, columns, source)
    keys = ds.conditions.index
    context = roles.get(schema.CONTEXT_ID)
    unsure = columns.context is None and context is not None and len(ds.contexts) == 1
    if unsure and not labels[context].isin(ds.contexts).any():
        # A column that was recognised by its name alone may say something else of the only context.
        del roles[schema.CONTEXT_ID]
    finder = ConditionFinder(ds.conditions, columns.imported, columns.control_label, tuple(roles), source)
    if schema.CONDITION in roles:
        text = labels[roles[schema.CONDITION]]
        names = pd.unique(text)
        found = [finder.of_key(t) for t in names]
    elif schema.PERT_ID in roles:
        text = (
            labels[list(roles.values())].agg("\x1f".join, axis=1) if len(labels) else pd.Series(dtype=object)
        )
        names = pd.unique(text)
        found = [finder.position(t.split("\x1f")) for t in names]
    else:
        text = pd.Series(labels.index)
        names = pd.unique(text)
        named = _of_names(names, ds, finder)
        if named is None:
            shown = ", ".join(map(repr, labels.columns[:6])) or "none"
            msg = (
                f"{source} does not say which condition its rows are (label columns: {shown}; rows are named e.g. "
                f"{str(names[0]) if len(names) else ''!r}); give --pert-col and --context-col, or a column `condition` as "
                "`perturbfm predictions template` writes it"
            )
            raise PredictionError(msg)
        found = named
    perts = [str(n) for n in names]
    if schema.CONDITION in roles:
        perts = [_pert_of_key(p) for p in perts]
    elif schema.PERT_ID in roles:
        place = list(roles).index(schema.PERT_ID)
        perts = [p.split("\x1f")[place] for p in perts]
    guides = {p: gene for p in perts if (gene := finder.gene_of_guides(p)) is not None}
    position = np.full(len(keys), NOT_ASKED, dtype=np.int64)
    position[keys.get_indexer(tested)] = np.arange(len(tested))
    at = np.asarray([p if p < 0 else position[p] for p in found], dtype=np.int64)
    which = pd.Index(names).get_indexer(text) if len(names) else np.empty(0, dtype=np.int64)
    if schema.CONDITION in roles and columns.condition is None:
        _check_agreement(labels, ds, np.asarray(found, dtype=np.int64)[which], columns, source)
    by_guide = np.asarray([p in guides for p in perts], dtype=np.bool_)
    shown_names = [str(n).replace("\x1f", ", ") for n in names]
    asked = dict.fromkeys(str(keys[p]) for p, c in zip(found, at, strict=True) if p >= 0 and c == NOT_ASKED)
    unknown = [n for n, c in zip(shown_names, at, strict=True) if c == UNKNOWN]
    return Matched(at[which], list(asked), unknown, np.where(by_guide[which], which, -1), guides, which)


def _check_agreement(
    labels: pd.DataFrame, ds: PerturbDataset, position: IntArray, columns: LabelColumns, source: Path
) -> None:
    """Refuse a file whose column of condition keys names others than its columns of perturbations or contexts.

    Parameters
    ----------
    labels
        Text columns [R].
    ds
        The data set.
    position
        int64 [R], condition of each row by its key, below 0 for none.
    columns, source
        As in `match_rows`.
    """
    for role in (schema.PERT_ID, schema.CONTEXT_ID):
        own = ds.conditions[role].astype(str).to_numpy()
        column = next((c for c in _names(columns)[role] if c in labels), None)
        if column is None:
            continue
        said = labels[column].astype(str).to_numpy()
        # Names of another spelling say nothing.
        at = np.flatnonzero((position >= 0) & np.isin(said, own))
        wrong = at[own[position[at]] != said[at]]
        if len(wrong):
            key = str(ds.conditions.index[position[wrong[0]]])
            msg = (
                f"{source}: {len(wrong)} of {len(labels)} rows have another {column!r} than their condition key says, e.g. "
                f"{said[wrong[0]]!r} for {key!r}; correct one of them, or say which counts by --condition-col or --pert-col"
            )
            raise PredictionError(msg)


def _pert_of_key(key: str) -> str:
    try:
        return parse_key(key)[schema.PERT_ID]
    except DatasetError:
        return key


def _roles(labels: pd.DataFrame, columns: LabelColumns, source: Path) -> dict[str, str]:
    """Return {what it says: column} of the label columns."""
    for name in columns.given():
        if name not in labels:
            shown = ", ".join(map(str, labels.columns)) or "none"
            msg = f"{source} has no column {name!r}; columns: {shown}"
            raise PredictionError(msg)
    given = {
        schema.CONDITION: columns.condition,
        schema.PERT_ID: columns.perturbation,
        schema.CONTEXT_ID: columns.context,
    }
    roles: dict[str, str] = {}
    for role, names in _names(columns).items():
        chosen = given.get(role)
        if chosen is not None:
            roles[role] = chosen
            continue
        if role == schema.CONDITION and columns.perturbation is not None:
            continue
        for candidate in names:
            if candidate not in labels or candidate in roles.values():
                continue
            if role == schema.CONDITION and not _are_keys(labels[candidate]):
                continue
            roles[role] = str(candidate)
            break
    return {schema.CONDITION: roles[schema.CONDITION]} if schema.CONDITION in roles else roles


def _are_keys(column: pd.Series) -> bool:
    """Return whether most values have the form of a condition key."""
    return bool((column.str.count(r"\|") == len(schema.CONDITION_COLUMNS) - 1).mean() > 0.5)


def _of_names(names: Any, ds: PerturbDataset, finder: ConditionFinder) -> list[int] | None:
    """Return the conditions of row names that are condition keys or row ids of the data set, None if they are neither."""
    at = ds.conditions.index.get_indexer(names)
    if (at >= 0).any() or (len(names) and _are_keys(pd.Series([str(n) for n in names]))):
        return [finder.of_key(str(n)) for n in names]
    # Bare numbers name rows of any table.
    if all(str(n).isdigit() for n in names):
        return None
    rows = ds.obs.index.get_indexer(names)
    if not len(rows) or (rows >= 0).mean() <= 0.5:
        return None
    codes = ds.condition_codes[rows]
    return [UNKNOWN if r < 0 else CONTROL_ROW if c < 0 else int(c) for r, c in zip(rows, codes, strict=True)]


def label_table(keys: Sequence[str]) -> pd.DataFrame:
    """Return the label columns of conditions, by their keys: key, perturbation, context and the rest of it."""
    parts = [parse_key(str(key)) for key in keys]
    names = {
        "perturbation": schema.PERT_ID,
        "context": schema.CONTEXT_ID,
        **{name: name for name in (schema.MODALITY, schema.DOSES, schema.COVARIATES)},
    }
    columns: dict[str, list[str]] = {schema.CONDITION: [str(key) for key in keys]}
    columns |= {name: [part[field_] for part in parts] for name, field_ in names.items()}
    return pd.DataFrame(columns, dtype=object)
