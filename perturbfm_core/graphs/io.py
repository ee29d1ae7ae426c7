"""Reading and writing of gene graphs, and writing of gene features, as npz files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures, gene_ids
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.parsing import parse_json
from perturbfm_core.store.atomic import write_atomic


def write_graph(graph: GeneGraph, path: Path) -> None:
    """Write a graph atomically as npz (edge_index, edge_weight, genes, split_hash, meta)."""
    coo = graph.adjacency.tocoo()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        edge_index=np.stack([coo.row, coo.col]).astype(np.int64),
        edge_weight=coo.data.astype(np.float32),
        genes=np.asarray(graph.genes, dtype=np.str_),
        split_hash=np.asarray(graph.split_hash or "", dtype="<U64"),
        meta=np.asarray(json.dumps({"name": graph.name, **graph.meta}, sort_keys=True, ensure_ascii=False)),
    )
    write_atomic(path, buffer.getvalue())


def read_graph(path: Path, name: str | None = None) -> GeneGraph:
    """Read a graph from an npz file.

    Parameters
    ----------
    path
        File with ``genes`` [N] and ``adjacency`` [N, N], or ``edge_index`` [2, E] (source, target) and
        ``edge_weight`` [E] (default: all 1); optionally ``split_hash`` and ``meta`` (JSON text).
    name
        Name of the graph (default: the file name without its suffix).

    Raises
    ------
    GraphError
        If the file has neither form, or an edge points outside the genes.
    """
    arrays = read_npz(path, GraphError)
    if "genes" not in arrays or not {"adjacency", "edge_index"} & set(arrays):
        msg = f"{path} has arrays {sorted(arrays)}; a graph needs 'genes' with 'adjacency', or with 'edge_index'"
        raise GraphError(msg)
    genes = gene_ids(arrays["genes"], path)
    stated = arrays.get("split_hash", np.asarray(""))
    if stated.shape != () or stated.dtype.kind != "U":
        msg = f"'split_hash' in {path} is {stated.dtype} {stated.shape}; it must be one text"
        raise GraphError(msg)
    split_hash = str(stated)
    adjacency = _dense(arrays, path) if "adjacency" in arrays else _from_index(arrays, path)
    meta = _meta(arrays, path)
    if not np.isfinite(adjacency.data).all():
        msg = f"{path} has weights that are not finite; build the graph again"
        raise GraphError(msg)
    meta.setdefault("directed", bool(abs(adjacency - adjacency.T).max() > 0) if adjacency.nnz else False)
    return GeneGraph(name or path.stem, genes, adjacency, split_hash or None, meta)


def _dense(arrays: dict[str, Any], path: Path) -> Any:
    A = arrays["adjacency"]
    n = len(arrays["genes"])
    if A.ndim == 2 and A.shape != (n, n):
        msg = f"{path} has an adjacency {A.shape} for {n} genes; it must be [genes, genes]"
        raise GraphError(msg)
    if A.ndim != 2 or A.dtype.kind not in "fiub":
        msg = f"'adjacency' in {path} is {A.dtype} {A.shape}; it must be numbers [genes, genes]"
        raise GraphError(msg)
    return sp.csr_array(A.astype(np.float32))


def _from_index(arrays: dict[str, Any], path: Path) -> Any:
    n = len(arrays["genes"])
    index = arrays["edge_index"]
    if index.ndim != 2 or index.shape[0] != 2 or index.dtype.kind not in "iu":
        msg = f"'edge_index' in {path} is {index.dtype} {index.shape}; it must be whole numbers [2, edges]"
        raise GraphError(msg)
    weight = arrays.get("edge_weight", np.ones(index.shape[1], dtype=np.float32))
    if weight.shape != (index.shape[1],) or weight.dtype.kind not in "fiu":
        msg = f"'edge_weight' in {path} is {weight.dtype} {weight.shape} for {index.shape[1]} edges"
        raise GraphError(msg)
    if index.size and (index.min() < 0 or index.max() >= n):
        wrong = int(index.min() if index.min() < 0 else index.max())
        msg = f"'edge_index' in {path} names gene {wrong}, there are {n} (0 to {n - 1})"
        raise GraphError(msg)
    pairs = index.astype(np.int64)
    return sp.csr_array((weight.astype(np.float32), (pairs[0], pairs[1])), shape=(n, n))


def _meta(arrays: dict[str, Any], path: Path) -> dict[str, Any]:
    if "meta" not in arrays:
        return {}
    meta = parse_json(str(arrays["meta"]), f"'meta' in {path}", GraphError, "; build the graph again")
    if not isinstance(meta, dict):
        msg = f"'meta' in {path} is not a table of names; build the graph again"
        raise GraphError(msg)
    meta.pop("name", None)
    return meta


def write_features(features: GeneFeatures, path: Path) -> None:
    """Write a table of gene features atomically as npz (genes, features)."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        genes=np.asarray(features.genes, dtype=np.str_),
        features=features.matrix.astype(np.float32),
    )
    write_atomic(path, buffer.getvalue())
