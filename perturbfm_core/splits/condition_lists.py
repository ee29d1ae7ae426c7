"""Lists of conditions per fold as files hold them: JSON, or a CSV that a spreadsheet may have written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.data.condition import escape
from perturbfm_core.errors import SplitError
from perturbfm_core.parsing import read_json_file, read_text
from perturbfm_core.schema import Fold

# Names of folds in files; a row in no split is unused.
FOLD_NAMES: Mapping[str, Fold] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "calib": "calib",
    "calibration": "calib",
    "test": "test",
    "ood": "test",
    "unused": "unused",
    "none": "unused",
    "nan": "unused",
    "": "unused",
}
# What spreadsheets separate columns by: a comma, in many languages a semicolon, in "Unicode text" a tabulator.
_DELIMITERS = (",", ";", "\t")
_COLUMNS = ("condition", "fold")
# Columns by which other tools tell conditions of one perturbation apart: its context, and what only a condition key says.
_CONTEXTS = ("context", "context_id", "cell_line", "cell_type", "celltype", "cell_context", "tissue")
_OF_KEYS = frozenset(
    {"dose", "doses", "dose_val", "dose_value", "concentration", "time", "timepoint", "time_point"}
    | {"modality", "covariates"}
)
# Separators of the fields of a key.
_BARS = len(schema.CONDITION_COLUMNS) - 1
# GEARS writes a dose of 1 for each gene, which says nothing.
_NO_DOSE = re.compile(r"1(\.0)?(\+1(\.0)?)*")
# What tables are kept in that are no text.
_NO_TEXT = frozenset(
    {".parquet", ".pq", ".feather", ".xlsx", ".xls", ".ods", ".h5", ".h5ad", ".npy", ".npz", ".gz", ".zip"}
)
# Between the name of a table within a JSON file and a fold's: the name may be that of a context.
WITHIN = " > "


def check_folds(names: Iterable[str], where: str) -> None:
    """Refuse names of folds of which two mean one fold here, but two in the tool that wrote them.

    CPA and chemCPA call test what is out of distribution (``ood``), and ``test`` held-out cells of what is trained on.

    Raises
    ------
    SplitError
        If both ``ood`` and ``test`` occur.
    """
    if {"ood", "test"} <= {name.strip().lower() for name in names}:
        msg = (
            f"{where} has both 'ood' and 'test', which would be one test fold; as CPA means them, 'ood' is test and "
            "'test' is validation: rename 'test' to 'val', then 'ood' to 'test' (or what is not tested to 'unused')"
        )
        raise SplitError(msg)


def read_conditions(path: Path) -> dict[str, list[str]]:
    """Read {fold: [conditions]} from JSON, or from a CSV with the columns condition and fold.

    JSON may hold the table within a table of one name, as a file of several settings does. A CSV may begin with a
    byte order mark, and be separated by commas, semicolons or tabulators. With a column of contexts, such as
    ``cell_type``, a condition is ``CONTEXT|PERTURBATION``. Folds within a table of a name are called ``NAME > FOLD``.

    Raises
    ------
    SplitError
        If the file cannot be read or has another form.
    """
    if path.suffix.lower() == ".json":
        return _from_json(path)
    if path.suffix.lower() == ".toml":
        msg = (
            f"{path} is TOML, as STATE and cell-load take it: give the contexts of [zeroshot] by --spec context_ood "
            "--holdout-context NAME, and the lists of [fewshot] as JSON {'test': ['CONTEXT|PERTURBATION', ...]}"
        )
        raise SplitError(msg)
    lines = read_lines(path, len(_COLUMNS))
    header = [cell.lower() for cell in lines[0]] if lines else []
    if not set(_COLUMNS) <= set(header):
        found = f"found {', '.join(lines[0])[:120]!r}" if lines else "found no line"
        msg = f"{path} must be JSON (.json) or a CSV with the columns condition and fold in its first line, {found}"
        raise SplitError(msg)
    at = [header.index(name) for name in _COLUMNS]
    spelled = [name.replace(" ", "_").replace("-", "_") for name in header]
    context = next((spelled.index(name) for name in _CONTEXTS if name in spelled), None)
    if context is not None and not any(line[context] for line in lines[1:] if len(line) > context):
        context = None
    of_keys = [i for i, name in enumerate(spelled) if name in _OF_KEYS]
    out: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) <= max(at):
            msg = f"{path}, line {number} has {len(line)} columns, the first has {len(header)}"
            raise SplitError(msg)
        name, fold = (line[i] for i in at)
        if not name or not fold:
            msg = f"{path}, line {number} names no {'condition' if not name else 'fold'}; fill it or remove the line"
            raise SplitError(msg)
        if name.count("|") < _BARS:
            _check_no_key(path, number, line, {header[i]: i for i in of_keys})
            if context is not None and "|" not in name:
                if not "".join(line[context : context + 1]):
                    msg = (
                        f"{path}, line {number} names no {header[context]}; fill it, or leave that column out"
                    )
                    raise SplitError(msg)
                name = f"{escape(line[context])}|{name}"
        out.setdefault(fold, []).append(name)
    return out


def _check_no_key(path: Path, number: int, line: list[str], columns: Mapping[str, int]) -> None:
    """Refuse a line that names a dose, time or the like beside a perturbation, which would stand for all of them."""
    for name, i in columns.items():
        value = line[i] if i < len(line) else ""
        if value and not (name.startswith("dose") and _NO_DOSE.fullmatch(value)):
            msg = (
                f"{path}, line {number} names {name} {value!r}, which only condition keys tell apart: give keys "
                "(CONTEXT|PERTURBATION|MODALITY|DOSES|COVARIATES) as condition, or leave that column out to list all"
            )
            raise SplitError(msg)


def _from_json(path: Path) -> dict[str, list[str]]:
    loaded = read_json_file(path, SplitError)
    if isinstance(loaded, dict) and len(loaded) == 1:
        ((outer, inner),) = loaded.items()
        if _are_lists(inner):
            return {f"{outer}{WITHIN}{fold}": list(names) for fold, names in inner.items()}
    if not _are_lists(loaded):
        msg = f"{path} must hold {{fold: [conditions]}}"
        if isinstance(loaded, dict) and (number := _first_number(loaded)) is not None:
            msg += (
                f', with names as text, found the number {number}: write "{number}" if it is a name; rows by their '
                "positions are imported by `perturbfm splits import-perturbench`"
            )
        raise SplitError(msg)
    return {name: list(v) for name, v in loaded.items()}


def _first_number(folds: Mapping[str, Any]) -> int | None:
    """Return the first number that a fold lists, None if there is none."""
    listed = (x for names in folds.values() if isinstance(names, list) for x in names)
    return next((x for x in listed if isinstance(x, int) and not isinstance(x, bool)), None)


def _are_lists(value: Any) -> bool:
    return isinstance(value, dict) and all(_are_names(v) for v in value.values())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def read_lines(path: Path, columns: int) -> list[list[str]]:
    """Return the lines of a CSV as lists of cells without outer spaces; empty lines are left out.

    Parameters
    ----------
    path
        The file.
    columns
        How many columns are expected; the separator of which the first line has so many is taken.

    Raises
    ------
    SplitError
        If the file cannot be read or is no CSV.
    """
    if path.suffix.lower() in (".pkl", ".pickle"):
        msg = (
            f"{path} is a pickle, which is never loaded, since it can run any code; if you trust it, write it as JSON "
            "yourself in Python: json.dump(pickle.load(open('FILE.pkl', 'rb')), open('FILE.json', 'w'), default=list)"
        )
        raise SplitError(msg)
    if path.suffix.lower() in _NO_TEXT:
        msg = f"{path} is a {path.suffix.lower()} file; write its table as CSV (pandas: to_csv) or as JSON"
        raise SplitError(msg)
    text = read_text(path, SplitError)
    if "\0" in text:
        msg = f"{path} is no CSV: it holds NUL; save it as text"
        raise SplitError(msg)
    if named := re.match(r"sep=([,;\t])\r?\n", text):
        # Excel is given the separator so.
        text = text[named.end() :]
    first = next((line for line in text.splitlines() if line.strip()), "")
    counts = {d: first.count(d) + 1 for d in _DELIMITERS}
    delimiter = next((d for d in _DELIMITERS if counts[d] == columns), max(counts, key=lambda d: counts[d]))
    try:
        # Lines are left to the CSV reader: a quoted cell may hold one, and other characters end a line of text only.
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        msg = f"{path} cannot be read as CSV ({error})"
        raise SplitError(msg) from error
    cells = [[cell.strip() for cell in row] for row in rows]
    return [row for row in cells if any(row)]
