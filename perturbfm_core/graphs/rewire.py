"""Degree-preserving random rewiring of gene graphs, as a control for the information in their edges."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.schema import BoolArray, IntArray

_ROUNDS = 20


def rewire(graph: GeneGraph, seed: int, *, rounds: int = _ROUNDS) -> GeneGraph:
    """Return the graph with randomly swapped edges, in which every gene keeps its degrees.

    Two edges a→b and c→d become a→d and c→b (in an undirected graph, after a random choice of their
    orientation), unless this makes an edge from a gene to itself or one that exists already. This is the
    Markov chain of Maslov and Sneppen 2002, in rounds that try to swap all edges in pairs at once. The weight
    of an edge stays with its source (undirected: with either end).

    Parameters
    ----------
    graph
        Any graph; an undirected one stays symmetric.
    seed
        Seed of the swaps.
    rounds
        Number of rounds, each of which tries to swap every edge once.
    """
    rng = np.random.default_rng(seed)
    n = len(graph.genes)
    coo = graph.adjacency.tocoo()
    source, target, weight = coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data
    directed = bool(abs(graph.adjacency - graph.adjacency.T).max() > 0) if coo.nnz else True
    if not directed:
        # One entry per undirected edge; the mirror image is added again at the end.
        once = source < target
        source, target, weight = source[once], target[once], weight[once]
    for _ in range(rounds if len(source) > 1 else 0):
        if not directed:
            flip = rng.random(len(source)) < 0.5
            source, target = np.where(flip, target, source), np.where(flip, source, target)
        # Random pairs of edges: the first half of a random order with the second.
        order = rng.permutation(len(source))
        half = len(order) // 2
        a, b = order[:half], order[half : 2 * half]
        # Edges that are swapped in this round still count as taken: a few valid swaps are lost, no edge is
        # repeated.
        taken = _keys(source, target, n, directed)
        one = _keys(source[a], target[b], n, directed)
        two = _keys(source[b], target[a], n, directed)
        fine = (source[a] != target[b]) & (source[b] != target[a])
        fine &= ~np.isin(one, taken) & ~np.isin(two, taken)
        fine &= _all_new(one, two, fine)
        a, b = a[fine], b[fine]
        target[a], target[b] = target[b], target[a]
    edges = (weight, (source, target))
    adjacency = sp.csr_array(edges, shape=(n, n))
    if not directed:
        adjacency = sp.csr_array(adjacency + adjacency.T)
    meta = {**graph.meta, "rewired": seed, "rewired_from": graph.sha256}
    return GeneGraph(f"{graph.name}-rewired-{seed}", graph.genes, adjacency, graph.split_hash, meta)


def _keys(source: IntArray, target: IntArray, n: int, directed: bool) -> IntArray:
    """Return int64 [E], a number for each edge, the same for both directions of an undirected edge."""
    if directed:
        return source * n + target
    return np.minimum(source, target) * n + np.maximum(source, target)


def _all_new(one: IntArray, two: IntArray, fine: BoolArray) -> BoolArray:
    """Return bool [pairs]: valid swaps whose two new edges are proposed by no other valid swap."""
    pairs = np.flatnonzero(fine)
    keys = np.concatenate([one[pairs], two[pairs]])
    _, where, count = np.unique(keys, return_inverse=True, return_counts=True)
    unique = count[where] == 1
    out = np.zeros(len(fine), dtype=np.bool_)
    out[pairs] = unique[: len(pairs)] & unique[len(pairs) :]
    return out
