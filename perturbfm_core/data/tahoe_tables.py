"""Tables beside the shards of Tahoe-100M: genes by token, treatments by sample, names of cell lines."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import IntArray

GENES_FILE: Final = "gene_metadata.parquet"
SAMPLES_FILE: Final = "sample_metadata.parquet"
LINES_FILE: Final = "cell_line_metadata.parquet"
# Column with name, concentration and unit of what a sample was treated with: [('Drug', 0.05, 'uM')].
_TREATMENT: Final = "drugname_drugconc"


def _found(path: Path, name: str) -> Path | None:
    """Return a table of the repository beside a shard or a folder of shards, None if it is not there."""
    folder = path.parent if path.is_file() else path
    places = (folder, folder / "metadata", folder.parent / "metadata", folder.parent)
    return next((p / name for p in places if (p / name).is_file()), None)


def _beside(path: Path, name: str) -> Path:
    found = _found(path, name)
    if found is None:
        msg = f"{name} is not beside {path}, nor in a folder metadata/ there; download it from the repository of the shards"
        raise DatasetError(msg)
    return found


@dataclass(frozen=True)
class TokenGenes:
    """Genes in the order of their tokens, and the tokens, ascending."""

    table: pd.DataFrame
    token: IntArray


def genes_by_token(path: Path) -> TokenGenes:
    """Return the genes of the table beside a shard or a folder of shards.

    Raises
    ------
    DatasetError
        If it is not there, is damaged, or a token stands for several genes.
    """
    path = _beside(path, GENES_FILE)
    table = _with_columns(read_parquet(path), ("token_id", "ensembl_id", "gene_symbol"), path)
    table = table.sort_values("token_id")
    token = table["token_id"].to_numpy(dtype=np.int64)
    if (np.diff(token) == 0).any():
        msg = f"{path}: token_id {int(token[1:][np.diff(token) == 0][0])} stands for several genes; download it again"
        raise DatasetError(msg)
    names = pd.Index(table["ensembl_id"].astype(str).to_numpy(dtype=object))
    symbols = table["gene_symbol"].astype(str).to_numpy(dtype=object)
    return TokenGenes(pd.DataFrame({"gene_symbol": symbols}, index=names), token)


def treatments(path: Path) -> pd.DataFrame:
    """Return dose and unit by sample, of the table beside a shard or a folder of shards.

    Raises
    ------
    DatasetError
        If it is not there, is damaged, or a sample was treated with several drugs.
    """
    path = _beside(path, SAMPLES_FILE)
    table = _with_columns(read_parquet(path), ("sample", _TREATMENT), path).drop_duplicates("sample")
    read = [_treatment(text, path) for text in table[_TREATMENT].astype(str)]
    return pd.DataFrame(read, columns=["dose", "dose_unit"], index=table["sample"].astype(str).to_numpy())


def _treatment(text: str, path: Path) -> tuple[float, str]:
    try:
        ((_, dose, unit),) = ast.literal_eval(text)
        return float(dose), str(unit)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        msg = f"{path}: {_TREATMENT} {text[:80]!r} is not one drug with dose and unit, such as [('Drug', 0.05, 'uM')]"
        raise DatasetError(msg) from error


def line_names(path: Path) -> dict[str, str]:
    """Return {Cellosaurus id: name} of the cell lines, {} where their table is not there or has other columns."""
    found = _found(path, LINES_FILE)
    if found is None:
        return {}
    table = read_parquet(found)
    if not {"Cell_ID_Cellosaur", "cell_name"} <= set(table.columns):
        return {}
    known = table.dropna(subset=["Cell_ID_Cellosaur", "cell_name"])
    return dict(zip(known["Cell_ID_Cellosaur"].astype(str), known["cell_name"].astype(str), strict=True))


def _with_columns(table: pd.DataFrame, names: tuple[str, ...], path: Path) -> pd.DataFrame:
    if missing := [n for n in names if n not in table]:
        msg = f"{path} lacks {', '.join(missing)}; columns: {', '.join(map(str, table.columns))}"
        raise DatasetError(msg)
    return table.dropna(subset=list(names))
