"""Co-expression graphs: the strongest Pearson correlations of every gene, computed exactly in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.hashing import row_rank_hash
from perturbfm_core.data.matrix import Matrix, row_blocks, take_rows
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.defaults import MAX_CELLS, TOP_K
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.neighbours import either_way
from perturbfm_core.graphs.side_info import COEXPRESSION
from perturbfm_core.schema import FloatArray, IntArray, StrArray
from perturbfm_core.splits.view import TrainView

_MIN_ROWS = 3
_GENE_BLOCK = 1024
_ROW_BLOCK = 2048


def coexpression_graph(
    X: Matrix,
    genes: StrArray,
    *,
    name: str = "coexpression",
    top_k: int = TOP_K,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
    groups: IntArray | None = None,
    min_weight: float = 0.0,
    split_hash: str | None = None,
    meta: dict[str, Any] | None = None,
) -> GeneGraph:
    """Return the undirected graph that joins each gene to its `top_k` most strongly correlated genes.

    The weight of an edge is the Pearson correlation with its sign; the strength is its absolute value. An
    edge is kept if it is among the strongest of either gene. Genes without variance have no edges. Only a
    block of the [G, G] correlations is in memory at a time.

    Parameters
    ----------
    X
        Expression or deltas [n, G], CSR or dense.
    genes
        Gene ids [G].
    name
        Name of the graph.
    top_k
        Number of edges that each gene keeps.
    max_cells
        If there are more rows, a random sample of this size is used.
    seed
        Seed of the sample.
    groups
        int [n], group of each row. Rows are then centred on the mean of their group, so that differences
        between groups (e.g. contexts) do not make all genes look correlated.
    min_weight
        Smallest absolute correlation of an edge.
    split_hash
        Hash of the split whose training rows are in `X`.
    meta
        Further metadata of the graph.

    Raises
    ------
    GraphError
        If there are fewer than 3 rows, `top_k` is less than 1, or shapes disagree.
    """
    n, G = X.shape
    if len(genes) != G or (groups is not None and len(groups) != n):
        msg = f"expression is {X.shape} for {len(genes)} genes and {n if groups is None else len(groups)} groups of rows"
        raise GraphError(msg)
    if top_k < 1 or max_cells < _MIN_ROWS:
        msg = f"top_k is {top_k} and max_cells {max_cells}; they must be at least 1 and {_MIN_ROWS}"
        raise GraphError(msg)
    if n > max_cells:
        chosen = np.sort(np.random.default_rng(seed).choice(n, size=max_cells, replace=False))
        X, n = take_rows(X, chosen), max_cells
        groups = None if groups is None else groups[chosen]
    if n < _MIN_ROWS:
        msg = f"graph {name!r}: correlations need at least {_MIN_ROWS} rows, found {n}"
        raise GraphError(msg)
    adjacency = _correlations(X, groups, top_k, min_weight)
    built = {
        "kind": "coexpression",
        "directed": False,
        "rows": n,
        "top_k": top_k,
        "max_cells": max_cells,
        "seed": seed,
        "within_groups": groups is not None,
    }
    return GeneGraph(name, np.asarray(genes, dtype=np.str_), adjacency, split_hash, {**built, **(meta or {})})


def _correlations(X: Matrix, groups: IntArray | None, top_k: int, min_weight: float) -> Any:
    """Return symmetric CSR [G, G] of every gene's strongest correlations."""
    n, G = X.shape
    codes = np.zeros(n, dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    mean, scale = _moments(X, codes)
    k = min(top_k, G - 1)
    rows, cols, values = [], [], []
    for block in row_blocks(G, _GENE_BLOCK):
        C = np.zeros((block.stop - block.start, G), dtype=np.float32)
        for part in row_blocks(n, _ROW_BLOCK):
            # Columns of Z have mean 0 in each group and norm 1 over all rows: Z.T @ Z are the correlations.
            Z = _standardised(X[part], codes[part], mean, scale)
            C += Z[:, block].T @ Z
        at = np.arange(block.start, block.stop)
        C[np.arange(len(at)), at] = 0.0
        strength = np.abs(C)
        # A partial sort finds the k strongest without ordering all G.
        best = (
            np.argpartition(-strength, k - 1, axis=1)[:, :k] if k else np.zeros((len(at), 0), dtype=np.int64)
        )
        weight = np.take_along_axis(C, best, axis=1)
        good = (np.abs(weight) >= min_weight) & (weight != 0)
        rows.append(np.repeat(at, good.sum(axis=1)))
        cols.append(best[good])
        values.append(weight[good])
    found = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
    # Rounding may leave a correlation slightly above 1.
    adjacency = either_way(sp.coo_array(found, shape=(G, G)))
    adjacency.data = np.clip(adjacency.data, -1.0, 1.0)
    return adjacency


def _moments(X: Matrix, codes: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return (float32 [groups, G] group means, float32 [G] 1 / root of the sum of squares around them)."""
    count = np.bincount(codes)
    member = sp.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))))
    first = np.asarray(_dense(member @ X), dtype=np.float64)
    mean = first / count[:, None]
    spread = np.zeros(X.shape[1])
    magnitude = np.zeros(X.shape[1])
    # A second pass around the means is more accurate than the difference of second moment and squared mean.
    for part in row_blocks(X.shape[0], _ROW_BLOCK):
        values = np.asarray(_dense(X[part]), dtype=np.float64)
        spread += ((values - mean[codes[part]]) ** 2).sum(axis=0)
        magnitude += (values**2).sum(axis=0)
    # A constant gene has a small sum of squares from rounding, which must not count as variance.
    varies = spread > 1e-10 * np.maximum(magnitude, 1e-30)
    scale = np.divide(1.0, np.sqrt(spread), out=np.zeros_like(spread), where=varies)
    return mean.astype(np.float32), scale.astype(np.float32)


def _standardised(part: Matrix, codes: IntArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    Z = np.array(_dense(part), dtype=np.float32)
    Z -= mean[codes]
    Z *= scale
    return Z


def _dense(X: Matrix) -> Any:
    return X.toarray() if sp.issparse(X) else X


def train_coexpression(
    view: TrainView,
    split_hash: str,
    *,
    name: str = COEXPRESSION,
    top_k: int = TOP_K,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
) -> GeneGraph:
    """Return the co-expression graph of a training view's own rows, for use with the view's split only.

    For single-cell data, expression of the view's cells and of the input controls of their contexts is
    correlated within contexts. For condition-level data, or a view without access to cells, the deltas of its
    conditions are correlated. Validation rows are left out, and so are the held-out rows of an inner fold if
    `view` is the subset without them.

    Parameters
    ----------
    view
        Training view of a split, or a subset of it.
    split_hash
        Hash of the split.
    name
        Name of the graph.
    top_k
        Number of edges that each gene keeps.
    max_cells
        If there are more cells, a random sample of this size is used; it depends on the row ids, not their
        order.
    seed
        Seed of the sample.

    Raises
    ------
    GraphError
        If there are fewer than 3 rows.
    """
    ds, own = view.dataset, view.fit_rows
    if ds is None or own is None or ds.metadata.level != "cell":
        return coexpression_graph(
            view.delta,
            view.genes,
            name=name,
            top_k=top_k,
            max_cells=max_cells,
            seed=seed,
            split_hash=split_hash,
            meta={"made_from": "condition deltas"},
        )
    rows = np.flatnonzero(own)
    if len(rows) > max_cells:
        order = np.argsort(row_rank_hash(ds.row_ids[rows], seed), kind="stable")
        rows = np.sort(rows[order[:max_cells]])
    return coexpression_graph(
        view.expression(rows),
        view.genes,
        name=name,
        top_k=top_k,
        max_cells=max_cells,
        seed=seed,
        groups=ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()[rows],
        split_hash=split_hash,
        meta={"made_from": "cells", "within": "contexts"},
    )
