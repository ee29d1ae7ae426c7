"""Readers for published tables of edges (interactions) and of terms (gene sets)."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import pandas as pd

from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.text_files import leading
from perturbfm_core.parsing import open_regular
from perturbfm_core.schema import FloatArray, StrArray

SOURCE_COLUMNS = (
    *("source", "tf", "regulator", "gene1", "gene_a", "protein1", "symbol1", "from", "node1"),
    *("gene_1", "protein_1", "protein_a", "source_gene", "tf_name"),
)
TARGET_COLUMNS = (
    *("target", "gene2", "gene_b", "protein2", "symbol2", "to", "node2"),
    *("gene_2", "protein_2", "protein_b", "target_gene", "target_name"),
)
# Columns of regulators, beside which a column of genes is that of targets unless they say yes or no.
_REGULATORS = ("tf", "regulator", "tf_name")
_TRUTH = frozenset({"", "0", "1", "yes", "no", "true", "false", "y", "n", "t", "f", "nan", "na"})
TERM_COLUMNS = ("term_id", "term", "pathway", "go_id", "gene_set")
GENE_COLUMNS = (
    *(
        "gene",
        "symbol",
        "gene_symbol",
        "gene_name",
        "gene_id",
        "genes",
        "symbols",
        "gene_symbols",
        "gene_names",
    ),
    *("gene_ids", "hgnc_symbol", "ensembl_id", "ensembl_gene_id", "gene_stable_id", "ensembl"),
)
# How the row names of a data frame are called in a file, in the spelling of `column_word`.
ROW_NAMES = ("index", "__index_level_0__", "", "unnamed:_0")
_HEADER_WORDS = {*SOURCE_COLUMNS, *TARGET_COLUMNS, *TERM_COLUMNS, *GENE_COLUMNS, "index"}
# Characters; the largest set of genes has a tenth of it.
_LONGEST_LINE = 1 << 22
_DELIMITED = (".csv", ".tsv", ".txt")
_TOO_MANY = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of edges or terms: parquet, csv, tsv or txt (also .gz), or a GMT file of terms.

    A GMT line (term, description, genes) becomes one row (``term``, ``gene``) per gene. Columns of a table
    without a header line are numbered.

    Raises
    ------
    GraphError
        If the file is missing, of another kind, or cannot be read.
    """
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    try:
        if kind == [".parquet"] and not packed:
            return read_parquet(path, GraphError)
        open_regular(path, GraphError).close()
        with _opened(path, packed) as handle:
            head = handle.readline(_LONGEST_LINE)
            if len(head) == _LONGEST_LINE or "\0" in head:
                msg = f"{path} is no table: its first line is not one of text; fetch it again"
                raise GraphError(msg)
            if kind == [".gmt"]:
                return _gmt(chain([head], handle))
            skipped, head = leading(chain([head], handle), "#")
        if kind and kind[0] in _DELIMITED:
            # Opened anew: given a path, pandas would take some for an address of the web.
            with _opened(path, packed) as handle:
                return _delimited(handle, head, skipped, kind[0])
    except pd.errors.ParserError as error:
        uneven = _TOO_MANY.search(str(error))
        if uneven is None:
            msg = f"{path} cannot be read ({' '.join(str(error).split())[:120]})"
        else:
            width, line, saw = uneven.groups()
            msg = (
                f"{path} cannot be read: line {int(line)} has {saw} cells, those before it {width}; a table has as many in each line, and "
                "its columns' names in the first"
            )
        raise GraphError(msg) from error
    except (OSError, ValueError, EOFError, zlib.error, OverflowError, csv.Error) as error:
        msg = f"{path} cannot be read ({' '.join(str(error).split())[:120]})"
        raise GraphError(msg) from error
    msg = f"{path} is no table that can be read; known: .parquet, .gmt, {', '.join(_DELIMITED)} (but parquet also as .gz)"
    raise GraphError(msg)


def _gmt(lines: Iterable[str]) -> pd.DataFrame:
    terms: list[str] = []
    genes: list[str] = []
    for line in lines:
        if line.startswith("#"):
            continue
        term, *rest = line.rstrip("\r\n").split("\t")
        # Some files have a weight after the gene: "TP53,1.0".
        found = [g.split(",")[0].strip() for g in rest[1:]]
        found = [g for g in found if g]
        genes += found
        terms += [term] * len(found)
    return pd.DataFrame({"term": terms, "gene": genes})


