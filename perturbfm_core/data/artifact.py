"""Reading and writing of data sets on disk: ``meta.json`` with ``data.npz`` or ``data.zarr``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.config import parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values, as_csr
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.obs_json import obs_from_json, obs_to_json
from perturbfm_core.data.structure import checked_rows
from perturbfm_core.data.zarr_storage import read_zarr_obs, read_zarr_values, write_zarr
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import IntArray
from perturbfm_core.store.atomic import publish_directory, read_json, restore, write_json

Storage = Literal["npz", "zarr"]
_DENSE_LIMIT = 400_000_000
_DERIVED_TOLERANCE = 1e-4


def write_dataset(
    ds: PerturbDataset,
    path: Path,
    storage: Storage = "zarr",
    *,
    truth: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> DatasetMetadata:
    """Write a data set artifact atomically and return its metadata with the content hash filled in.

    Parameters
    ----------
    ds
        The data set.
    path
        Directory to create.
    storage
        ``npz``: dense interchange format; ``zarr``: sparse, for large data sets.
    truth
        Arrays of a simulator's ground truth, stored as ``truth.npz`` in the same directory (never read by
        models).
    overwrite
        Replace an existing artifact.
    """
    _check_names(ds)
    metadata = ds.metadata.model_copy(update={"content_sha256": ds.computed_sha256})

    def fill(folder: Path) -> None:
        if storage == "npz":
            _write_npz(ds, folder)
            obs: Any = obs_to_json(ds.obs)
        else:
            write_zarr(ds, folder / schema.ZARR_FILE)
            obs = {"stored_in": schema.ZARR_FILE, "n_obs": ds.n_obs, "columns": list(ds.obs.columns)}
        if truth is not None:
            np.savez(folder / schema.TRUTH_FILE, **truth)
        meta = {
            "schema_version": schema.DATASET_SCHEMA_VERSION,
            "storage": storage,
            "obs": obs,
            "var": ds.genes.tolist(),
            "metadata": metadata.model_dump(mode="json"),
        }
        write_json(folder / schema.META_FILE, meta)

    publish_directory(path, fill, overwrite=overwrite)
    return metadata


def _check_names(ds: PerturbDataset) -> None:
    """Refuse names that no file can hold: text with NUL, or that is not Unicode."""
    columns = {
        c: ds.obs[c].cat.categories for c in ds.obs if isinstance(ds.obs[c].dtype, pd.CategoricalDtype)
    }
    for what, names in {"gene ids": ds.genes, "row ids": ds.row_ids, **columns}.items():
        for name in map(str, names):
            if "\0" in name or (not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name)):
                msg = f"data set {ds.name!r}: {what} hold {name[:60]!r}, which is no text; rename it"
                raise DatasetError(msg)


def load_dataset(path: Path | str) -> PerturbDataset:
    """Open a data set artifact; its matrix is read on first use.

    Raises
    ------
    DatasetError
        If the directory, its ``meta.json`` or its matrix is missing, damaged or of another schema version.
    """
    path = Path(path)
    if not (path / schema.META_FILE).is_file() and not restore(path):
        msg = f"{path} is no data set artifact ({schema.META_FILE} not found); make one with `perturbfm data import`"
        raise DatasetError(msg)
    meta = read_json(path / schema.META_FILE, DatasetError)
    if not isinstance(meta, dict) or not {"obs", "var", "metadata"} <= set(meta):
        msg = f"{path / schema.META_FILE} lacks obs, var or metadata; import the data set again"
        raise DatasetError(msg)
    version = meta.get("schema_version")
    if version != schema.DATASET_SCHEMA_VERSION:
        msg = f"{path} has data set schema version {version!r}, this program reads {schema.DATASET_SCHEMA_VERSION}"
        raise DatasetError(msg)
    if not isinstance(meta["metadata"], dict) or not isinstance(meta["var"], list):
        msg = f"{path / schema.META_FILE}: metadata must be a table and var a list of gene ids"
        raise DatasetError(msg)
    odd = next((g for g in meta["var"] if not isinstance(g, str)), None)
    if odd is not None:
        msg = f"{path / schema.META_FILE}: var holds {str(odd)[:60]!r}, which is no text; give gene ids"
        raise DatasetError(msg)
    stored = dict(meta["metadata"])
    stored.setdefault("name", path.name)
    if (path / schema.NPZ_FILE).is_file():
        obs = obs_from_json(meta["obs"], f"obs in {path / schema.META_FILE}")
        arrays = read_npz(path / schema.NPZ_FILE)
        _default_policy(stored, arrays)
        metadata = parse(DatasetMetadata, stored, str(path / schema.META_FILE))
        obs = _align_obs(obs, arrays, path)
        loaded = _npz_values(arrays, path, metadata)
        ds = PerturbDataset(obs, meta["var"], loaded, metadata, path)
        _check_derived(ds, arrays)
        return ds
    metadata = parse(DatasetMetadata, stored, str(path / schema.META_FILE))
    if not (path / schema.ZARR_FILE).is_dir():
        msg = f"{path} has neither {schema.NPZ_FILE} nor {schema.ZARR_FILE}; import the data set again"
        raise DatasetError(msg)
    obs = read_zarr_obs(path / schema.ZARR_FILE)

    def values_from_zarr() -> Values:
        return read_zarr_values(path / schema.ZARR_FILE, metadata)

    return PerturbDataset(obs, meta["var"], values_from_zarr, metadata, path)


def _default_policy(stored: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Fill in fields that a ``meta.json`` of another tool may lack: space, and how controls are matched."""
    stored.setdefault("space", "log1p" if "X_pert" in arrays else "delta")
    if "control_policy" not in stored:
        given = "delta" in arrays or "X_control" in arrays
        stored["control_policy"] = "file" if given else "mean"


