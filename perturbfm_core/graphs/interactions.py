"""Gene graphs from tables of interactions: protein-protein (STRING) and regulatory (TF to target)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.graph import GeneGraph, from_edges
from perturbfm_core.graphs.neighbours import either_way, strongest
from perturbfm_core.graphs.tables import (
    ends_of,
    find_column,
    gene_names,
    numbers,
)
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

_SCORES = ("combined_score", "score", "weight")
_SIGNS = ("mor", "sign", "weight")
# In order of preference; GRNBoost writes importances, CellOracle coefficients.
_WEIGHTS = (
    *(
        "weight",
        *_SCORES,
        "edge_weight",
        "mor",
        "sign",
        "importance",
        "strength",
        "coef_mean",
        "coef",
        "coefficient",
    ),
    *("correlation", "corr", "cor", "rho"),
)
_MODE_COLUMNS = ("mode", "effect")
_MODES = {"activation": 1.0, "repression": -1.0, "unknown": 0.0}
_CONFIDENCE = "ABC"


def scored_graph(
    table: pd.DataFrame,
    *,
    name: str = "string",
    min_score: float = 700.0,
    top_k: int | None = None,
    keep: Collection[str] | None = None,
    names: dict[str, str] | None = None,
) -> GeneGraph:
    """Return an undirected graph of scored interactions, as STRING publishes them.

    The weight of an edge is its score if no score exceeds 1, score / 1000 if none exceeds 1000, else the
    score divided by the largest.

    Parameters
    ----------
    table
        Columns of two genes (``source``/``target``, ``protein1``/``protein2``, ...) and ``combined_score``.
    name
        Name of the graph.
    min_score
        Smallest score of an edge, in units of the table (STRING: 400 medium, 700 high, 900 highest).
    top_k
        Number of edges that each gene keeps (default: all); an edge is kept if either gene keeps it.
    keep
        Genes to keep (default: all).
    names
        {id in the table: gene name in the data}, if they differ.

    Raises
    ------
    GraphError
        If columns are missing or no edge is left.
    """
    source, target = _ends(table, names)
    found = find_column(table, _SCORES)
    if found is None:
        msg = f"the table has no column of scores; it has {[str(c) for c in table.columns][:8]}, known names: {', '.join(_SCORES)}"
        raise GraphError(msg)
    score = numbers(found, str(found.name))
    if len(score) and score.min() < 0:
        msg = f"column {found.name!r} has negative scores (minimum {score.min():.4g}); use kind 'edges' for signed weights"
        raise GraphError(msg)
    chosen = (score >= min_score) & _kept(source, target, keep)
    top = float(score.max()) if len(score) else 1.0
    scale = 1.0 if top <= 1.0 else max(top, 1000.0)
    graph = _built(
        name,
        source[chosen],
        target[chosen],
        score[chosen] / scale,
        directed=False,
        meta={"kind": "interactions", "min_score": min_score, "top_k": top_k},
        hint=f"scores go up to {top:.6g}; lower --min-score",
    )
    return graph if top_k is None else _thinned(graph, top_k)


def regulatory_graph(
    table: pd.DataFrame,
    *,
    name: str = "tf",
    confidence: str = _CONFIDENCE,
    keep: Collection[str] | None = None,
    names: dict[str, str] | None = None,
) -> GeneGraph:
    """Return a signed, directed graph from transcription factors to targets (DoRothEA, CollecTRI, TRRUST).

    The weight of an edge is the mean sign of its records: +1 activation, -1 repression. Records of unknown
    sign are left out, and so are edges whose records cancel.

    Parameters
    ----------
    table
        Columns of factor and target, and the sign as ``mor``, ``sign``, ``weight`` or ``mode`` (Activation,
        Repression, Unknown); without a header: factor, target, mode.
    name
        Name of the graph.
    confidence
        Letters of the confidence levels to keep, if the table has that column.
    keep
        Genes to keep (default: all).
    names
        {id in the table: gene name in the data}, if they differ.

    Raises
    ------
    GraphError
        If columns are missing, a sign cannot be read, or no edge is left.
    """
    source, target = _ends(table, names)
    sign = _signs(table)
    chosen = (sign != 0) & _kept(source, target, keep)
    levels = find_column(table, ("confidence",))
    if levels is not None:
        wanted = {c.upper() for c in confidence if c.isalpha()}
        chosen &= levels.astype(str).str.upper().isin(wanted).to_numpy()
    pairs = pd.DataFrame({"source": source[chosen], "target": target[chosen], "sign": sign[chosen]})
    mean = pairs.groupby(["source", "target"], sort=True)["sign"].mean()
    mean = mean[mean != 0]
    return _built(
        name,
        mean.index.get_level_values(0).to_numpy(dtype=np.str_),
        mean.index.get_level_values(1).to_numpy(dtype=np.str_),
        mean.to_numpy(),
        directed=True,
        meta={"kind": "regulatory", "confidence": confidence if levels is not None else None},
        hint="check --confidence and the genes kept",
    )


def edge_graph(
    table: pd.DataFrame,
    *,
    name: str,
    directed: bool,
    top_k: int | None = None,
    keep: Collection[str] | None = None,
    names: dict[str, str] | None = None,
) -> GeneGraph:
    """Return a graph of any table of edges: two columns of genes and ``weight`` (or a score, or a sign; default all 1).

    Parameters
    ----------
    table
        Columns of source and target genes and, optionally, of weights (see `weight_column`).
    name
        Name of the graph.
    directed
        Whether edges have a direction.
    top_k
        Number of edges that each gene keeps (default: all).
    keep
        Genes to keep (default: all).
    names
        {id in the table: gene name in the data}, if they differ.
    """
    source, target = _ends(table, names)
    found = weight_column(table)
    weight = np.ones(len(source)) if found is None else numbers(found, str(found.name))
    mode = find_column(table, _MODE_COLUMNS)
    if found is None and mode is not None and set(mode.astype(str).str.strip().str.lower()) <= set(_MODES):
        weight = _signs(table)
    chosen = _kept(source, target, keep) & (weight != 0)
    graph = _built(
        name,
        source[chosen],
        target[chosen],
        weight[chosen],
        directed=directed,
        meta={"kind": "edges", "top_k": top_k},
        hint="check the genes kept",
    )
    return graph if top_k is None else _thinned(graph, top_k)


def weight_column(table: pd.DataFrame) -> Any:
    """Return the column of a table of edges with their weights: a weight, score, sign or strength; None if there is none."""
    return find_column(table, _WEIGHTS)


def _ends(table: pd.DataFrame, names: dict[str, str] | None) -> tuple[StrArray, StrArray]:
    """Return the gene names [E] of the two ends of every edge."""
    source, target = ends_of(table)
    return gene_names(source, names), gene_names(target, names)


def _signs(table: pd.DataFrame) -> FloatArray:
    """Return float64 [E], the sign of every record: 1, -1, or 0 if unknown."""
    found = find_column(table, _SIGNS)
    if found is not None:
        return np.sign(numbers(found, str(found.name)))
    mode = find_column(table, _MODE_COLUMNS)
    if mode is None and list(table.columns) == list(range(table.shape[1])) and table.shape[1] > 2:
        mode = table[2]
    if mode is None:
        msg = (
            f"the table has no column of signs; it has {[str(c) for c in table.columns][:8]}, "
            f"known names: {', '.join(_SIGNS)}, mode"
        )
        raise GraphError(msg)
    sign = mode.astype(str).str.strip().str.lower().map(_MODES).to_numpy(dtype=np.float64)
    if np.isnan(sign).any():
        bad = str(mode.to_numpy()[int(np.flatnonzero(np.isnan(sign))[0])])
        msg = f"mode {bad!r} is unknown; known: {', '.join(m.capitalize() for m in _MODES)}"
        raise GraphError(msg)
    return np.asarray(sign)


def _kept(source: StrArray, target: StrArray, keep: Collection[str] | None) -> BoolArray:
    if keep is None:
        return np.ones(len(source), dtype=np.bool_)
    wanted = np.asarray(sorted(keep), dtype=np.str_)
    return np.isin(source, wanted) & np.isin(target, wanted)


def _built(
    name: str,
    source: StrArray,
    target: StrArray,
    weight: FloatArray,
    *,
    directed: bool,
    meta: dict[str, Any],
    hint: str,
) -> GeneGraph:
    if not (source != target).any():
        msg = f"graph {name!r} would have no edge; {hint}"
        raise GraphError(msg)
    return from_edges(name, source, target, weight, directed=directed, meta=meta)


def _thinned(graph: GeneGraph, top_k: int) -> GeneGraph:
    kept = strongest(graph.adjacency, top_k)
    if not graph.meta["directed"]:
        kept = either_way(kept)
    return GeneGraph(graph.name, graph.genes, kept, graph.split_hash, graph.meta)
