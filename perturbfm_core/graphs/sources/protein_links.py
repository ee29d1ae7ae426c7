"""Protein interactions of STRING: links of at least one confidence, with proteins named by their genes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.identifiers import ENSEMBL, ORGANISMS, kind_of, without_version
from perturbfm_core.graphs.sources.text_files import first_line, leading, opened
from perturbfm_core.graphs.tables import (
    SOURCE_COLUMNS,
    TARGET_COLUMNS,
    column_word,
    find_column,
    id_column,
    numbers,
    read_table,
)

_ROWS = 1_000_000
_MAX_SCORE = 1000
_SCORE = "combined_score"
_PROTEIN = re.compile(r"(\d+)\.\S+")
_VERSION = re.compile(r"\.v(\d+(?:\.\d+)*)")
# Sources of an alias that give the symbol of a gene, the best first.
_SYMBOL_SOURCES = ("Ensembl_HGNC_symbol", "Ensembl_MGI_symbol", "BioMart_HUGO", "UniProt_GN_Name")
_SHOWN = 3


def read_links(path: Path, organism: str, min_score: float) -> pd.DataFrame:
    """Return the links (``source``, ``target``, ``combined_score`` of 1000) of at least a score.

    Parameters
    ----------
    path
        STRING's ``protein.links`` (also detailed or physical), or any table of two genes and a score.
    organism
        Organism that the proteins must be of.
    min_score
        Least score, of 1000.

    Raises
    ------
    GraphError
        If the file cannot be read, lacks a column, is of another organism, or has no link of that score.
    """
    if not 0 <= min_score < _MAX_SCORE:
        msg = f"--min-score {min_score:g} must be from 0 to below {_MAX_SCORE} (400 medium, 700 high, 900 highest)"
        raise GraphError(msg)
    if path.suffix == ".parquet":
        table, total, top = _chosen(read_table(path), path, min_score)
    else:
        sep = "\t" if "\t" in first_line(path) else " "
        parts, total, top = [], 0, 0.0
        with opened(path) as handle:
            for block in pd.read_csv(handle, sep=sep, chunksize=_ROWS, keep_default_na=False):
                part, n, highest = _chosen(block, path, min_score)
                parts.append(part)
                total, top = total + n, max(top, highest)
        table = pd.concat(parts, ignore_index=True)
    if top > _MAX_SCORE or 0 < top <= 1:
        msg = f"{path}: scores go up to {top:g}, those of STRING to {_MAX_SCORE}; register the file with `perturbfm knowledge add file`"
        raise GraphError(msg)
    if table.empty:
        msg = f"{path} has no link of score {min_score:g} or more among {total} (highest {top:g}); lower --min-score"
        raise GraphError(msg)
    _check_organism(table, path, organism)
    return table


def version_of(path: Path) -> str:
    """Return the version that STRING writes into the names of its files, "" without one."""
    found = _VERSION.search(path.name)
    return "" if found is None else found[1]


def _chosen(block: pd.DataFrame, path: Path, min_score: float) -> tuple[pd.DataFrame, int, float]:
    """Return (links of at least a score, number of all links, highest score)."""
    found = find_column(block, (_SCORE,))
    if found is None:
        msg = f"{path} has no column {_SCORE}; it has {[str(c) for c in block.columns][:6]}; give STRING's protein.links"
        raise GraphError(msg)
    try:
        score = numbers(found, _SCORE)
        source, target = (
            id_column(block, known, what, at)
            for known, what, at in ((SOURCE_COLUMNS, "sources", 0), (TARGET_COLUMNS, "targets", 1))
        )
    except GraphError as error:
        msg = f"{path}: {error}; the file is cut off or another one"
        raise GraphError(msg) from error
    keep = score >= min_score
    out = pd.DataFrame(
        {"source": source[keep].astype(str), "target": target[keep].astype(str), _SCORE: score[keep]}
    )
    return out, len(score), float(score.max()) if len(score) else 0.0


def _check_organism(table: pd.DataFrame, path: Path, organism: str) -> None:
    taxa = {m[1] if (m := _PROTEIN.fullmatch(p)) else "" for p in table["source"].unique()[:_ROWS]}
    other = sorted(taxa - {ORGANISMS[organism][0], ""})
    if other:
        name = next((o for o, (n, *_) in ORGANISMS.items() if n == other[0]), "another organism")
        msg = (
            f"{path} holds proteins of taxon {other[0]} ({name}), asked for is {organism} ({ORGANISMS[organism][0]}); give "
            f"the file of {organism}" + (f", or --organism {name}" if name in ORGANISMS else "")
        )
        raise GraphError(msg)


def needs_names(table: pd.DataFrame) -> bool:
    """Return whether links name proteins, which have to be translated to genes."""
    return any(_PROTEIN.fullmatch(p) for p in table["source"].head(100))


def read_protein_names(path: Path, ids: str) -> dict[str, str]:
    """Return {protein: gene} of STRING's ``protein.info`` or ``protein.aliases``, or of any table (id, name).

    Parameters
    ----------
    path
        The file.
    ids
        Kind of gene names that is wanted: `SYMBOLS` or `ENSEMBL`, which aliases have alone.

    Raises
    ------
    GraphError
        If the file cannot be read, has one column, or has no such name.
    """
    table = _name_table(path)
    columns = [column_word(c) for c in table.columns]
    protein, name = (table.iloc[:, i].astype(str).str.strip() for i in (0, 1))
    if "alias" in columns:
        source = table.iloc[:, columns.index("source")] if "source" in columns else pd.Series("", table.index)
        rank = _ranks(name, source, ids)
    else:
        rank = pd.Series(0, table.index) if kind_of(name) == ids else pd.Series(-1, table.index)
    chosen = pd.DataFrame({"protein": protein, "name": name, "rank": rank})[(rank >= 0) & (name != "")]
    if chosen.empty:
        msg = f"{path} has no {ids}; give STRING's protein.aliases with --names" + (
            "" if ids == ENSEMBL else ", or protein.info"
        )
        raise GraphError(msg)
    chosen = chosen.sort_values(["protein", "rank", "name"], kind="stable").drop_duplicates("protein")
    return dict(zip(chosen["protein"], chosen["name"].map(without_version), strict=True))


def _name_table(path: Path) -> pd.DataFrame:
    """Return a table of names as text, separated by tabs, commas or blanks, with or without a header."""
    if path.suffix == ".parquet":
        table = read_table(path)
    else:
        with opened(path) as handle:
            # Comments are left to STRING's own headers, which begin with "#".
            skipped, line = leading(handle)
        sep = next((c for c in "\t, " if c in line), "\t")
        first = line.split(sep)[0].strip().strip('"')
        with opened(path) as handle:
            table = pd.read_csv(
                handle,
                sep=sep,
                header=None if _PROTEIN.fullmatch(first) else 0,
                skiprows=skipped,
                dtype=str,
                keep_default_na=False,
                # STRING's annotations hold quotes that are never closed.
                quoting=csv.QUOTE_MINIMAL if sep == "," else csv.QUOTE_NONE,
            )
    if table.shape[1] < 2:
        msg = f"{path} has one column, separated by tabs or commas; a table of names needs two (id, name)"
        raise GraphError(msg)
    return table


def _ranks(alias: pd.Series[str], source: pd.Series[str], ids: str) -> pd.Series[int]:
    """Return the rank of each alias as a name of the wanted kind, 0 the best, -1 for none."""
    if ids == ENSEMBL:
        is_gene = alias.str.fullmatch(r"ENS[A-Z]{0,6}G\d{6,}(\.\d+)?")
        return pd.Series(np.where(is_gene, 0, -1), alias.index)
    order = {s: i for i, s in enumerate(_SYMBOL_SOURCES)}
    # Older files have several sources in one field.
    return source.map(lambda s: min((order[w] for w in str(s).split() if w in order), default=-1))


def named(table: pd.DataFrame, names: dict[str, str], links: Path, file: Path) -> tuple[pd.DataFrame, int]:
    """Return links between genes, and how many proteins have no name and are left out.

    Parameters
    ----------
    table
        The links.
    names
        {protein: gene}.
    links, file
        The files of both, for messages.

    Raises
    ------
    GraphError
        If no link has two named proteins.
    """
    source, target = table["source"].map(names), table["target"].map(names)
    known = (source.notna() & target.notna()).to_numpy()
    proteins = set(table["source"]) | set(table["target"])
    lost = sorted(proteins - names.keys())
    if not known.any():
        msg = (
            f"{file} names none of the {len(proteins)} proteins of {links} (e.g. {', '.join(lost[:_SHOWN])}); give the file "
            "of the same organism and version"
        )
        raise GraphError(msg)
    out = pd.DataFrame({"source": source[known], "target": target[known], _SCORE: table[_SCORE][known]})
    return out, len(lost)
