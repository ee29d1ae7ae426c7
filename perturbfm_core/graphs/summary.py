"""Summary statistics of gene graphs, and their coverage of a data set's genes."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.condition import distinct_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.graphs.graph import GeneGraph


def summary(graph: GeneGraph) -> dict[str, Any]:
    """Return kind, size, density, degree and weights of a graph; an undirected edge counts once."""
    A = graph.adjacency
    directed = bool(graph.meta.get("directed", True))
    n, nnz = len(graph.genes), int(A.nnz)
    out_degree = np.diff(A.indptr)
    in_degree = np.bincount(A.indices, minlength=n)
    return {
        "kind": str(graph.meta.get("kind", "edges")),
        "genes": n,
        "edges": nnz if directed else nnz // 2,
        "directed": directed,
        "density": nnz / (n * (n - 1)) if n > 1 else 0.0,
        "median_degree": float(np.median(out_degree + in_degree if directed else out_degree)) if n else 0.0,
        "negative_share": float((A.data < 0).mean()) if nnz else 0.0,
        "weights": [float(A.data.min()), float(A.data.max())] if nnz else [],
        "split_hash": graph.split_hash,
        "sha256": graph.sha256,
    }


def coverage(graph: GeneGraph, ds: PerturbDataset) -> dict[str, Any]:
    """Return how many measured and perturbed genes of a data set have an edge in the graph."""
    linked = np.diff(graph.adjacency.indptr) + np.bincount(
        graph.adjacency.indices, minlength=len(graph.genes)
    )
    have = set(graph.genes[linked > 0].tolist())
    measured = [str(g) for g in ds.genes]
    perturbed = distinct_genes(ds.conditions[schema.PERT_ID].astype(str).unique())
    absent = [g for g in perturbed if g not in have]
    return {
        "measured_genes": len(measured),
        "measured_with_edges": sum(g in have for g in measured),
        "perturbed_genes": len(perturbed),
        "perturbed_with_edges": len(perturbed) - len(absent),
        "perturbed_without_edges": absent,
    }


def genes_of(ds: PerturbDataset) -> list[str]:
    """Return the measured and perturbed genes of a data set, sorted."""
    return sorted({str(g) for g in ds.genes} | set(distinct_genes(ds.conditions[schema.PERT_ID].astype(str))))
