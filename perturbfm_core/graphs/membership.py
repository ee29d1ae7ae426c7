"""Gene graphs and gene features from gene sets (Gene Ontology, Reactome or any other terms)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.defaults import DIMENSIONS, MAX_TERM
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.neighbours import either_way, strongest
from perturbfm_core.graphs.tables import GENE_COLUMNS, TERM_COLUMNS, gene_names, id_column

if TYPE_CHECKING:
    import pandas as pd


_BLOCK = 1024


def membership_graph(
    table: pd.DataFrame,
    *,
    name: str,
    top_k: int = 20,
    min_term: int = 2,
    max_term: int = 500,
    keep: Collection[str] | None = None,
    names: dict[str, str] | None = None,
) -> GeneGraph:
    """Return the graph that joins genes which share terms.

    The weight of an edge is Σ 1 / log(size) over the shared terms (the index of Adamic and Adar 2003): a
    shared small term is more informative than a shared large one.

    Parameters
    ----------
    table
        One row per (term, gene), in any order; repeated rows count once.
    name
        Name of the graph.
    top_k
        Number of edges that each gene keeps; an edge is kept if either gene keeps it.
    min_term
        Terms with fewer genes are left out (at least 2). Sizes count all genes of the table.
    max_term
        Terms with more genes are left out, as uninformative.
    keep
        Genes to keep (default: all).
    names
        {id in the table: gene name in the data}, if they differ.

    Raises
    ------
    GraphError
        If columns are missing or no two genes share a term.
    """
    nodes, B, size = _incidence(table, names)
    chosen = (size >= max(min_term, 2)) & (size <= max_term)
    if keep is not None:
        wanted = np.isin(nodes, np.asarray(sorted(keep), dtype=np.str_))
        nodes, B = nodes[wanted], B[wanted]
    B = sp.csr_array(B[:, chosen])
    # B diag(1 / log size) B.T sums the weights of shared terms for every pair of genes, here in blocks of
    # rows.
    weighted = sp.csr_array((B * (1.0 / np.log(size[chosen]))).T)
    parts = []
    for block in row_blocks(len(nodes), _BLOCK):
        shared = sp.coo_array(B[block] @ weighted)
        off = shared.row + block.start != shared.col
        part = sp.csr_array((shared.data[off], (shared.row[off], shared.col[off])), shape=shared.shape)
        parts.append(strongest(part, top_k))
    adjacency = either_way(sp.vstack(parts)) if parts else sp.csr_array((0, 0))
    if not adjacency.nnz:
        msg = (
            f"graph {name!r} would have no edge: no two of {len(nodes)} genes share a term of {min_term} to {max_term} "
            "genes; check the table and the genes kept"
        )
        raise GraphError(msg)
    # Genes without an edge are left out of the graph.
    joined = np.flatnonzero(np.diff(adjacency.indptr))
    meta = {
        "kind": "membership",
        "directed": False,
        "terms": int(chosen.sum()),
        "top_k": top_k,
        "min_term": min_term,
        "max_term": max_term,
    }
    return GeneGraph(name, nodes[joined], adjacency[joined][:, joined], None, meta)


def membership_features(
    table: pd.DataFrame,
    *,
    name: str,
    dim: int = DIMENSIONS,
    max_term: int = MAX_TERM,
    seed: int = 0,
    names: dict[str, str] | None = None,
) -> GeneFeatures:
    """Return float32 [N, dim] gene features: truncated SVD (U S) of the weighted gene-by-term matrix.

    A membership has the weight 1 / log(1 + size of the term), as rare words weigh more in document retrieval.
    Unlike features of `membership_graph`, these do not depend on a limit of neighbours per gene.

    Parameters
    ----------
    table
        One row per (term, gene), in any order; repeated rows count once.
    name
        Name of the table.
    dim
        Number of features, less than the numbers of genes and of terms.
    max_term
        Terms with more genes are left out, and genes that then have no term.
    seed
        Seed of the randomised SVD (Halko et al. 2011).
    names
        {id in the table: gene name in the data}, if they differ.

    Raises
    ------
    GraphError
        If columns are missing, or `dim` is not between 1 and one less than the number of genes or terms.
    """
    from sklearn.decomposition import TruncatedSVD

    nodes, B, size = _incidence(table, names)
    B = sp.csr_array(B[:, size <= max_term])
    joined = np.flatnonzero(np.diff(B.indptr))
    nodes, B, size = nodes[joined], B[joined], size[size <= max_term]
    if not 1 <= dim < min(B.shape):
        msg = (
            f"gene features {name!r} would have {dim} dimensions of {B.shape[0]} genes in {B.shape[1]} terms of at most "
            f"{max_term} genes; --dim must be from 1 to {max(min(B.shape) - 1, 1)}"
        )
        raise GraphError(msg)
    weighted = sp.csr_array(B * (1.0 / np.log(1.0 + size)))
    # The share of variance that it explains is not used, and is undefined where all genes have the same terms.
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = TruncatedSVD(dim, random_state=seed).fit_transform(weighted)
    return GeneFeatures(name, nodes, np.asarray(matrix, dtype=np.float32))


def _incidence(table: pd.DataFrame, names: dict[str, str] | None) -> tuple[Any, Any, Any]:
    """Return (gene names [N], CSR [N, terms] of ones, number of genes of each term [terms])."""
    genes = gene_names(id_column(table, GENE_COLUMNS, "genes", 1), names)
    terms = gene_names(id_column(table, TERM_COLUMNS, "terms", 0))
    nodes, row = np.unique(genes, return_inverse=True)
    distinct, col = np.unique(terms, return_inverse=True)
    B = sp.csr_array((np.ones(len(row)), (row, col)), shape=(len(nodes), len(distinct)))
    # Repeated rows were summed; they count once.
    B.data[:] = 1.0
    return nodes, B, np.bincount(B.indices, minlength=len(distinct))
