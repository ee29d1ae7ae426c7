"""Names of the genes of an imported file, and columns that could name them instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.text import decoded
from perturbfm_core.errors import DatasetError


def gene_names(var: pd.DataFrame, gene_col: str | None) -> list[str]:
    """Return the gene ids by the index of var, or by a column of it.

    Raises
    ------
    DatasetError
        If there is no such column, or a gene has no name.
    """
    if gene_col is None:
        return _named_genes(var.index, "gene names")
    if gene_col not in var:
        msg = f"var has no column {gene_col!r}; columns: {', '.join(map(str, var.columns)) or 'none'}"
        raise DatasetError(msg)
    return _named_genes(var[gene_col], f"var column {gene_col!r}")


def _named_genes(values: Any, what: str) -> list[str]:
    missing = np.asarray(pd.isna(np.asarray(values, dtype=object)), dtype=np.bool_)
    names = [g.strip() for g in decoded(values, what)]
    # "NAN" could be a name; these are what programs write for none.
    n = int(missing.sum()) + sum(
        g in ("", "nan", "NaN", "NA", "<NA>", "None") for g in np.asarray(names)[~missing]
    )
    if n:
        msg = f"{what}: {n} of {len(names)} genes have no name; fill them, or leave these genes out"
        raise DatasetError(msg)
    return names


def gene_columns(var: pd.DataFrame, used: str | None) -> dict[str, list[str]]:
    """Return the text columns of var that could name the genes, and its index if a column was used."""
    return {
        str(c): list(var[c].astype(str))
        for c in var.columns
        if str(c) != used and not pd.api.types.is_numeric_dtype(var[c].dtype)
    }
