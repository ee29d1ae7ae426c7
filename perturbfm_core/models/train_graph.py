"""The co-expression graph of a train view: which rows it reads, and whose split it belongs to."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.hashing import row_rank_hash
from perturbfm_core.graphs.coexpression import MAX_CELLS, TOP_K, coexpression_graph
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.knowledge import COEXPRESSION
from perturbfm_core.splits.view import TrainView


def train_coexpression(
    view: TrainView,
    split_hash: str,
    *,
    name: str = COEXPRESSION,
    top_k: int = TOP_K,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
) -> GeneGraph:
    """Return the co-expression graph of a view's own rows, bound to its split.

    Of single cells: expression of the view's cells and its contexts' input controls, correlated within contexts.
    Of data by condition, or a view without cells: the deltas of its conditions. Validation rows are left out; so are the held-out rows of
    an inner fold where `view` is the subset without them.

    Parameters
    ----------
    view
        The train view of a split, or a subset of it.
    split_hash
        The split; the graph is refused with any other.
    top_k, max_cells, seed
        See `coexpression_graph`; cells are chosen by their ids, whatever the order of rows.

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
