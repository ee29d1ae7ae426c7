"""Gene sets of pathways: GMT, the mapping files of Reactome, and any table of terms and genes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.identifiers import ORGANISMS
from perturbfm_core.graphs.sources.text_files import leading, opened, read_columns
from perturbfm_core.graphs.tables import (
    GENE_COLUMNS,
    TERM_COLUMNS,
    column_word,
    find_column,
    id_column,
    read_table,
)

_PATHWAY = re.compile(r"R-([A-Z]{3})-\d+")
_MAPPING = {0: "gene", 1: "term", 5: "species"}
# Of the complete mapping files: the id of the physical entity and its name come in between.
_ENTITY_MAPPING = {0: "gene", 3: "term", 7: "species"}


def read_gene_sets(path: Path, organism: str) -> pd.DataFrame:
    """Return gene sets as one row (``term``, ``gene``) per membership.

    Parameters
    ----------
    path
        A GMT file (also zip), a mapping file of Reactome (``Ensembl2Reactome_All_Levels.txt``), or a table with
        columns of terms and genes.
    organism
        Organism whose sets are kept of a file that names several.

    Raises
    ------
    GraphError
        If it cannot be read, is none of these, or holds no set of the organism.
    """
    if path.suffix == ".parquet":
        return _from_table(read_table(path), path)
    with opened(path) as handle:
        skipped, line = leading(handle, "#")
    cells = line.split("\t")
    for columns in (_MAPPING, _ENTITY_MAPPING):
        # The address of the pathway follows its id, which tells the form from GMT.
        at = list(columns)[1]
        if len(cells) == max(columns) + 1 and _PATHWAY.fullmatch(cells[at]) and "://" in cells[at + 1]:
            return _from_mapping(path, columns, organism)
    words = {column_word(w) for w in re.split(r"[\t,]", line)}
    if words & set(TERM_COLUMNS) and words & set(GENE_COLUMNS):
        with opened(path) as handle:
            sep = "\t" if "\t" in line else ","
            table = pd.read_csv(handle, sep=sep, skiprows=skipped, dtype=str, keep_default_na=False)
        return _from_table(table, path)
    if len(cells) < 3:
        msg = (
            f"{path} holds no gene sets: its first line has {len(cells)} cells separated by tabs; known are GMT (set, "
            "description, genes), Reactome's mapping files, and tables with the columns term and gene"
        )
        raise GraphError(msg)
    return _from_gmt(path, organism)


def _from_table(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    try:
        term = id_column(table, TERM_COLUMNS, "terms", 0)
        gene = id_column(table, GENE_COLUMNS, "genes", 1)
    except GraphError as error:
        msg = f"{path}: {error}"
        raise GraphError(msg) from error
    return pd.DataFrame({"term": term.astype(str), "gene": gene.astype(str)})


def _from_mapping(path: Path, columns: dict[int, str], organism: str) -> pd.DataFrame:
    table = read_columns(path, columns)
    latin = ORGANISMS[organism][1]
    own = table["species"].str.strip() == latin
    if not own.any():
        found = ", ".join(sorted(table["species"].unique())[:3])
        msg = f"{path} has no pathway of {latin}; it has {found}; give the file of {organism}"
        raise GraphError(msg)
    return table.loc[own, ["term", "gene"]].reset_index(drop=True)


def _from_gmt(path: Path, organism: str) -> pd.DataFrame:
    terms: list[str] = []
    genes: list[str] = []
    codes: set[str] = set()
    with opened(path) as handle:
        for i, line in enumerate(handle, 1):
            if not line.strip() or line.startswith("#"):
                continue
            term, *rest = line.rstrip("\r\n").split("\t")
            # Some files have a weight after the gene: "TP53,1.0".
            found = [g for g in (cell.split(",")[0].strip() for cell in rest[1:]) if g]
            if not term or not found:
                msg = f"{path}: line {i} names {'no set' if not term else 'no gene'}; the file is cut off or no GMT"
                raise GraphError(msg)
            for cell in (term, rest[0]):
                if (code := _PATHWAY.fullmatch(cell)) is not None:
                    codes.add(code[1])
            genes += found
            terms += [term] * len(found)
    _check_codes(codes, path, organism)
    return pd.DataFrame({"term": terms, "gene": genes})


def _check_codes(codes: set[str], path: Path, organism: str) -> None:
    if codes and ORGANISMS[organism][2] not in codes:
        msg = (
            f"{path} holds pathways of {', '.join(sorted(codes))}, asked for is {organism} ({ORGANISMS[organism][2]}); give "
            f"the file of {organism}"
        )
        raise GraphError(msg)


def of_genes(
    table: pd.DataFrame, names: dict[str, str] | None, own: Callable[[str], bool], path: Path
) -> tuple[pd.DataFrame, int]:
    """Return memberships of genes by their names, and how many distinct ids are left out.

    Parameters
    ----------
    table
        One row (``term``, ``gene``) per membership.
    names
        {id: name} to translate by; ids that it lacks are left out. None to take the ids as they are.
    own
        Whether an id that is taken as it is names a gene.
    path
        The file in messages.

    Raises
    ------
    GraphError
        If nothing is left.
    """
    found = table["gene"].map(names) if names is not None else table["gene"].where(table["gene"].map(own))
    out = pd.DataFrame({"term": table["term"], "gene": found})[found.notna()]
    if out.empty:
        why = "the table of names has none of its ids" if names is not None else "none of its ids is a gene's"
        msg = f"{path}: {why} (e.g. {str(table['gene'].iloc[0])!r}); give a table of (id, gene) with --names"
        raise GraphError(msg)
    lost = table.loc[found.isna(), "gene"].nunique()
    return out.reset_index(drop=True), int(lost)


def has_terms(table: pd.DataFrame) -> bool:
    """Return whether a table has columns of terms and genes."""
    return find_column(table, TERM_COLUMNS) is not None and find_column(table, GENE_COLUMNS) is not None
