"""Arguments of the Python interface, checked: data set, split, store, panels, and a prediction as a data frame."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.errors import ConfigError, DatasetError, PredictionError, SplitError, StoreError
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore


def rows_of(
    ds: PerturbDataset, split: FrozenSplit, mean: pd.DataFrame, variance: pd.DataFrame | None
) -> RowPrediction:
    """Return a prediction of the test rows from one row of deltas per condition.

    Parameters
    ----------
    ds, split
        Data and split.
    mean, variance
        Deltas in log1p units and their variances, index = condition keys, columns = genes.

    Raises
    ------
    PredictionError
        If it is no such data frame, or lacks a test condition.
    """
    if not isinstance(mean, pd.DataFrame):
        msg = (
            f"the prediction is a {type_name(mean)}; give a data frame with a row per condition and a column per gene, "
            "a RowPrediction, or the path of a file"
        )
        raise PredictionError(msg)
    if not mean.index.is_unique or not mean.columns.is_unique:
        msg = "the data frame repeats a condition or a gene; give each once"
        raise PredictionError(msg)
    rows = split.rows(ds, "test")
    keys = ds.conditions.index[ds.condition_codes[rows]]
    at = mean.index.get_indexer(keys)
    if (at < 0).any():
        lacking = sorted(set(keys[at < 0]))
        msg = (
            f"the data frame lacks {len(lacking)} of {len(set(keys))} test conditions, e.g. {lacking[:3]}; its index "
            f"must hold condition keys, it begins with {[str(k) for k in mean.index[:2]]}"
        )
        raise PredictionError(msg)
    values = _numbers(mean, "the data frame")
    var = np.ones_like(values) if variance is None else _variance_of(variance, mean)
    return RowPrediction(
        mean=values,
        var=var,
        idx=rows,
        row=at.astype(np.int64),
        genes=np.asarray([str(g) for g in mean.columns], dtype=np.str_),
        row_id=ds.row_ids[rows],
        split_hash=split.hash,
        data_content_sha256=ds.content_sha256,
        var_filled=variance is None,
    )


def _variance_of(variance: pd.DataFrame, mean: pd.DataFrame) -> FloatArray:
    """Return the variances in the order of a data frame of deltas."""
    if not isinstance(variance, pd.DataFrame):
        msg = f"variance is a {type_name(variance)}; give a data frame with the rows and columns of the prediction"
        raise PredictionError(msg)
    if not variance.index.is_unique or not variance.columns.is_unique:
        msg = "variance repeats a condition or a gene; give each once"
        raise PredictionError(msg)
    for what, has, wanted in (
        ("rows", variance.index, mean.index),
        ("genes", variance.columns, mean.columns),
    ):
        if len(lacking := wanted.difference(has, sort=False)):
            msg = f"variance lacks {len(lacking)} of {len(wanted)} {what} of the prediction, e.g. {str(lacking[0])!r}; give one with the same {what}"
            raise PredictionError(msg)
    return _numbers(variance.reindex(index=mean.index, columns=mean.columns), "variance")


def _numbers(frame: pd.DataFrame, what: str) -> FloatArray:
    """Return the values of a data frame as float32."""
    try:
        return np.asarray(frame.to_numpy(dtype=np.float32))
    except (TypeError, ValueError) as error:
        other = [str(c) for c, kind in frame.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        msg = f"{what} holds what is no number, in {', '.join(other[:3]) or 'a column'}; give numbers only"
        raise PredictionError(msg) from error


def panels_of(panels: Any) -> list[str] | None:
    """Return the names of panels, of which there must be one at least.

    Raises
    ------
    ConfigError
        If it is no list of names, or an empty one.
    """
    if panels is None:
        return None
    if (
        not isinstance(panels, list | tuple)
        or not panels
        or not all(isinstance(name, str) for name in panels)
    ):
        msg = f"panels is {panels!r}; give a list of one or more names, such as ['delta'], or leave it out for all"
        raise ConfigError(msg)
    return list(panels)


def list_of(given: Any, what: str, wanted: str) -> list[str]:
    """Return texts of which one, or several, may be given.

    Parameters
    ----------
    given
        The argument.
    what
        Its name.
    wanted
        What it should be, for the message.

    Raises
    ------
    ConfigError
        If it is neither text nor a list of texts.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Collection) or not all(isinstance(text, str) for text in given):
        msg = f"{what} is {given!r:.60}; give {wanted}"
        raise ConfigError(msg)
    return list(given)


def check_dataset(ds: Any) -> None:
    """Refuse what is no data set.

    Raises
    ------
    DatasetError
        If it is something else.
    """
    if not isinstance(ds, PerturbDataset):
        msg = f"the data set is a {type_name(ds)}; give a PerturbDataset, as from_anndata and read_h5ad return it"
        raise DatasetError(msg)


def split_of(home: ArtifactStore, split: Any) -> FrozenSplit:
    """Return a split as it is given, or found by its name.

    Raises
    ------
    SplitError
        If it is neither a split nor text, or there is no such split.
    """
    if isinstance(split, FrozenSplit):
        return split
    if not isinstance(split, str):
        msg = f"the split is a {type_name(split)}; give a frozen split, or its hash, a prefix of it, or its key as text"
        raise SplitError(msg)
    return SplitFolder(home.split_dir).load(split)


def store_of(store: Any) -> ArtifactStore:
    """Return the store that is given, or whose home is.

    Raises
    ------
    StoreError
        If it is neither a store nor a path.
    """
    if isinstance(store, ArtifactStore):
        return store
    if store is not None and not isinstance(store, str | Path):
        msg = f"the store is a {type_name(store)}; give an ArtifactStore or the path of its home"
        raise StoreError(msg)
    return ArtifactStore(store)


def type_name(value: Any) -> str:
    """Return the name of a value's type, for a message."""
    return type(value).__name__
