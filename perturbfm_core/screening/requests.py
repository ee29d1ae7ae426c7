"""Requests as people write them, and as a model is asked them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import (
    canonical_covariates,
    canonical_pert,
    distinct_genes,
    keys_of,
    parse_covariates,
    pert_genes,
)
from perturbfm_core.errors import ConfigError
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.screening.doses import split_doses
from perturbfm_core.screening.fitted_run import FittedRun
from perturbfm_core.splits.view import Query

# A column and its option to what train leaves as the only choice.
Choice = Callable[[str, str], str]

_COLUMNS = {
    "perturbation": ("perturbation", schema.PERT_ID),
    "context": ("context", schema.CONTEXT_ID),
    "modality": ("modality",),
    "doses": ("doses", "dose"),
    "covariates": ("covariates",),
}


@dataclass(frozen=True)
class Request:
    """One condition as it is asked for; what is None is taken from train where that leaves no choice."""

    perturbation: str
    context: str
    modality: str | None = None
    doses: str | None = None
    covariates: str | None = None


@dataclass(frozen=True, eq=False)
class Requests:
    """Conditions as a model is asked them, without repeats.

    Attributes
    ----------
    query
        The query.
    notes
        What the asker should know of each: genes of no known name, doses that train's stand in for.
    """

    query: Query
    notes: list[tuple[str, ...]]

    def take(self, at: IntArray) -> Requests:
        """Return some of them, by position."""
        control = None if self.query.control is None else self.query.control[at]
        query = Query(self.query.conditions.iloc[at], self.query.genes, control)
        return Requests(query, [self.notes[i] for i in at])


def resolve_requests(run: FittedRun, asked: Sequence[Request]) -> Requests:
    """Return the query of some conditions, with the input controls of their contexts.

    Raises
    ------
    ConfigError
        If a context or modality is not of the data set, a dose is none, or a field is missing that train leaves open.
    DatasetError
        If a perturbation is malformed.
    """
    if not asked:
        msg = "no condition was asked for; give at least one perturbation and context"
        raise ConfigError(msg)
    genes = known_genes(run)
    modalities = sorted(set(run.ds.conditions[schema.MODALITY]) | set(run.view.conditions[schema.MODALITY]))
    choice = cache(partial(_only_choice, run.view.conditions))
    rows, notes = zip(*(_row(run, modalities, choice, a) for a in asked), strict=True)
    table = pd.DataFrame(list(rows), columns=list(schema.CONDITION_COLUMNS))
    table.index = pd.Index(keys_of(table), name=schema.CONDITION)
    first = ~table.index.duplicated()
    table = table[first]
    told = [
        (*_notes(pert, genes), *notes[i])
        for pert, i in zip(table[schema.PERT_ID], np.flatnonzero(first), strict=True)
    ]
    return Requests(Query(table, run.ds.genes, controls(run, table[schema.CONTEXT_ID].tolist())), told)


def known_genes(run: FittedRun) -> set[str]:
    """Return all names that mean something here: measured genes, perturbed ones, those that features describe."""
    described = [] if run.process is None else run.process.describable()
    perturbed = distinct_genes(run.ds.conditions[schema.PERT_ID].astype(str))
    return {*(str(g) for g in run.ds.genes), *perturbed, *described}


def controls(run: FittedRun, contexts: Sequence[str]) -> FloatArray | None:
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
    if ds.has_controls:
        pools, first = ds.control_pools("input"), ds.controls.n_groups
        mean = {c: pools.mean[first + i] for i, c in enumerate(ds.contexts) if pools.n[first + i] > 0}
    else:
        of_train = run.view.conditions[schema.CONTEXT_ID].astype(str).to_numpy()
        wanted = set(contexts)
        mean = {
            c: run.view.control[of_train == c].mean(axis=0) if c in wanted else run.view.control[:0]
            for c in sorted(set(of_train.tolist()))
        }
    bare = next((c for c in contexts if c not in mean), None)
    if bare is not None:
        msg = f"context {bare!r} has no control that a model may read; ask for one of {', '.join(mean)}"
        raise ConfigError(msg)
    return np.stack([mean[c] for c in contexts]).astype(np.float32)


def _row(
    run: FittedRun, modalities: list[str], choice: Choice, asked: Request
) -> tuple[tuple[str, ...], list[str]]:
    """Return (the fields of a condition, what was taken for granted)."""
    known = run.ds.contexts
    if asked.context not in known:
        raise ConfigError(unknown("context", asked.context, known))
    pert, _ = canonical_pert(asked.perturbation)
    if pert == schema.CONTROL:
        msg = f"perturbation {asked.perturbation!r} is the control; its delta is zero, ask for a perturbation"
        raise ConfigError(msg)
    modality = asked.modality
    if modality is None or (not modality and "" not in modalities):
        modality = choice(schema.MODALITY, "--modality")
    if modality not in modalities:
        if not any(modalities):
            msg = f"modality {modality!r} is unknown, the data set names none; leave --modality out"
            raise ConfigError(msg)
        raise ConfigError(unknown("modality", modality, [m for m in modalities if m]))
    pert, dose, notes = _doses(run, choice, asked, modality)
    covariates = (
        choice(schema.COVARIATES, "--covariates")
        if asked.covariates is None
        else _covariates(asked.covariates)
    )
    return (asked.context, pert, modality, dose, covariates), notes


def _doses(run: FittedRun, choice: Choice, asked: Request, modality: str) -> tuple[str, str, list[str]]:
    """Return (perturbation, its doses as the data set writes them, notes); train's most used where none is given."""
    given = asked.doses
    if given is None:
        given = choice(schema.DOSES, "--doses")
    notes: list[str] = []
    texts = []
    for piece in split_doses(given):
        text, note = run.doses.written(piece)
        texts.append(text)
        notes.extend([note] if note else [])
    parts = asked.perturbation.split(schema.COMBO_SEPARATOR)
    if len(texts) not in (1, len(parts)):
        msg = f"doses {given!r} are {len(texts)} for the {len(parts)} parts of {asked.perturbation!r}; give one each, or one for all"
        raise ConfigError(msg)
    pert, dose = canonical_pert(asked.perturbation, texts)
    names = pert_genes(pert)
    each = dose.split(schema.COMBO_SEPARATOR) if dose else [""] * len(names)
    for i, name in enumerate(names):
        usual = "" if each[i] else run.doses.usual(name, modality)
        if usual:
            each[i] = usual
            notes.append(f"no dose of {name!r} was given; {usual}, the most used of train, is taken")
    return *canonical_pert(pert, each), notes


