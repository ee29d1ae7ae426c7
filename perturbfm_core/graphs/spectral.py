"""Spectral gene features: the leading singular vectors of a gene graph."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.schema import FloatArray

_MIN_NODES = 3
# Computes the features of a graph, or finds those that were computed before; none outside of a pipeline.
KEEPER: ContextVar[Callable[[GeneGraph, int], GeneFeatures] | None] = ContextVar(
    "spectral_features", default=None
)


def kept_spectral_features(graph: GeneGraph, dim: int) -> GeneFeatures:
    """Return `spectral_features(graph, dim)`, computed once for each graph where a store keeps them."""
    keep = KEEPER.get()
    return spectral_features(graph, dim) if keep is None else keep(graph, dim)


def spectral_features(graph: GeneGraph, dim: int = 64, *, seed: int = 0) -> GeneFeatures:
    """Return float32 [N, dim] gene features: truncated SVD, A = U S V^T, of the `regularised` adjacency.

    The features are U √S for an undirected graph. For a directed graph they are U √S (the gene as a source)
    and V √S (the gene as a target), dim / 2 each. Genes with similar neighbours have similar features; a gene
    without edges has zeros.

    Parameters
    ----------
    graph
        The graph; the signs of its weights are kept.
    dim
        Number of features; fewer are returned for a graph with too few genes.
    seed
        Seed of the iteration's start vector. The entry of largest magnitude of each vector is made positive,
        so that the signs do not depend on it.

    Raises
    ------
    GraphError
        If the graph has no edge or fewer than 3 genes, or `dim` is less than 1 (directed: 2).
    """
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
    # svds does not promise an order of the singular values.
    order = np.argsort(-S, kind="stable")
    # Each side gets the root of the singular values, so that the product of the two sides approximates A.
    scale = np.sqrt(np.maximum(S[order], 0.0))
    left, right = U[:, order], Vt[order].T
    sign = _signs(left)
    parts = [left * sign * scale, right * sign * scale] if directed else [left * sign * scale]
    matrix = np.concatenate(parts, axis=1).astype(np.float32)
    return GeneFeatures(f"{graph.name}_svd{dim}", graph.genes, matrix)


def regularised(adjacency: Any) -> Any:
    """Return CSR float64 [N, N]: the adjacency normalised by regularised degrees (Qin and Rohe 2013).

    An edge is divided by the roots of (degree of its source + mean degree) and of (degree of its target +
    mean degree), where degrees are sums of absolute weights. Without the mean degree, every small component
    of the graph (such as an isolated pair of genes) would have a leading singular vector of its own, and the
    features would only separate components.
    """
    A = sp.csr_array(adjacency, dtype=np.float64)
    magnitude = abs(A)
    scale = []
    for axis in (1, 0):
        degree = np.asarray(magnitude.sum(axis=axis)).reshape(-1)
        # The mean is over genes with edges, so that genes without any do not change the features of others.
        linked = degree > 0
        root = np.sqrt(degree + degree[linked].mean()) if linked.any() else np.ones_like(degree)
        scale.append(sp.diags_array(1.0 / root))
    return sp.csr_array(scale[0] @ A @ scale[1])


def _signs(vectors: FloatArray) -> FloatArray:
    """Return the sign of the entry of largest magnitude of each column, 1 for a column of zeros."""
    top = np.argmax(np.abs(vectors), axis=0)
    sign = np.sign(vectors[top, np.arange(vectors.shape[1])])
    return np.where(sign == 0, 1.0, sign)
