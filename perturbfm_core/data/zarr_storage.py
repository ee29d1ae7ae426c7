"""Row table and matrices of a data set in a zarr folder."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.matrix import Values, as_csr, is_stored, narrowed
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs_json import obs_from_table
from perturbfm_core.data.stored_rows import StoredRows, stored_rows
from perturbfm_core.data.structure import check_size, checked_matrix
from perturbfm_core.data.zarr_rows import ZARR_CHUNK, copy_rows
from perturbfm_core.errors import DatasetError

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset


def write_zarr(ds: PerturbDataset, path: Path) -> None:
    """Write rows, genes and matrices of a data set; those that lie in a file are copied block by block."""
    import anndata
    import zarr
    from anndata.io import write_elem

    with anndata.settings.override(auto_shard_zarr_v3=False):
        _write_zarr_elements(
            ds, zarr.open_group(zarr.storage.LocalStore(path), mode="w", zarr_format=3), write_elem
        )


def _write_zarr_elements(ds: PerturbDataset, group: Any, write_elem: Callable[..., None]) -> None:
    from anndata import AnnData

    values = ds.streamed
    skeleton = AnnData(obs=ds.obs.copy(), var=pd.DataFrame(index=pd.Index(ds.genes.tolist())))
    write_elem(group, "/", skeleton)
    main: Any = values.counts if values.counts is not None else values.expression
    if main is None and ds.metadata.space in schema.DELTA_SPACES:
        main = values.delta
    if main is not None and is_stored(main):
        copy_rows(main, group)
    elif sp.issparse(main):
        if values.counts is not None:
            main = sp.csr_array(
                (main.data.astype(np.int32, copy=False), main.indices, main.indptr), shape=main.shape
            )
        write_elem(group, "X", sp.csr_matrix(main), dataset_kwargs={"chunks": (ZARR_CHUNK,)})
    elif main is not None:
        write_elem(group, "X", main)
    for key, X in (("delta", values.delta), ("X_control", values.x_control)):
        if X is not None and X is not main:
            write_elem(group, f"layers/{key}", X)


def read_zarr_obs(path: Path) -> pd.DataFrame:
    """Return the row table.

    Raises
    ------
    DatasetError
        If it is missing or damaged.
    """
    from anndata.io import read_elem

    with open_zarr(path) as group:
        _check_declared(group["obs"], path)
        frame = read_elem(group["obs"])
        if not isinstance(frame, pd.DataFrame):
            msg = f"obs in {path} is no table; import the data set again"
            raise DatasetError(msg)
    return obs_from_table(frame, f"obs in {path}")


@contextlib.contextmanager
def open_zarr(path: Path, cure: str = "import the data set again") -> Iterator[Any]:
    """Open a zarr folder; any error while it is open is reported as damage, in one line that ends with the cure.

    Raises
    ------
    DatasetError
        If something of the folder cannot be read while it is open.
    """
    import zarr

    try:
        with warnings.catch_warnings():
            # zarr warns of files in the folder that are not its own.
            warnings.simplefilter("ignore")
            # A pipe in the place of a file would be waited for.
            odd = next((p for p in path.rglob("*") if not (p.is_file() or p.is_dir())), None)
            if odd is not None:
                msg = f"{odd} is no file; {cure}"
                raise DatasetError(msg)
            yield zarr.open_group(zarr.storage.LocalStore(path, read_only=True), mode="r")
    except DatasetError:
        raise
    except Exception as exc:  # zarr raises many kinds for damaged stores
        detail = " ".join(str(exc).split())[:120] or type(exc).__name__
        msg = f"{path} is damaged ({detail}); {cure}"
        raise DatasetError(msg) from exc


def _check_declared(element: Any, path: Path) -> None:
    """Check the sizes that an array, or the arrays of a group, declare."""
    arrays = [a for _, a in element.members(max_depth=4)] if hasattr(element, "members") else [element]
    for array in arrays:
        check_size(int(getattr(array, "nbytes", 0)), f"{array.path} in {path}")


@contextlib.contextmanager
def _opened_element(path: Path, key: str) -> Iterator[Any]:
    with open_zarr(path) as group:
        yield group[key]


def read_zarr_values(path: Path, metadata: DatasetMetadata) -> Values:
    """Return the matrices of a folder; a large main matrix is not read but returned as `StoredRows`.

    Raises
    ------
    DatasetError
        If they are damaged.
    """
    from anndata.io import read_elem

    def read(group: Any, key: str) -> Any:
        _check_declared(group[key], path)
        return checked_matrix(read_elem(group[key]), f"{key} in {path}")

    with open_zarr(path) as group:
        # log1p data read from an npz without X_pert have no stored matrix: X = delta + X_control.
        derived = metadata.space == "log1p" and "X" not in group and "layers/delta" in group
        rows = None if derived or metadata.space in schema.DELTA_SPACES else _stored(group, path)
        main = None if derived else read(group, "X") if rows is None else rows
        layers = {k: read(group, f"layers/{k}") for k in ("delta", "X_control") if f"layers/{k}" in group}
    layers = {
        k: np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32) for k, X in layers.items()
    }
    if rows is not None:
        main = rows.then(lambda part, _: as_csr(part)) if rows.sparse else rows
    elif sp.issparse(main):
        main = narrowed(as_csr(main))
    x_control = layers.get("X_control")
    if metadata.space == "counts":
        return Values(
            counts=main if rows is not None else narrowed(as_csr(main)),
            delta=layers.get("delta"),
            x_control=x_control,
        )
    if metadata.space in schema.DELTA_SPACES and "delta" not in layers:
        dense: Any = main.toarray() if sp.issparse(main) else main  # type: ignore[union-attr]
        return Values(delta=dense, x_control=x_control)
    return Values(expression=main, delta=layers.get("delta"), x_control=x_control)


def _stored(group: Any, path: Path) -> StoredRows | None:
    """Return the main matrix as rows that stay in the folder, None if it is small."""
    shape = tuple(int(n) for n in group["X"].attrs.get("shape", ()) or group["X"].shape)
    if len(shape) != 2:
        return None
    return stored_rows(lambda: _opened_element(path, "X"), group["X"], shape, f"X in {path}")
