"""Runs in formats that other tools read."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbfm_core import schema
from perturbfm_core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import pandas as pd

    from perturbfm_core.data.prediction import RowPrediction


_FORMATS = (".h5ad", ".parquet", ".csv")


def export_bytes(run: Path, what: str, suffix: str) -> tuple[bytes, tuple[int, int]]:
    """Return (file content, shape) of a run's predictions or scores.

    Predictions are one row per condition: an h5ad with the mean in ``X`` and the variance in a layer, or a long table
    ``condition, perturbation, context, modality, doses, covariates, n_rows, first_row_id, gene, mean, var``. Either can
    be scored again by ``eval predictions``. Scores are a table only.

    Parameters
    ----------
    run
        The run directory.
    what
        ``predictions`` or ``scores``.
    suffix
        Ending of the file: ``.h5ad``, ``.parquet`` or ``.csv``.

    Raises
    ------
    ConfigError
        If the format or what is asked for is unknown.
    """
    from perturbfm_core.data.parquet import read_parquet
    from perturbfm_core.data.prediction import read_prediction

    if suffix not in _FORMATS:
        msg = f"unknown format {suffix or '(none)'!r}; the name must end in {', '.join(_FORMATS)}"
        raise ConfigError(msg)
    if what not in ("predictions", "scores"):
        msg = f"cannot export {what!r}; known: predictions, scores"
        raise ConfigError(msg)
    if what == "scores":
        if suffix == ".h5ad":
            msg = "scores are a table: export them as .parquet or .csv"
            raise ConfigError(msg)
        return _table_bytes(read_parquet(run / schema.SCORES_FILE, StoreError), suffix)
    prediction = read_prediction(run / schema.PREDICTIONS_FILE)
    labels = _labels(prediction, _keys(prediction, run))
    if suffix == ".h5ad":
        return _h5ad_bytes(prediction, labels), (len(prediction.mean), prediction.mean.shape[1])
    return _table_bytes(_long(prediction, labels), suffix)


def _keys(prediction: RowPrediction, run: Path) -> list[str]:
    """Return the condition key of each predicted mean."""
    from perturbfm_core.data.parquet import read_parquet

    if prediction.condition is not None:
        return [str(key) for key in prediction.condition]
    # A run of an earlier version: its scores list the conditions in the order of its means.
    scores = read_parquet(run / schema.SCORES_FILE, StoreError)[["scope", "key"]]
    keys = list(dict.fromkeys(scores.loc[scores["scope"] == "condition", "key"].astype(str)))
    if len(keys) != len(prediction.mean):
        msg = f"the predictions of {run} name no conditions; run the entry again to export them"
        raise ConfigError(msg)
    return keys


def _labels(prediction: RowPrediction, keys: list[str]) -> pd.DataFrame:
    """Return what each predicted mean is of: its condition in parts, and the rows that it predicts."""
    import numpy as np

    from perturbfm_core.data.prediction_labels import label_table

    ids = prediction.row_id if prediction.row_id is not None else prediction.idx.astype(str)
    first = [""] * len(prediction.mean)
    for row, name in zip(prediction.rows[::-1], ids[::-1], strict=True):
        first[int(row)] = str(name)
    out = label_table(keys)
    out["n_rows"] = np.bincount(prediction.rows, minlength=len(prediction.mean))
    out["first_row_id"] = first
    return out


def _genes(prediction: RowPrediction) -> list[str]:
    given: Any = range(prediction.mean.shape[1]) if prediction.genes is None else prediction.genes
    return [str(gene) for gene in given]


def _h5ad_bytes(prediction: RowPrediction, labels: pd.DataFrame) -> bytes:
    import pandas as pd
    from anndata import AnnData

    obs = labels.set_index("condition", drop=False).rename_axis(None)
    var = pd.DataFrame(index=_genes(prediction))
    out = AnnData(X=prediction.mean, obs=obs, var=var, layers={"var": prediction.var})
    for key in ("split_hash", "data_content_sha256", "space"):
        if getattr(prediction, key) is not None:
            out.uns[key] = getattr(prediction, key)
    out.uns["kind"] = prediction.kind or "delta"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.h5ad"
        out.write_h5ad(path)
        return path.read_bytes()


def _long(prediction: RowPrediction, labels: pd.DataFrame) -> pd.DataFrame:
    import numpy as np

    R, G = prediction.mean.shape
    out = labels.loc[labels.index.repeat(G)].reset_index(drop=True)
    out["gene"] = np.tile(np.asarray(_genes(prediction), dtype=object), R)
    out["mean"] = prediction.mean.reshape(-1)
    out["var"] = prediction.var.reshape(-1)
    return out


def _table_bytes(table: pd.DataFrame, suffix: str) -> tuple[bytes, tuple[int, int]]:
    if suffix == ".csv":
        return table.to_csv(index=False).encode(), table.shape
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue(), table.shape
