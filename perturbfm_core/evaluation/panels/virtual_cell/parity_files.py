"""Files of a parity case in the forms that they are written in: tables as npz, parquet or csv, cells as npz or h5ad."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import DatasetError
from perturbfm_core.evaluation.parity_npz import read_arrays
from perturbfm_core.schema import StrArray

PREDICTION = "pred.npz"
TABLE_FORMS = (".npz", ".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
# Columns of a table of differential expression that are names, whatever they look like.
_NAMES = ("target", "feature")


def find_tables(folder: Path, pattern: str) -> list[Path]:
    """Return the tables of a folder by a pattern of their names without ending, in the order of names."""
    return sorted(path for form in TABLE_FORMS for path in folder.glob(f"{pattern}{form}"))


def stem(path: Path) -> str:
    """Return the name of a file without its endings."""
    form = next((form for form in TABLE_FORMS if path.name.endswith(form)), path.suffix)
    return path.name.removesuffix(form)


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of differential expression, its names as text and everything else as numbers.

    One that cannot be read ends the comparison, where a record of an unknown form would be skipped.

    Raises
    ------
    DatasetError
        If the file is damaged.
    """
    try:
        if path.suffix == ".npz":
            table = pd.DataFrame(read_arrays(path))
        elif path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            # Genes and perturbations may be called "nan", "None" or "1e3".
            tabs = ".tsv" in path.name
            table = pd.read_csv(path, sep="\t" if tabs else ",", dtype=str, keep_default_na=False)
            for name in table.columns.difference(_NAMES):
                # Other text stays text. To the last digit, which pandas rounds.
                with contextlib.suppress(ValueError):
                    table[name] = [float(v) if v else np.nan for v in table[name]]
        for name in table.columns.intersection(_NAMES):
            table[name] = table[name].astype(str)
    except ValueError as error:
        msg = f"{path.name}: {' '.join(str(error).split())[:160]}"
        raise DatasetError(msg) from error
    return table


def read_prediction(folder: Path, pert_col: str) -> tuple[Any, StrArray, StrArray]:
    """Return (cells [N, G], label of each, genes) of ``pred.npz``, or ``pred.h5ad`` where that is what there is."""
    path = folder / PREDICTION
    if not path.is_file():
        import anndata

        cells = anndata.read_h5ad(folder / "pred.h5ad")
        labels = np.asarray(cells.obs[pert_col].astype(str), dtype=np.str_)
        return cells.X, labels, np.asarray(cells.var_names.astype(str), dtype=np.str_)
    pred = read_arrays(path)
    return pred["X"], pred["perturbation"].astype(np.str_), pred["genes"].astype(np.str_)
