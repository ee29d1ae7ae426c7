"""Names of the genes of an imported file, and columns that could name them instead."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.imports.report import ImportReport, examples
from perturbfm_core.data.text import column_text
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray

# What programs write for no name; "NAN" could be one.
_NO_NAME = frozenset({"", "nan", "NaN", "NA", "<NA>", "None"})


def gene_names(var: pd.DataFrame, gene_col: str | None, report: ImportReport, what: str = "var") -> list[str]:
    """Return the gene ids by the index of var, or by a column of it.

    Parameters
    ----------
    var
        Column table of the file.
    gene_col
        The column, None for the index. Genes whose name in it is missing, or that of several, keep their index.
    report
        Report of the import, which is given how many these are.
    what
        Name of the table for messages: ``raw.var`` is another one than ``var``.

    Raises
    ------
    DatasetError
        If there is no such column, or a gene has no name.
    """
    if gene_col is None:
        names = _named_genes(var.index, "gene names")
        twice = sorted(name for name, n in Counter(names).items() if n > 1)
        if twice:
            apart = [str(c) for c in var.columns if var[c].astype(str).is_unique]
            first = "" if what == "var" else "adata = adata.raw.to_adata(); "
            msg = (
                f"{len(twice)} duplicate gene ids, e.g. {twice[:3]}; name a {what} column in which genes have names of their own "
                f"by --gene-col ({', '.join(apart) or 'none has'}), or make them unique, e.g. by "
                f"{first}adata.var_names_make_unique()"
            )
            raise DatasetError(msg)
        return names
    if gene_col not in var:
        msg = f"{what} has no column {gene_col!r}; columns: {', '.join(map(str, var.columns)) or 'none'}"
        raise DatasetError(msg)
    named = indexed_where_ambiguous(var, gene_col)
    if named is None:
        return _named_genes(var[gene_col], f"{what} column {gene_col!r}")
    names, changed = named
    if changed.any():
        report.warnings.append(
            f"{int(changed.sum())} of {len(names)} genes have no name of their own in {what} column {gene_col!r} and are called by "
            f"the index of {what} ({examples(names[changed])})"
        )
    return _named_genes(names, f"{what} column {gene_col!r}")


def indexed_where_ambiguous(var: pd.DataFrame, column: str) -> tuple[pd.Series, BoolArray] | None:
    """Return (names [G] by a column, bool [G] that are of the index instead), None if that names no gene apart.

    A missing name, or one that several genes have, is ambiguous: these genes are named by the index, such as by their
    Ensembl ids. A column of which more than half is ambiguous holds no names.
    """
    values = var[column]
    if pd.api.types.is_numeric_dtype(values.dtype):
        return None
    values = values.astype(object)
    text = values.astype(str).str.strip()
    missing = values.isna() | text.isin(_NO_NAME)
    changed = np.asarray(missing | text.duplicated(keep=False), dtype=np.bool_)
    if not changed.any():
        return var[column], changed
    names = values.where(~changed, var.index.astype(str))
    final = names.astype(str).str.strip()
    # A row number is no name.
    numbered = bool(final[changed].str.isdigit().any())
    if numbered or 2 * changed.sum() > len(names) or final.duplicated().any() or final.isin(_NO_NAME).any():
        return None
    return names, changed


def _named_genes(values: Any, what: str) -> list[str]:
    missing = np.asarray(pd.isna(np.asarray(values, dtype=object)), dtype=np.bool_)
    # As text a number has no decimal point: Entrez ids are numbers with one where a gene lacks its id.
    names = list(column_text(pd.Series(values)[~missing], what))
    n = int(missing.sum()) + sum(g in _NO_NAME for g in names)
    if n:
        msg = f"{what}: {n} of {len(missing)} genes have no name; fill them, or leave these genes out"
        raise DatasetError(msg)
    return names


def gene_columns(var: pd.DataFrame, used: str | None) -> dict[str, list[str]]:
    """Return the text columns of var that could name the genes, and its index if a column was used."""
    return {
        str(c): list(var[c].astype(str))
        for c in var.columns
        if str(c) != used and not pd.api.types.is_numeric_dtype(var[c].dtype)
    }
