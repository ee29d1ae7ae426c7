"""Rewired graphs: every gene keeps its degrees, the edges go elsewhere. The control of what a graph tells."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.schema import BoolArray, IntArray

_ROUNDS = 20


def rewire(graph: GeneGraph, seed: int, *, rounds: int = _ROUNDS) -> GeneGraph:
    """Return the graph with its edges swapped at random, every degree kept.

    Two edges a→b and c→d become a→d and c→b (undirected: of either orientation), unless that makes a self
    edge or one that is there already: the Markov chain of Maslov and Sneppen 2002, in rounds that try to swap all
    edges in pairs at once. The weight of an edge stays with its source (undirected: with either end).

    Parameters
    ----------
    graph
        Any graph; an undirected one stays symmetric.
    seed
        Of the swaps.
    rounds
        Each tries to swap every edge once.
    """
    rng = np.random.default_rng(seed)
    n = len(graph.genes)
    coo = graph.adjacency.tocoo()
    source, target, weight = coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data
    directed = bool(abs(graph.adjacency - graph.adjacency.T).max() > 0) if coo.nnz else True
    if not directed:
        once = source < target
        source, target, weight = source[once], target[once], weight[once]
    for _ in range(rounds if len(source) > 1 else 0):
        if not directed:
            flip = rng.random(len(source)) < 0.5
            source, target = np.where(flip, target, source), np.where(flip, source, target)
        order = rng.permutation(len(source))
        half = len(order) // 2
        a, b = order[:half], order[half : 2 * half]
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
    """Return one number per edge, the same for both directions of an undirected one."""
    if directed:
        return source * n + target
    return np.minimum(source, target) * n + np.maximum(source, target)


def _all_new(one: IntArray, two: IntArray, fine: BoolArray) -> BoolArray:
    """Return which of the proposed pairs of edges are proposed by no other pair (among those still fine)."""
    pairs = np.flatnonzero(fine)
    keys = np.concatenate([one[pairs], two[pairs]])
    _, where, count = np.unique(keys, return_inverse=True, return_counts=True)
    unique = count[where] == 1
    out = np.zeros(len(fine), dtype=np.bool_)
    out[pairs] = unique[: len(pairs)] & unique[len(pairs) :]
    return out