def _only_choice(train: pd.DataFrame, column: str, option: str) -> str:
    """Return the value that train has throughout, empty where some condition has none; else ask for it."""
    values = set(train[column].astype(str))
    if column == schema.DOSES:
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


def unknown_covariates(conditions: pd.DataFrame, train: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return, for each condition, what train has none of: covariates and their values; and what it always has."""
    seen: dict[str, set[str]] = {}
    tables = [parse_covariates(text) for text in train[schema.COVARIATES].astype(str)]
    for table in tables:
        for name, value in table.items():
            seen.setdefault(name, set()).add(value)
    always = sorted(name for name in seen if all(name in table for table in tables))
    out = []
    for text in conditions[schema.COVARIATES].astype(str):
        given = parse_covariates(text)
        strange = [f"covariate {n!r} is unknown to train" for n in given if n not in seen]
        new = [f"train has no {n}={v}" for n, v in given.items() if n in seen and v not in seen[n]]
        missing = [f"no covariate {n!r} was given" for n in always if n not in given]
        out.append((*strange, *new, *missing))
    return out


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


def read_requests(
    path: Path, given: Mapping[str, str | None] | None = None, *, filtered: bool = False
) -> list[Request]:
    """Read conditions from a CSV, TSV or parquet file.

    Parameters
    ----------
    path
        Columns ``perturbation``, ``context`` and, where needed, ``modality``, ``doses``, ``covariates``.
    given
        Values of all rows by column, for columns that the file lacks or leaves empty throughout.
    filtered
        Whether a file may have columns of `given`, and then holds; else that is an error.

    Raises
    ------
    ConfigError
        If the file cannot be read, lacks a column or a value, or has a column that is given.
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
    for field, value in (given or {}).items():
        name = found[field]
        if value is None or (name is not None and filtered):
            continue
        if name is not None and (table[name].str.strip() != "").any():
            msg = f"{path} has a column {name!r} and --{field} {value!r} is given too; give one of them"
            raise ConfigError(msg)
        table, found[field] = table.assign(**{field: value}), field
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
        out.append(Request(values["perturbation"], values["context"], *rest))
    return out
