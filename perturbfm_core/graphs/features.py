"""Gene features: tables [genes, features] from outside the data set, such as embeddings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.errors import GraphError
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

_MATRIX_KEYS = ("features", "emb", "embedding", "embeddings", "matrix", "X")


@dataclass(frozen=True, eq=False)
class GeneFeatures:
    """One table of gene features.

    Attributes
    ----------
    name
        Name in the catalog.
    genes
        Gene ids [N], unique.
    matrix
        float32 [N, F], finite values.
    """

    name: str
    genes: StrArray
    matrix: FloatArray

    def __post_init__(self) -> None:
        problem = None
        if self.matrix.ndim != 2 or len(self.genes) != len(self.matrix) or not self.matrix.size:
            problem = (
                f"has {len(self.genes)} genes for a matrix {self.matrix.shape}; it must be [genes, features]"
            )
        elif len(set(self.genes.tolist())) != len(self.genes):
            problem = "names a gene twice"
        elif not np.isfinite(self.matrix).all():
            problem = "holds values that are not finite"
        if problem is not None:
            msg = f"gene features {self.name!r}: the table {problem}"
            raise GraphError(msg)

    @cached_property
    def position(self) -> dict[str, int]:
        """Return {gene: row of the matrix}."""
        return {str(g): i for i, g in enumerate(self.genes)}

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of gene ids and values."""
        digest = hashlib.sha256("\n".join(self.genes.tolist()).encode())
        digest.update(np.ascontiguousarray(self.matrix, dtype="<f4").tobytes())
        return digest.hexdigest()

    def rows(self, genes: list[str]) -> tuple[FloatArray, BoolArray]:
        """Return (float32 [n, F] features, bool [n] whether the table has the gene); others are zero."""
        at = np.asarray([self.position.get(g, -1) for g in genes], dtype=np.int64)
        known = at >= 0
        out = np.zeros((len(genes), self.matrix.shape[1]), dtype=np.float32)
        out[known] = self.matrix[at[known]]
        return out, known


def gene_ids(ids: Any, path: Path) -> StrArray:
    """Return the array of gene ids of an npz file as text.

    Raises
    ------
    GraphError
        If it is no list of names.
    """
    if ids.ndim != 1 or ids.dtype.kind not in "USiu":
        msg = f"'genes' in {path} is {ids.dtype} {ids.shape}; it must be a list of gene ids"
        raise GraphError(msg)
    try:
        out: StrArray = np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids.astype(np.str_)
    except UnicodeDecodeError as error:
        msg = f"'genes' in {path} is not UTF-8 text ({error.reason}); write the gene ids as text"
        raise GraphError(msg) from error
    return out


def read_features(path: Path, name: str | None = None) -> GeneFeatures:
    """Read a table of gene features.

    Parameters
    ----------
    path
        An npz file with ``genes`` [N] and one matrix [N, F] (``features``, ``emb``, ...), or a parquet file
        with a column (or index) of gene ids and columns of numbers.
    name
        Name of the table (default: the file name without its suffix).

    Raises
    ------
    GraphError
        If the file has neither form.
    """
    name = name or path.stem
    if path.suffix == ".npz":
        arrays = read_npz(path, GraphError)
        key = next((k for k in _MATRIX_KEYS if k in arrays), None)
        if "genes" not in arrays or key is None:
            msg = f"{path} has arrays {sorted(arrays)}; gene features need 'genes' [N] and 'features' [N, F]"
            raise GraphError(msg)
        if arrays[key].dtype.kind not in "fiub":
            msg = f"{key!r} in {path} is {arrays[key].dtype}; it must be numbers [genes, features]"
            raise GraphError(msg)
        return GeneFeatures(name, gene_ids(arrays["genes"], path), arrays[key].astype(np.float32))
    from perturbfm_core.graphs.feature_tables import features_of_table

    return features_of_table(read_parquet(path, GraphError), path, name)[0]
