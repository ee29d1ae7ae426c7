"""Gene features from the neighbours of each gene in a graph."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph


def neighbourhood_features(graph: GeneGraph, dim: int, *, name: str, seed: int = 0) -> GeneFeatures:
    """Return float32 [N, <= dim] gene features: truncated SVD (U S) of the weighted neighbourhoods.

    The neighbourhood of a gene is a row of the absolute weights of its edges, with 1 for the gene itself; each column is
    divided by log(1 + degree), since a shared neighbour says less if it is everyone's. Unlike `spectral_features`, genes
    that are joined to the same genes are near each other whether or not they are joined themselves.

    Parameters
    ----------
    graph
        The graph.
    dim
        Number of features; fewer for a small graph.
    name
        Name of the table.
    seed
        Seed of the randomised SVD.

    Raises
    ------
    GraphError
        If the graph has fewer than 3 genes.
    """
    from sklearn.decomposition import TruncatedSVD

    n = len(graph.genes)
    if n < 3:
        msg = f"graph {graph.name!r} has {n} genes; features of neighbourhoods need 3"
        raise GraphError(msg)
    A = abs(sp.csr_array(graph.adjacency, dtype=np.float64))
    A = sp.csr_array(A.maximum(A.T)) + sp.eye_array(n, format="csr")
    size = np.diff(sp.csr_array(A).indptr)
    weighted = sp.csr_array(A @ sp.diags_array(1.0 / np.log1p(size)))
    # The share of variance that it explains is not used, and is undefined where all genes have the same neighbours.
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = TruncatedSVD(max(1, min(dim, n - 1)), random_state=seed).fit_transform(weighted)
    return GeneFeatures(name, graph.genes, np.asarray(matrix, dtype=np.float32))