def _opened(path: Path, packed: bool) -> TextIO:
    if packed:
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _delimited(handle: TextIO, head: str, skipped: int, kind: str) -> pd.DataFrame:
    delimiter = _delimiter(head, kind)
    words = [w.strip().lstrip("#") for w in next(csv.reader([head], delimiter=delimiter), [])]
    plain = [column_word(w) for w in words]
    # pandas writes row names below an empty cell of the header.
    named = bool(set(plain) & _HEADER_WORDS) or (len(plain) > 1 and plain[0] in ROW_NAMES)
    # A gene may be called NA, so no text is read as a missing value.
    table = pd.read_csv(
        handle, sep=delimiter, header=0 if named else None, skiprows=skipped, keep_default_na=False
    )
    if delimiter == ";":
        for column in table.select_dtypes(exclude="number"):
            if all(_DECIMAL_COMMA.fullmatch(str(cell).strip()) for cell in table[column]):
                table[column] = pd.to_numeric(table[column].str.replace(",", "."))
    if named:
        table.columns = pd.Index(words)
    return table


def _delimiter(head: str, kind: str) -> str:
    """Return what parts the cells of a first line: programs write `;` where a comma is that of decimal numbers."""
    if "\t" in head or kind == ".tsv":
        return "\t"
    if ";" in head and head.count(";") >= head.count(","):
        return ";"
    return "," if "," in head or kind == ".csv" else " "


def column_word(name: object) -> str:
    """Return the name of a column in the spelling of the known names: lower case, with underscores for blanks."""
    return "_".join(str(name).strip().strip('"').lstrip("#").lower().split())


def find_column(table: pd.DataFrame, known: tuple[str, ...]) -> Any:
    """Return the first column with one of the known names, in upper or lower case; None if there is none."""
    lower = {column_word(c): c for c in table.columns}
    return next((table[lower[k]] for k in known if k in lower), None)


def id_column(table: pd.DataFrame, known: tuple[str, ...], what: str, position: int) -> Any:
    """Return a column of ids by its known names, or by position in a table without a header.

    Parameters
    ----------
    table
        The table.
    known
        Names that the column may have, in order of preference.
    what
        Plural noun for the message, e.g. "genes".
    position
        Index of the column in a table without a header.

    Raises
    ------
    GraphError
        If there is no such column; the message lists the columns.
    """
    found = find_column(table, known)
    if found is None and list(table.columns) == list(range(table.shape[1])) and position < table.shape[1]:
        found = table[position]
    if found is None:
        msg = (
            f"the table has no column of {what}; it has {[str(c) for c in table.columns][:8]}, "
            f"known names: {', '.join(known)}"
        )
        raise GraphError(msg)
    return found


def numbers(values: Any, what: str) -> FloatArray:
    """Return a column as float64 [rows]; `what` is its name for the message.

    Raises
    ------
    GraphError
        If a value is not a finite number; the message gives the first one.
    """
    out = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(out))
    if len(bad):
        msg = f"column {what!r} holds {str(values.to_numpy()[int(bad[0])])!r}, which is no number"
        raise GraphError(msg)
    return np.asarray(out)


def gene_names(ids: Any, names: dict[str, str] | None = None) -> StrArray:
    """Return ids as an array of names, translated by `names` ({id: name}) where that has them.

    Raises
    ------
    GraphError
        If an id is missing or blank.
    """
    codes, distinct = pd.factorize(ids)
    known = names or {}
    plain = [str(d).strip() for d in distinct]
    blank = np.asarray([not d for d in plain] + [True])[codes]
    if blank.any():
        msg = f"{int(blank.sum())} rows of the table name no gene; remove them"
        raise GraphError(msg)
    out: StrArray = np.asarray([known.get(d, d) for d in plain], dtype=np.str_)[codes]
    return out


def read_names(path: Path) -> dict[str, str]:
    """Read {id: name} from the first two columns of a table, such as STRING's ``protein.info``.

    Raises
    ------
    GraphError
        If the file cannot be read or has one column.
    """
    table = read_table(path)
    if table.shape[1] < 2:
        msg = f"{path} has one column; a table of names needs two (id, name)"
        raise GraphError(msg)
    ids, names = (table.iloc[:, i].astype(str).str.strip() for i in (0, 1))
    return dict(zip(ids, names, strict=True))


def ends_of(table: pd.DataFrame) -> tuple[Any, Any]:
    """Return the columns of the two ends of edges, by their names or the first two of a table without a header.

    Raises
    ------
    GraphError
        If there are no such columns.
    """
    source = id_column(table, SOURCE_COLUMNS, "sources", 0)
    if find_column(table, TARGET_COLUMNS) is None and has_regulators(table):
        return source, find_column(table, GENE_COLUMNS)
    return source, id_column(table, TARGET_COLUMNS, "targets", 1)


def has_regulators(table: pd.DataFrame) -> bool:
    """Return whether a table names regulators beside genes, which are their targets; a column of yes and no names none."""
    found = find_column(table, _REGULATORS)
    if found is None or find_column(table, GENE_COLUMNS) is None or pd.api.types.is_numeric_dtype(found):
        return False
    return not {str(x).strip().lower() for x in found.unique()} <= _TRUTH
