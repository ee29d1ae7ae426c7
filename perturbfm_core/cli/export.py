"""Runs in formats that other tools read."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from perturbfm_core import schema
from perturbfm_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from perturbfm_core.data.prediction import RowPrediction


_FORMATS = (".h5ad", ".parquet", ".csv")


def export_bytes(run: Path, what: str, suffix: str) -> tuple[bytes, tuple[int, int]]:
    """Return (file content, shape) of a run's predictions or scores.

    Predictions are one row per predicted condition mean: an h5ad with the mean in ``X`` and the variance in a
    layer, or a long table ``row, row_ids, gene, mean, var``. Scores are a table only.

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
    import pandas as pd

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
        return _table_bytes(pd.read_parquet(run / schema.SCORES_FILE), suffix)
    prediction = read_prediction(run / schema.PREDICTIONS_FILE)
    if suffix == ".h5ad":
        return _h5ad_bytes(prediction), (len(prediction.mean), prediction.mean.shape[1])
    return _table_bytes(_long(prediction), suffix)


def _names(prediction: RowPrediction) -> tuple[list[str], list[str], list[int]]:
    """Return (gene names, first row id, number of rows) of each predicted mean."""
    import numpy as np

    genes = prediction.genes if prediction.genes is not None else np.arange(prediction.mean.shape[1])
    ids = prediction.row_id if prediction.row_id is not None else prediction.idx.astype(str)
    first = [""] * len(prediction.mean)
    for row, name in zip(prediction.rows[::-1], ids[::-1], strict=True):
        first[int(row)] = str(name)
    return (
        [str(g) for g in genes],
        first,
        np.bincount(prediction.rows, minlength=len(prediction.mean)).tolist(),
    )


def _h5ad_bytes(prediction: RowPrediction) -> bytes:
    import pandas as pd
    from anndata import AnnData

    genes, first, sizes = _names(prediction)
    obs = pd.DataFrame(
        {"first_row_id": first, "n_rows": sizes}, index=[f"prediction{i}" for i in range(len(first))]
    )
    out = AnnData(X=prediction.mean, obs=obs, var=pd.DataFrame(index=genes), layers={"var": prediction.var})
    for key in ("split_hash", "data_content_sha256", "space"):
        if getattr(prediction, key) is not None:
            out.uns[key] = getattr(prediction, key)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.h5ad"
        out.write_h5ad(path)
        return path.read_bytes()


def _long(prediction: RowPrediction) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    genes, first, sizes = _names(prediction)
    R, G = prediction.mean.shape
    return pd.DataFrame(
        {
            "prediction": np.repeat(np.arange(R), G),
            "first_row_id": np.repeat(first, G),
            "n_rows": np.repeat(sizes, G),
            "gene": np.tile(genes, R),
            "mean": prediction.mean.reshape(-1),
            "var": prediction.var.reshape(-1),
        }
    )


def _table_bytes(table: pd.DataFrame, suffix: str) -> tuple[bytes, tuple[int, int]]:
    if suffix == ".csv":
        return table.to_csv(index=False).encode(), table.shape
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue(), table.shape
