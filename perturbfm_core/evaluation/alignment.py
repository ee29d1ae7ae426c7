"""Alignment of the genes and rows of a prediction with those of its data set."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import FloatArray, IntArray, StrArray
from perturbfm_core.splits.split import FrozenSplit


def check_origin(ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction) -> None:
    """Check that a prediction was made for this data, split and scale, as far as it says so.

    Parameters
    ----------
    ds, split
        Data and split.
    prediction
        The prediction.

    Raises
    ------
    PredictionError
        If it was made for others.
    """
    if prediction.data_content_sha256 not in (None, "", ds.content_sha256):
        msg = (
            f"prediction was made for data {str(prediction.data_content_sha256)[:12]}, "
            f"{ds.name!r} is {ds.content_sha256[:12]}; use its own data set"
        )
        raise PredictionError(msg)
    if prediction.split_hash not in (None, "", split.hash):
        msg = f"prediction was made for split {str(prediction.split_hash)[:12]}, not {split.hash[:12]}; use its own split"
        raise PredictionError(msg)
    space = "log1p" if ds.metadata.space == "counts" else ds.metadata.space
    if prediction.space not in (None, "", space):
        msg = f"prediction is in space {prediction.space!r}, the data set is scored in {space!r}"
        raise PredictionError(msg)


def gene_columns(ds: PerturbDataset, genes: StrArray | None, n_columns: int) -> tuple[IntArray | None, bool]:
    """Return (prediction column of each data set gene or None for the same order, whether by name).

    Parameters
    ----------
    ds
        The data set.
    genes
        Names of the columns of a prediction, None if it has none.
    n_columns
        Number of its columns.

    Raises
    ------
    PredictionError
        If a gene is missing or repeated.
    """
    if genes is None:
        if n_columns != ds.n_genes:
            msg = (
                f"prediction has {n_columns} unnamed genes, the data set {ds.n_genes}; "
                "add an array `genes` with their names"
            )
            raise PredictionError(msg)
        return None, False
    if np.array_equal(genes, ds.genes):
        return None, True
    position = {str(g): i for i, g in enumerate(genes)}
    if len(position) < len(genes):
        msg = f"prediction repeats {len(genes) - len(position)} gene names; give every gene once"
        raise PredictionError(msg)
    missing = [str(g) for g in ds.genes if str(g) not in position]
    if missing:
        msg = f"prediction lacks {len(missing)} of {ds.n_genes} genes, e.g. {missing[:3]}; predict every gene of the data set"
        raise PredictionError(msg)
    return np.asarray([position[str(g)] for g in ds.genes], dtype=np.int64), True


def row_lookup(ds: PerturbDataset, prediction: RowPrediction) -> IntArray:
    """Return int64 [N]: the row of the prediction's mean for each row of the data set, -1 for none.

    Raises
    ------
    PredictionError
        If it names or numbers rows that the data set does not have, or repeats one, or its rows are of other conditions
        than it says.
    """
    idx = prediction.idx
    if prediction.row_id is not None:
        wanted = ds.obs.index.get_indexer(prediction.row_id.tolist())
        if (wanted < 0).any():
            name = str(prediction.row_id[int(np.flatnonzero(wanted < 0)[0])])
            msg = f"prediction names {int((wanted < 0).sum())} rows that {ds.name!r} does not have, e.g. {name!r}"
            raise PredictionError(msg)
        if len(np.unique(wanted)) < len(wanted):
            msg = f"row_id of the prediction repeats {len(wanted) - len(np.unique(wanted))} rows; predict each row once"
            raise PredictionError(msg)
        idx = wanted
    if len(idx) and (idx.min() < 0 or idx.max() >= ds.n_obs):
        msg = f"prediction has idx outside the data set's rows (0 to {ds.n_obs - 1})"
        raise PredictionError(msg)
    if prediction.condition is not None:
        said = ds.conditions.index.get_indexer(prediction.condition)[prediction.rows]
        own = ds.condition_codes[idx]
        wrong = np.flatnonzero((said >= 0) & (own >= 0) & (said != own))
        if len(wrong):
            names = [str(ds.conditions.index[c[wrong[0]]]) for c in (own, said)]
            msg = (
                f"prediction gives {len(wrong)} rows the mean of another condition than theirs, e.g. a row of {names[0]!r} that of "
                f"{names[1]!r} by its array `condition`; correct `row`, or leave `condition` out"
            )
            raise PredictionError(msg)
    lookup = np.full(ds.n_obs, -1, dtype=np.int64)
    lookup[idx] = prediction.rows
    return lookup


def averaged_intervals(
    given: Intervals | None, source: IntArray, codes: IntArray, n: int, columns: IntArray | None
) -> Intervals | None:
    """Return the intervals of conditions, averaging the factors of several predicted rows of one condition.

    Parameters
    ----------
    given
        Intervals of the rows of a prediction, None if it has none.
    source
        int64 [N], row of the prediction for each test row.
    codes
        int64 [N], condition of each test row.
    n
        Number of conditions.
    columns
        Prediction column of each gene, None for the same order.
    """
    if given is None:
        return None
    factor = np.stack([averaged(level, source, codes, n) for level in given.factor])
    extra: dict[str, Any] = {"flag": None, "effective": None}
    if given.flag is not None:
        extra["flag"] = averaged(given.flag[:, None].astype(np.float64), source, codes, n)[:, 0] > 0
    if given.effective is not None:
        extra["effective"] = averaged(given.effective[:, None], source, codes, n)[:, 0]
    gene_bin = given.gene_bin if columns is None else given.gene_bin[columns]
    return Intervals(given.levels, factor, gene_bin, **extra)


def averaged(values: FloatArray, source: IntArray, codes: IntArray, n: int) -> FloatArray:
    """Return float64 [n, G]: mean of the prediction rows of each condition.

    Parameters
    ----------
    values
        Rows of a prediction [R, G].
    source
        int64 [N], row of the prediction for each test row.
    codes
        int64 [N], condition of each test row.
    n
        Number of conditions.
    """
    first = np.full(n, -1, dtype=np.int64)
    first[codes[::-1]] = source[::-1]
    if np.array_equal(first[codes], source):
        return values[first].astype(np.float64)
    out = np.zeros((n, values.shape[1]))
    for start in range(0, len(source), 4096):
        block = slice(start, start + 4096)
        np.add.at(out, codes[block], values[source[block]].astype(np.float64))
    mean: FloatArray = out / np.bincount(codes, minlength=n)[:, None]
    return mean
