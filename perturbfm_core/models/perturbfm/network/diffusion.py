"""An intervention spread over gene graphs: what each condition reaches, step by step."""

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
    """Return per graph CSR [n * T, nodes], and per graph and step CSR [n, G] without the sources themselves.

    Parameters
    ----------
    graphs, genes
        The graphs, and the measured genes [G].
    names
        Genes that are acted on.
    signed
        CSR [n, names], how strongly each condition acts on them.
    steps, top
        Steps T, and how many nodes each row keeps.
    """
    spread, diffused = [], []
    n, T = signed.shape[0], steps
    position = {g: i for i, g in enumerate(genes)}
    acts = sp.coo_array(signed)
    target = np.asarray([position.get(g, -1) for g in names], dtype=np.int64)[acts.col]
    G = len(genes)
    own = (acts.row.astype(np.int64) * G + target)[target >= 0]
    for graph in graphs:
        found = diffuse(graph, names, steps=T, normalisation=normalisation(graph), top_n=top)
        powers = [sp.csr_array(signed @ s, dtype=np.float32) for s in found.steps]
        # Rows of one condition lie together: step by step.
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
    """Return how a graph is scaled for diffusion: regulation keeps its weights, similarity is symmetrised."""
    A = graph.adjacency
    return "symmetric" if A.nnz == 0 or abs(A - A.T).max() < 1e-9 else "spectral"


def _selection(nodes: Any, position: dict[str, int]) -> Any:
    """Return CSR [nodes, G] that moves values of nodes to measured genes."""
    at = np.asarray([position.get(str(g), -1) for g in nodes], dtype=np.int64)
    kept = np.flatnonzero(at >= 0)
    return sp.csr_array(
        (np.ones(len(kept), dtype=np.float32), (kept, at[kept])), shape=(len(at), len(position))
    )