# ---- npz -------------------------------------------------------------------------------------------------


def _write_npz(ds: PerturbDataset, folder: Path) -> None:
    if ds.n_obs * ds.n_genes > _DENSE_LIMIT:
        msg = (
            f"data set {ds.name!r} has {ds.n_obs} x {ds.n_genes} values, too many for the dense data.npz; "
            "give --storage zarr"
        )
        raise DatasetError(msg)
    rows = np.arange(ds.n_obs, dtype=np.int64)
    arrays: dict[str, Any] = {"obs_idx": rows}
    if ds.has_controls:
        X: Any = ds.expression
        arrays["X_pert"] = np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32)
        arrays["X_control"] = ds.x_control(rows)
        arrays["delta"] = arrays["X_pert"] - arrays["X_control"]
    else:
        values = ds.values
        for key, X in (
            ("X_pert", values.expression),
            ("X_control", values.x_control),
            ("delta", values.delta),
        ):
            if X is not None:
                arrays[key] = np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32)
    np.savez(folder / schema.NPZ_FILE, **arrays)
    counts = ds.values.counts
    if counts is not None:
        np.savez_compressed(
            folder / schema.COUNTS_FILE,
            data=counts.data.astype(np.int32),
            indices=counts.indices.astype(np.int32),
            indptr=counts.indptr.astype(np.int64),
            shape=np.asarray(counts.shape, dtype=np.int64),
        )


def _npz_values(arrays: dict[str, Any], path: Path, metadata: DatasetMetadata) -> Values:
    for key in ("X_pert", "X_control", "delta"):
        X = arrays.get(key)
        if X is not None and (X.ndim != 2 or X.dtype.kind not in "fiu"):
            msg = f"{key} in {path / schema.NPZ_FILE} must be a float32 [rows, genes], found {X.dtype} {X.shape}"
            raise DatasetError(msg)
    if "X_pert" not in arrays and "delta" not in arrays:
        msg = f"{path / schema.NPZ_FILE} has neither X_pert nor delta (found {sorted(arrays)})"
        raise DatasetError(msg)

    def get(key: str) -> Any:
        X = arrays.get(key)
        return None if X is None else np.ascontiguousarray(X, dtype=np.float32)

    derived = metadata.control_policy in ("mean", "sampled")
    if (path / schema.COUNTS_FILE).is_file():
        counts = _npz_counts(path / schema.COUNTS_FILE)
        if derived:
            return Values(counts=counts)
        return Values(counts=counts, delta=get("delta"), x_control=get("X_control"))
    if derived:
        X = get("X_pert")
        return Values(expression=X) if X is not None else Values(delta=get("delta"))
    return Values(expression=get("X_pert"), delta=get("delta"), x_control=get("X_control"))


def _npz_counts(path: Path) -> Any:
    raw = read_npz(path)
    if missing := {"data", "indices", "indptr", "shape"} - set(raw):
        msg = f"{path} holds no sparse matrix ({', '.join(map(repr, sorted(missing)))} not found); make it again"
        raise DatasetError(msg)
    shape = raw["shape"]
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        msg = f"shape in {path} is {shape.dtype} {shape.shape}; it must be two whole numbers"
        raise DatasetError(msg)
    size = int(shape[0]), int(shape[1])
    return as_csr(checked_rows(raw["data"], raw["indices"], raw["indptr"], size, str(path)))


def _check_derived(ds: PerturbDataset, arrays: dict[str, Any]) -> None:
    """Check that derived matrices (normalised counts, controls, deltas) agree with those in the file."""
    if not ds.has_controls:
        return
    rows = np.arange(ds.n_obs)
    pairs: list[tuple[str, Any]] = []
    if ds.values.counts is not None and "X_pert" in arrays:
        pairs.append(("X_pert", ds.expression.toarray()))
    if ds.metadata.control_policy == "mean":
        if "X_control" in arrays:
            pairs.append(("X_control", ds.x_control(rows)))
        if "delta" in arrays:
            pairs.append(("delta", ds.delta(rows)))
    for key, derived in pairs:
        if arrays[key].shape != derived.shape or arrays[key].dtype.kind not in "fiu":
            msg = (
                f"{key} in {schema.NPZ_FILE} of data set {ds.name!r} is {arrays[key].dtype} {arrays[key].shape}, "
                f"its rows and genes give numbers {derived.shape}; make the data set again"
            )
            raise DatasetError(msg)
        gap = float(np.max(np.abs(derived - arrays[key]))) if derived.size else 0.0
        if not gap <= _DERIVED_TOLERANCE:
            msg = (
                f"{key} in {schema.NPZ_FILE} of data set {ds.name!r} differs by up to {gap:.3g} from what its rows give; "
                "set metadata.control_policy to 'file' if it was made elsewhere"
            )
            raise DatasetError(msg)


# ---- order of rows ------------------------------------------------------------------------------------------


def _align_obs(obs: pd.DataFrame, arrays: dict[str, Any], path: Path) -> pd.DataFrame:
    """Return the obs rows in the order of the matrix rows (``obs_idx``)."""
    index: IntArray | None = arrays.get("obs_idx")
    if index is None:
        return obs
    if (
        index.ndim != 1
        or index.dtype.kind not in "iu"
        or (len(index) and (index.min() < 0 or index.max() >= len(obs)))
    ):
        msg = f"obs_idx in {path / schema.NPZ_FILE} must hold row numbers of obs (0 to {len(obs) - 1})"
        raise DatasetError(msg)
    if np.array_equal(index, np.arange(len(obs))):
        return obs
    picked = obs.iloc[index]
    # Made anew, so that contexts and batches without any remaining row are dropped from the categories.
    return make_obs({c: picked[c].array for c in picked.columns}, list(picked.index))
