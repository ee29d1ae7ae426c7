"""Export of a split for external models: its train rows and input controls as h5ad, never a calibration or test row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import take_rows
from perturbfm_core.errors import ExternalError
from perturbfm_core.external.request import (
    CONTROLS_FILE,
    REQUEST_FILE,
    VIEW_FILE,
    Request,
    held_for_validation,
)
from perturbfm_core.schema import BoolArray, IntArray
from perturbfm_core.splits.control_cells import ControlCells
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import TrainView
from perturbfm_core.store.artifacts import Artifact, ArtifactStore
from perturbfm_core.store.atomic import write_json
from perturbfm_core.store.code import code_of


def export_key(ds: PerturbDataset, split: FrozenSplit) -> str:
    """Return the key of the export of a split: data, split and the code that writes it."""
    code = code_of(__name__).digest
    return content_hash(
        {"stage": "external_export", "data": ds.content_sha256, "split": split.hash, "code": code}
    )


def export(
    store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit, view: TrainView, request: Request
) -> Artifact:
    """Write what an external model may see of a split, or find it.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds, split, view
        Data, split and its train view.
    request
        The conditions that will be asked.

    Returns
    -------
    Artifact
        ``view.h5ad``, ``query_controls.h5ad`` and ``request.json`` (without model, parameters and seed).
    """
    key = export_key(ds, split)
    found = store.find(key)
    if found is not None:
        return found
    path = store.put_object(key, lambda folder: write_view(folder, ds, split, view, request))
    return Artifact(key, path, reused=False)


def write_view(
    folder: Path, ds: PerturbDataset, split: FrozenSplit, view: TrainView, request: Request
) -> None:
    """Write the three files of an export into a folder, which the caller publishes.

    Parameters
    ----------
    folder
        A folder that is there.
    ds, split, view, request
        As in `export`.

    Raises
    ------
    ExternalError
        If the data set has no cells with controls, or a row would be exported that no model may read.
    """
    if view.allowed_rows is None or not ds.has_controls:
        msg = f"data set {ds.name!r} has no control rows; external models start from expression, not from differences"
        raise ExternalError(msg)
    rows = np.flatnonzero(view.allowed_rows)
    _refuse_hidden(ds, split, rows)
    held = _validation_rows(ds, split, view)
    obs = _obs(ds, rows)
    obs["fold"] = pd.Categorical(np.where(held[rows], "val", "train").astype(object))
    _write(folder / VIEW_FILE, ds, rows, obs)
    # What a query offers to a model that runs here.
    controls = ControlCells(ds, request.asked.conditions[schema.CONTEXT_ID]).rows()
    _write(folder / CONTROLS_FILE, ds, controls, _obs(ds, controls))
    known = [view.conditions, *([] if view.validation is None else [view.validation.conditions])]
    write_json(folder / REQUEST_FILE, request.to_json(ds, split, pd.concat(known)))


def _refuse_hidden(ds: PerturbDataset, split: FrozenSplit, rows: IntArray) -> None:
    """Refuse rows of other folds than train and validation, and controls of the reference role."""
    codes = split.codes(ds)[rows]
    open_ = np.isin(codes, [schema.FOLDS.index("train"), schema.FOLDS.index("val")])
    refused = rows[~open_ & ~ds.controls.has_role("input")[rows]]
    if len(refused):
        msg = (
            f"{len(refused)} rows of split {split.hash[:12]} must not be exported, e.g. row {int(refused[0])}"
        )
        raise ExternalError(msg)


def _validation_rows(ds: PerturbDataset, split: FrozenSplit, view: TrainView) -> BoolArray:
    """Return bool [N], rows that are for early stopping: the split's own, else its first inner fold."""
    out = np.zeros(ds.n_obs, dtype=np.bool_)
    held, origin = held_for_validation(view)
    if origin == "split":
        out[split.rows(ds, "val")] = True
    elif origin == "inner_fold_0":
        codes = np.flatnonzero(ds.conditions.index.isin(view.conditions.index[held]))
        out = np.isin(ds.condition_codes, codes)
    return out


def _obs(ds: PerturbDataset, rows: IntArray) -> pd.DataFrame:
    obs = ds.obs.iloc[rows]
    names = (schema.PERT_ID, schema.CONTEXT_ID, schema.BATCH_ID, schema.MODALITY, schema.DOSES)
    columns = (*names, schema.COVARIATES)
    # Object columns: what newer versions of pandas write of text, older readers do not know.
    table: dict[str, Any] = {c: pd.Categorical(obs[c].astype(str).to_numpy(dtype=object)) for c in columns}
    table[schema.IS_CONTROL] = ds.is_control[rows]
    return pd.DataFrame(table, index=pd.Index(ds.row_ids[rows].astype(object)))


def _write(path: Path, ds: PerturbDataset, rows: IntArray, obs: pd.DataFrame) -> None:
    from anndata import AnnData

    var = pd.DataFrame(index=pd.Index(np.asarray(ds.genes).astype(object)))
    made = AnnData(X=_csr(take_rows(ds.expression, rows)), obs=obs, var=var)
    counts = ds.values.counts
    if counts is not None:
        made.layers["counts"] = _csr(take_rows(counts, rows))
    made.write_h5ad(path, compression="gzip", compression_opts=1)
    # Workers are given these files themselves, and may not change them.
    path.chmod(0o444)


def _csr(X: Any) -> Any:
    return sp.csr_matrix(X, dtype=np.float32)
