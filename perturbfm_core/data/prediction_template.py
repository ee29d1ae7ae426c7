"""Prediction files to be filled in: the conditions that a split tests by the genes of its data set."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.prediction_labels import label_table
from perturbfm_core.errors import ConfigError
from perturbfm_core.schema import PredictionKind, StrArray

SUFFIXES = (".csv", ".parquet", ".h5ad", ".npz")


def template_bytes(
    suffix: str, keys: Sequence[str], genes: StrArray, *, kind: PredictionKind, split_hash: str
) -> bytes:
    """Return the content of a template: a labelled row per condition, every value missing.

    Parameters
    ----------
    suffix
        Ending of the file, one of `SUFFIXES`.
    keys
        Condition keys.
    genes
        Gene ids.
    kind
        What is to be filled in: deltas or expression.
    split_hash
        The split, which the h5ad and npz forms declare.

    Raises
    ------
    ConfigError
        If the format is unknown.
    """
    if suffix not in SUFFIXES:
        msg = f"unknown format {suffix or '(none)'!r}; the name must end in {', '.join(SUFFIXES)}"
        raise ConfigError(msg)
    labels = label_table(keys)
    values = np.full((len(keys), len(genes)), np.nan, dtype=np.float32)
    buffer = io.BytesIO()
    if suffix == ".npz":
        text = {name: labels[name].to_numpy(dtype=np.str_) for name in labels}
        np.savez(buffer, mean=values, genes=genes, kind=np.str_(kind), split_hash=np.str_(split_hash), **text)
        return buffer.getvalue()
    if suffix == ".h5ad":
        return _h5ad_bytes(labels, values, genes, {"kind": kind, "split_hash": split_hash})
    labels["kind"] = kind
    table = pd.concat([labels, pd.DataFrame(values, columns=[str(g) for g in genes])], axis=1)
    if suffix == ".csv":
        return bytes(table.to_csv(index=False).encode())
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _h5ad_bytes(
    labels: pd.DataFrame,
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    genes: StrArray,
    uns: dict[str, str],
) -> bytes:
    from anndata import AnnData

    obs = labels.set_index(schema.CONDITION, drop=False).rename_axis(None)
    out = AnnData(X=values, obs=obs, var=pd.DataFrame(index=[str(g) for g in genes]), uns=uns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.h5ad"
        out.write_h5ad(path)
        return path.read_bytes()
