"""An h5ad file whose sparse matrix is written block by block, for sources that are larger than memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp

_CHUNK = 1 << 16


class CsrFile:
    """Rows of counts that are appended to the ``X`` of a new h5ad file; `finish` adds its tables.

    Parameters
    ----------
    path
        The file to make.
    n_genes
        Number of columns.
    """

    def __init__(self, path: Path, n_genes: int) -> None:
        self._path, self._shape = path, [0, n_genes]

    def __enter__(self) -> Self:
        import h5py

        self._file = h5py.File(self._path, "w")
        self._X = self._file.create_group("X")
        parts: dict[str, Any] = {"data": np.float32, "indices": np.int32, "indptr": np.int64}
        for name, dtype in parts.items():
            self._X.create_dataset(
                name, shape=(0,), maxshape=(None,), chunks=(_CHUNK,), dtype=dtype, compression="lzf"
            )
        self._extend("indptr", np.zeros(1, dtype=np.int64))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, block: sp.csr_array) -> None:
        """Append rows [n, G]."""
        block.sort_indices()
        before = self._X["data"].shape[0]
        self._extend("data", block.data)
        self._extend("indices", block.indices)
        self._extend("indptr", before + block.indptr[1:].astype(np.int64))
        self._shape[0] += block.shape[0]

    def finish(self, obs: pd.DataFrame, var: pd.DataFrame) -> None:
        """Write the tables of rows and genes, and say what the matrix is."""
        from anndata.io import write_elem

        self._X.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        self._X.attrs["shape"] = np.asarray(self._shape, dtype=np.int64)
        write_elem(self._file, "obs", obs)
        write_elem(self._file, "var", var)
        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})

    def _extend(self, name: str, values: Any) -> None:
        part = self._X[name]
        n = part.shape[0]
        part.resize((n + len(values),))
        part[n:] = values
