"""`Request` and `Requests`: conditions to predict, as users write them and resolved against a fitted run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    part_id,
    pert_genes,
    pert_parts,
    typed_pert,
)
from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.data.prediction_conditions import control_names
from perturbfm_core.data.quantities import split_doses
from perturbfm_core.errors import ConfigError
from perturbfm_core.parsing import check_table
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.screening.fitted_run import FittedRun
from perturbfm_core.splits.control_cells import ControlCells
from perturbfm_core.splits.view import Query

# (column, command line option) -> the only value that train leaves as a choice.
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
    """One condition that a user wants predicted; None stands for the only value that train has."""

    perturbation: str
    context: str
    modality: str | None = None
    doses: str | None = None
    covariates: str | None = None


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests that are resolved against a fitted run, without repetitions.

    Attributes
    ----------
    query
        The conditions with their input controls.
    notes
        Notes for the user on each condition: unknown genes, doses taken from train.
    """

    query: Query
    notes: list[tuple[str, ...]]

    def take(self, at: IntArray) -> Requests:
        """Return the requests at the given positions (int [n])."""
        return Requests(take_query(self.query, at), [self.notes[i] for i in at])


def take_query(query: Query, at: IntArray) -> Query:
    """Return the conditions of a query at the given positions (int [n]), with their controls."""
    control = None if query.control is None else query.control[at]
    return Query(query.conditions.iloc[at], query.genes, control, query.cells)


def resolve_requests(run: FittedRun, requests: Sequence[Request]) -> Requests:
    """Resolve requests against a run: complete their fields and add the input controls of their contexts.

    Raises
    ------
    ConfigError
        If there are no requests, a context or modality is not in the data set, a dose cannot be read, or a
        field is missing that has several values in train.
    DatasetError
        If a perturbation is malformed.
    """
    if not requests:
        msg = "no condition was asked for; give at least one perturbation and context"
        raise ConfigError(msg)
    known, note = _Known.of(run), cache(partial(_unknown_gene, known_genes(run)))
    rows, field_notes = zip(*(_row(run, known, request) for request in requests), strict=True)
    table = pd.DataFrame(list(rows), columns=list(schema.CONDITION_COLUMNS))
    table.index = pd.Index(keys_of(table), name=schema.CONDITION)
    first = ~table.index.duplicated()
    table = table[first]
    notes = [
        (*filter(None, map(note, pert_genes(pert))), *field_notes[i])
        for pert, i in zip(table[schema.PERT_ID], np.flatnonzero(first), strict=True)
    ]
    contexts = table[schema.CONTEXT_ID].tolist()
    # As a run on the split gets them: some models start from single control cells.
    cells = ControlCells.of(run.ds, contexts)
    return Requests(Query(table, run.ds.genes, controls(run, contexts), cells), notes)


def known_genes(run: FittedRun) -> set[str]:
    """Return all known names: measured genes, perturbed genes, genes with features in the model."""
    described = [] if run.process is None else run.process.describable()
    perturbed = distinct_genes(run.ds.conditions[schema.PERT_ID].astype(str))
    return {*(str(g) for g in run.ds.genes), *perturbed, *described}


