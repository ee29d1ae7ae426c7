"""Gene features from a graph: its leading singular vectors."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.schema import FloatArray

_MIN_NODES = 3


def spectral_features(
    graph: GeneGraph, dim: int = 64, *, seed: int = 0, name: str | None = None
) -> GeneFeatures:
    """Return float32 [N, dim] features of every node: truncated SVD of the adjacency, as `regularised`.

    A gene of an undirected graph has U √S; of a directed one its half as a source, U √S, and its half as a
    target, V √S, of dim / 2 each. Genes of like neighbours have like features; a gene without edges has zeros.

    Parameters
    ----------
    graph
        The graph; its weights' signs are kept.
    dim
        Features, at most what the graph has dimensions for (fewer are returned from a smaller graph).
    seed
        Of the iteration's start. Each vector's entry of largest magnitude is positive, so that the same graph
        gives the same signs.
    name
        Name of the table (default: ``<graph>_svd<dim>``).

    Raises
    ------
    GraphError
        If the graph has no edge or fewer than 3 genes, or `dim` is less than 1 (directed: 2).
    """

    import numpy as np
    from scipy.sparse.linalg import svds

    A = regularised(graph.adjacency)
    directed = bool(abs(A - A.T).max() > 1e-9) if A.nnz else False
    if A.shape[0] < _MIN_NODES or not A.nnz:
        msg = f"graph {graph.name!r} has {A.shape[0]} genes and {A.nnz} edges; spectral features need {_MIN_NODES} and one"
        raise GraphError(msg)
    if dim < 1 + directed:
        msg = (
            f"dim is {dim}; a {'directed' if directed else 'undirected'} graph needs at least {1 + directed}"
        )
        raise GraphError(msg)
    k = min(dim // 2 if directed else dim, A.shape[0] - 1)
    start = np.random.default_rng(seed).standard_normal(A.shape[0])
    U, S, Vt = svds(A, k=k, v0=start)
    order = np.argsort(-S, kind="stable")
    scale = np.sqrt(np.maximum(S[order], 0.0))
    left, right = U[:, order], Vt[order].T
    sign = _signs(left)
    parts = [left * sign * scale, right * sign * scale] if directed else [left * sign * scale]
    matrix = np.concatenate(parts, axis=1).astype(np.float32)
    return GeneFeatures(name or f"{graph.name}_svd{dim}", graph.genes, matrix)


def regularised(adjacency: Any) -> Any:
    """Return CSR float64: every edge over the roots of (its source's + mean, its target's + mean) sums of magnitudes.

    Without the mean, every small component of a graph (a lone pair of genes) would have a leading singular vector of
    its own, and the features would tell components apart and nothing else (Qin and Rohe 2013).
    """

    import numpy as np

    A = sp.csr_array(adjacency, dtype=np.float64)
    magnitude = abs(A)
    scale = []
    for axis in (1, 0):
        degree = np.asarray(magnitude.sum(axis=axis)).reshape(-1)
        linked = degree > 0
        root = np.sqrt(degree + degree[linked].mean()) if linked.any() else np.ones_like(degree)
        scale.append(sp.diags_array(1.0 / root))
    return sp.csr_array(scale[0] @ A @ scale[1])


def _signs(vectors: FloatArray) -> FloatArray:
    """Return the sign of each column's entry of largest magnitude."""

    import numpy as np

    top = np.argmax(np.abs(vectors), axis=0)
    sign = np.sign(vectors[top, np.arange(vectors.shape[1])])
    return np.where(sign == 0, 1.0, sign)
