"""Questions as people write them, and as a model is asked them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.asking.opened import OpenedRun
from perturbfm_core.data.condition import (
    canonical_covariates,
    canonical_pert,
    distinct_genes,
    keys_of,
    parse_covariates,
    pert_genes,
)
from perturbfm_core.errors import ConfigError
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query

_COLUMNS = {
    "perturbation": ("perturbation", schema.PERT_ID),
    "context": ("context", schema.CONTEXT_ID),
    "modality": ("modality",),
    "doses": ("doses", "dose"),
    "covariates": ("covariates",),
}


@dataclass(frozen=True)
class Asked:
    """One condition as it is asked for; what is None is taken from train where that leaves no choice."""

    perturbation: str
    context: str
    modality: str | None = None
    doses: str | None = None
    covariates: str | None = None


@dataclass(frozen=True, eq=False)
class Questions:
    """Conditions as a model is asked them, without repeats.

    Attributes
    ----------
    query
        The query.
    notes
        What the asker should know of each: genes of no known name.
    """

    query: Query
    notes: list[tuple[str, ...]]


def questions(run: OpenedRun, asked: Sequence[Asked]) -> Questions:
    """Return the query of some conditions, with the input controls of their contexts.

    Raises
    ------
    ConfigError
        If a context is not of the data set, or a field is missing that train leaves open.
    DatasetError
        If a perturbation is malformed.
    """
    if not asked:
        msg = "no condition was asked for; give at least one perturbation and context"
        raise ConfigError(msg)
    train = run.view.conditions
    genes = known_genes(run)
    rows = [_row(run, train, a) for a in asked]
    table = pd.DataFrame(rows, columns=list(schema.CONDITION_COLUMNS))
    table.index = pd.Index(keys_of(table), name=schema.CONDITION)
    table = table[~table.index.duplicated()]
    notes = [_notes(p, genes) for p in table[schema.PERT_ID]]
    return Questions(Query(table, run.ds.genes, controls(run, table[schema.CONTEXT_ID].tolist())), notes)


def known_genes(run: OpenedRun) -> set[str]:
    """Return all names that mean something here: measured genes, perturbed ones, those that features describe."""
    described = [] if run.process is None else run.process.describable()
    perturbed = distinct_genes(run.ds.conditions[schema.PERT_ID].astype(str))
    return {*(str(g) for g in run.ds.genes), *perturbed, *described}


def controls(run: OpenedRun, contexts: Sequence[str]) -> FloatArray | None:
    """Return float32 [C, G], the mean input control of each context, None for data without controls.

    Controls that come with the rows of the file are averaged over the context's train rows.

    Raises
    ------
    ConfigError
        If a context has none.
    """
    ds = run.ds
    if run.view.control is None:
        return None
    position = {c: i for i, c in enumerate(ds.contexts)}
    if ds.has_controls:
        pools = ds.control_pools("input")
        at = np.asarray([ds.controls.n_groups + position[c] for c in contexts], dtype=np.int64)
        bare = [c for c, n in zip(contexts, pools.n[at], strict=True) if n == 0]
        mean = pools.mean[at]
    else:
        of_train = run.view.conditions[schema.CONTEXT_ID].astype(str).to_numpy()
        bare = sorted(set(contexts) - set(of_train.tolist()))
        mean = np.stack([run.view.control[of_train == c].mean(axis=0) for c in contexts if c not in bare])
    if bare:
        msg = f"context {bare[0]!r} has no control that a model may read; ask for one of {', '.join(ds.contexts)}"
        raise ConfigError(msg)
    return np.asarray(mean, dtype=np.float32)


def _row(run: OpenedRun, train: pd.DataFrame, asked: Asked) -> tuple[str, ...]:
    known = run.ds.contexts
    if asked.context not in known:
        raise ConfigError(unknown("context", asked.context, known))
    doses = None if not asked.doses else asked.doses.split(schema.COMBO_SEPARATOR)
    pert, _ = canonical_pert(asked.perturbation)
    if pert == schema.CONTROL:
        msg = f"perturbation {asked.perturbation!r} is the control; its delta is zero, ask for a perturbation"
        raise ConfigError(msg)
    if asked.doses is None:
        dose = _only_choice(train, schema.DOSES, "--doses", each_part=True)
        doses = [dose] if dose else None
    pert, dose = canonical_pert(asked.perturbation, doses)
    modality, covariates = asked.modality, asked.covariates
    if modality is None:
        modality = _only_choice(train, schema.MODALITY, "--modality")
    if covariates is None:
        covariates = _only_choice(train, schema.COVARIATES, "--covariates")
    else:
        covariates = _covariates(covariates)
    return asked.context, pert, modality, dose, covariates


def _only_choice(train: pd.DataFrame, column: str, option: str, *, each_part: bool = False) -> str:
    """Return the value that train has throughout, empty where some condition has none; else ask for it."""
    values = set(train[column].astype(str))
    if each_part:
        values = {v for text in values for v in text.split(schema.COMBO_SEPARATOR)}
    if len(values) == 1:
        return str(values.pop())
    if "" in values:
        return ""
    some = ", ".join(sorted(values)[:6])
    msg = f"train has {len(values)} different {column} ({some}); say which by {option}"
    raise ConfigError(msg)


def _covariates(text: str) -> str:
    """Return covariates in canonical form, from JSON or from NAME=VALUE pairs joined by ';'."""
    if not text.strip():
        return ""
    if text.lstrip().startswith("{"):
        try:
            return canonical_covariates(parse_covariates(text))
        except (ValueError, TypeError) as error:
            msg = f"covariates {text!r} are not a JSON object ({error}); give NAME=VALUE;NAME=VALUE"
            raise ConfigError(msg) from error
    pairs = [item.partition("=") for item in text.split(";") if item.strip()]
    if any(not sep or not name.strip() for name, sep, _ in pairs):
        msg = f"covariates {text!r} are not NAME=VALUE pairs joined by ';'"
        raise ConfigError(msg)
    return canonical_covariates({name.strip(): value.strip() for name, _, value in pairs})


def _notes(pert: str, genes: set[str]) -> tuple[str, ...]:
    return tuple(unknown("gene", g, genes) for g in pert_genes(pert) if g not in genes)


def unknown(what: str, name: str, known: Sequence[str] | set[str]) -> str:
    """Return one line that says a name is unknown, with the nearest known ones."""
    folded: dict[str, str] = {}
    for k in sorted(known):
        folded.setdefault(k.lower(), k)
    close = [folded[c] for c in difflib.get_close_matches(name.lower(), folded, n=3)]
    some = sorted(known)[:6]
    rest = f", ... ({len(known)} in all)" if len(known) > len(some) else ""
    hint = f"nearest: {', '.join(close)}" if close else f"known: {', '.join(some)}{rest}"
    return f"unknown {what} {name!r}; {hint}"


def read_questions(path: Path, *, context: str | None = None) -> list[Asked]:
    """Read conditions from a CSV, TSV or parquet file.

    Parameters
    ----------
    path
        Columns ``perturbation``, ``context`` and, where needed, ``modality``, ``doses``, ``covariates``.
    context
        The context of all rows where the file has no such column.

    Raises
    ------
    ConfigError
        If the file cannot be read, or lacks a column or a value.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        msg = f"{path} must end in .csv, .tsv or .parquet"
        raise ConfigError(msg)
    if not path.is_file():
        msg = f"{path} does not exist; give a file of conditions"
        raise ConfigError(msg)
    try:
        table = (
            pd.read_parquet(path)
            if suffix == ".parquet"
            else pd.read_csv(
                path, sep="\t" if suffix == ".tsv" else ",", dtype=str, keep_default_na=False, comment=None
            )
        )
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as {suffix[1:]} ({' '.join(str(error).split())[:120]})"
        raise ConfigError(msg) from error
    table = table.astype(object).where(table.notna(), "").astype(str)
    found = {field: next((c for c in names if c in table.columns), None) for field, names in _COLUMNS.items()}
    if context is not None and found["context"] is None:
        table, found["context"] = table.assign(context=context), "context"
    missing = [field for field in ("perturbation", "context") if found[field] is None]
    if missing or table.empty:
        what = f"lacks {', '.join(missing)}" if missing else "has no rows"
        msg = f"{path} {what}; it needs columns perturbation, context and one condition a row"
        raise ConfigError(msg)
    columns = {field: table[name].str.strip().tolist() for field, name in found.items() if name is not None}
    out = []
    for i in range(len(table)):
        values = {field: column[i] for field, column in columns.items()}
        blank = [field for field in ("perturbation", "context") if not values[field]]
        if blank:
            msg = f"row {i + 1} of {path} has no {blank[0]}; fill it in"
            raise ConfigError(msg)
        rest = [values.get(field) or None for field in ("modality", "doses", "covariates")]
        out.append(Asked(values["perturbation"], values["context"], *rest))
    return out
