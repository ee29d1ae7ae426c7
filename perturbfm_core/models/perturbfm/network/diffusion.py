"""Diffusion of interventions over gene graphs, step by step, onto graph nodes and measured genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.graphs.diffusion import Normalisation, diffuse
from perturbfm_core.graphs.graph import GeneGraph


def spread_over(
    graphs: Sequence[GeneGraph], genes: Sequence[str], names: list[str], signed: Any, steps: int, top: int
) -> tuple[list[Any], list[Any]]:
    """Diffuse interventions over graphs.

    Parameters
    ----------
    graphs, genes
        The graphs, and the measured genes [G].
    names
        Genes that are acted on.
    signed
        CSR [n, names], signed strength with which each condition acts on them.
    steps, top
        Number of steps T, and how many nodes each row keeps.

    Returns
    -------
    tuple
        (per graph CSR float32 [n * T, nodes]; per graph and step CSR float32 [n, G] on measured genes,
        without the entries of the target genes themselves).
    """
    spread, diffused = [], []
    n, T = signed.shape[0], steps
    position = {g: i for i, g in enumerate(genes)}
    acts = sp.coo_array(signed)
    target = np.asarray([position.get(g, -1) for g in names], dtype=np.int64)[acts.col]
    G = len(genes)
    # One integer per pair of condition and target gene, to drop these entries below: the effect on the target
    # itself is modelled apart, as the direct effect.
    own = (acts.row.astype(np.int64) * G + target)[target >= 0]
    for graph in graphs:
        found = diffuse(graph, names, steps=T, normalisation=normalisation(graph), top_n=top)
        powers = [sp.csr_array(signed @ s, dtype=np.float32) for s in found.steps]
        # From step-major to condition-major order: the T rows of a condition are adjacent.
        order = np.arange(n * T).reshape(T, n).T.ravel()
        spread.append(sp.csr_array(sp.vstack(powers))[order])
        to_measured = _selection(graph.genes, position)
        for power in powers:
            measured = sp.coo_array(sp.csr_array(power @ to_measured, dtype=np.float32))
            keep = ~np.isin(measured.row.astype(np.int64) * G + measured.col, own) & (measured.data != 0)
            parts = (measured.data[keep], (measured.row[keep], measured.col[keep]))
            diffused.append(sp.csr_array(parts, shape=measured.shape))
    return spread, diffused


def normalisation(graph: GeneGraph) -> Normalisation:
    """Return how a graph is normalised for diffusion.

    Directed graphs (regulation) keep the ratios of their edge weights; undirected ones (similarity) are
    normalised by the degrees of both ends.
    """
    A = graph.adjacency
    return "symmetric" if A.nnz == 0 or abs(A - A.T).max() < 1e-9 else "spectral"


def _selection(nodes: Any, position: dict[str, int]) -> Any:
    """Return CSR [nodes, G] that maps values of graph nodes to measured genes."""
    at = np.asarray([position.get(str(g), -1) for g in nodes], dtype=np.int64)
    kept = np.flatnonzero(at >= 0)
    return sp.csr_array(
        (np.ones(len(kept), dtype=np.float32), (kept, at[kept])), shape=(len(at), len(position))
    )