def controls(run: FittedRun, contexts: Sequence[str]) -> FloatArray | None:
    """Return float32 [C, G], the mean input control of each context in log1p units; None for delta-only data.

    Controls given in the file are averaged over the training conditions of the context.

    Raises
    ------
    ConfigError
        If a context has no control that may be read.
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


@dataclass(frozen=True)
class _Known:
    """What requests are resolved against; found once, since there may be thousands of requests and of names.

    Attributes
    ----------
    contexts, modalities
        Those of the data set.
    plus
        Perturbation ids of the data set with a plus sign in the name of a part.
    controls
        What controls are called.
    choice
        Completes a field that a request leaves out.
    """

    contexts: list[str]
    modalities: list[str]
    plus: list[str]
    controls: set[str]
    choice: Choice

    @classmethod
    def of(cls, run: FittedRun) -> _Known:
        conditions, train = run.ds.conditions, run.view.conditions
        recorded = run.ds.metadata.notes.get("columns")
        imported = recorded if isinstance(recorded, dict) else {}
        return cls(
            contexts=run.ds.contexts,
            modalities=sorted(set(conditions[schema.MODALITY]) | set(train[schema.MODALITY])),
            plus=[p for p in conditions[schema.PERT_ID].astype(str).unique() if part_id("+") in p],
            # As GEARS writes a single gene: "A+ctrl". A measured gene is no control, whatever its name.
            controls=control_names(conditions, imported) - {str(g) for g in run.ds.genes},
            choice=cache(partial(_only_choice, train)),
        )


def _row(run: FittedRun, known: _Known, request: Request) -> tuple[tuple[str, ...], list[str]]:
    """Return (the five fields of the requested condition, notes on what was assumed)."""
    modalities, choice, controls = known.modalities, known.choice, known.controls
    if request.context not in known.contexts:
        raise ConfigError(unknown("context", request.context, known.contexts))
    request = replace(request, perturbation=typed_pert(request.perturbation, known.plus))
    pert, _ = canonical_pert(request.perturbation, control=controls)
    if pert == schema.CONTROL:
        msg = (
            f"perturbation {request.perturbation!r} is the control; its delta is zero, ask for a perturbation"
        )
        raise ConfigError(msg)
    modality = request.modality
    if modality is None or (not modality and "" not in modalities):
        modality = choice(schema.MODALITY, "--modality")
    if modality not in modalities:
        if not any(modalities):
            msg = f"modality {modality!r} is unknown, the data set names none; leave --modality out"
            raise ConfigError(msg)
        raise ConfigError(unknown("modality", modality, [m for m in modalities if m]))
    pert, dose, notes = _doses(run, choice, request, modality, controls)
    covariates = (
        choice(schema.COVARIATES, "--covariates")
        if request.covariates is None
        else _covariates(request.covariates)
    )
    return (request.context, pert, modality, dose, covariates), notes


def _doses(
    run: FittedRun, choice: Choice, request: Request, modality: str, controls: set[str]
) -> tuple[str, str, list[str]]:
    """Return (perturbation, its doses in the notation of the data set, notes).

    A part without a dose gets the most frequent one in train; a part that is one of the `controls` is left out.
    """
    given = request.doses
    if given is None:
        given = choice(schema.DOSES, "--doses")
    notes: list[str] = []
    texts = []
    for piece in split_doses(given):
        text, note = run.doses.written(piece)
        texts.append(text)
        notes.extend([note] if note else [])
    parts = request.perturbation.split(schema.COMBO_SEPARATOR)
    if len(texts) not in (1, len(parts)):
        msg = f"doses {given!r} are {len(texts)} for the {len(parts)} parts of {request.perturbation!r}; give one each, or one for all"
        raise ConfigError(msg)
    pert, dose = canonical_pert(request.perturbation, texts, control=controls)
    names = pert_parts(pert)
    each = split_doses(dose) if dose else [""] * len(names)
    for i, name in enumerate(names):
        usual = "" if each[i] else run.doses.usual(name, modality)
        if usual:
            each[i] = usual
            notes.append(f"no dose of {name!r} was given; {usual}, the most used of train, is taken")
    return *canonical_pert(pert, each), notes


def _only_choice(train: pd.DataFrame, column: str, option: str) -> str:
    """Return the only value that train has in a column; empty if some training condition has none.

    Raises
    ------
    ConfigError
        If train has several values; the message names the option to choose one.
    """
    values = set(train[column].astype(str))
    if column == schema.DOSES:
        values = {v for text in values for v in split_doses(text)}
    if len(values) == 1:
        return str(values.pop())
    if "" in values:
        return ""
    some, name = ", ".join(sorted(values)[:6]), option.removeprefix("--")
    msg = f"train has {len(values)} different {column} ({some}); say which by {option}, or in column {name!r} of a batch"
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
    """Return, for each condition, messages on covariates that do not match train.

    These are covariates and values that train does not have, and covariates that all training conditions have
    but the condition does not.
    """
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


def _unknown_gene(known: set[str], gene: str) -> str:
    """Return a note where a gene is not among the known ones, else nothing."""
    return "" if gene in known else unknown("gene", gene, known)


def unknown(what: str, name: str, known: Sequence[str] | set[str]) -> str:
    """Return the message that a name is unknown, with the most similar known names.

    Parameters
    ----------
    what
        Noun for the message, e.g. "context".
    name
        The unknown name.
    known
        Known names.
    """
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
    """Read requests from a CSV, TSV or parquet file.

    Parameters
    ----------
    path
        File with columns ``perturbation``, ``context`` and, optionally, ``modality``, ``doses``,
        ``covariates``.
    given
        {column: value for all rows}, for columns that the file does not have or has without any value.
    filtered
        Whether the file may have columns of `given`, which it then overrides; otherwise that is an error.

    Raises
    ------
    ConfigError
        If the file cannot be read, lacks a column or value, or has a column that is given as well.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        msg = f"{path} must end in .csv, .tsv or .parquet"
        raise ConfigError(msg)
    if not path.is_file():
        msg = f"{path} does not exist; give a file of conditions"
        raise ConfigError(msg)
    try:
        if suffix == ".parquet":
            table = read_parquet(path, ConfigError)
        else:
            check_table(path)
            # A handle: of a path, pandas takes some for an address of the web.
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = pd.read_csv(
                    file, sep="\t" if suffix == ".tsv" else ",", dtype=str, keep_default_na=False
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
