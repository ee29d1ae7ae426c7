"""Gene graphs: sparse, weighted edges between genes, with or without sign and direction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import GraphError
from perturbfm_core.schema import FloatArray, StrArray


@dataclass(frozen=True, eq=False)
class GeneGraph:
    """One gene graph.

    Attributes
    ----------
    name
        Name in the catalog.
    genes
        Gene ids of the nodes [N]; may include genes that the data set does not measure.
    adjacency
        CSR float32 [N, N], ``adjacency[source, target]``; symmetric if the graph is undirected.
    split_hash
        Hash of the split whose training rows it was built from, None if it was not built from the data set.
    meta
        How it was built: kind, sources, parameters.
    """

    name: str
    genes: StrArray
    adjacency: Any
    split_hash: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.genes)
        problem = None
        if not sp.issparse(self.adjacency) or self.adjacency.shape != (n, n):
            problem = f"has an adjacency {getattr(self.adjacency, 'shape', None)} for {n} genes"
        elif len(set(self.genes.tolist())) != n:
            problem = "names a gene twice"
        elif not np.isfinite(self.adjacency.data).all():
            problem = "has weights that are not finite"
        if problem is not None:
            msg = f"graph {self.name!r} {problem}"
            raise GraphError(msg)
        adjacency = sp.csr_array(self.adjacency, dtype=np.float32)
        adjacency.sum_duplicates()
        adjacency.eliminate_zeros()
        object.__setattr__(self, "adjacency", adjacency)

    @cached_property
    def position(self) -> dict[str, int]:
        """Return {gene: index of its node}."""
        return {str(g): i for i, g in enumerate(self.genes)}

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of gene ids, edges and weights."""
        digest = hashlib.sha256("\n".join(self.genes.tolist()).encode())
        adjacency = self.adjacency.copy()
        adjacency.sort_indices()
        for array, kind in ((adjacency.indptr, "<i8"), (adjacency.indices, "<i8"), (adjacency.data, "<f4")):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()

    def renamed(self, name: str) -> GeneGraph:
        """Return the same graph under another name."""
        return GeneGraph(name, self.genes, self.adjacency, self.split_hash, self.meta)

    def require_split(self, split_hash: str) -> None:
        """Check that the graph may be used with a split, given by its hash.

        Raises
        ------
        GraphError
            If the graph was built from the training rows of another split.
        """
        if self.split_hash is not None and self.split_hash != split_hash:
            msg = (
                f"graph {self.name!r} was built from the train rows of split {self.split_hash[:12]} and must not be "
                f"used with split {split_hash[:12]}; build it again with `perturbfm graphs build`"
            )
            raise GraphError(msg)


def from_edges(
    name: str,
    source: StrArray,
    target: StrArray,
    weight: FloatArray,
    *,
    directed: bool,
    genes: StrArray | None = None,
    meta: dict[str, Any] | None = None,
) -> GeneGraph:
    """Return a graph from a list of edges; repeated edges keep the weight of largest magnitude.

    Parameters
    ----------
    name
        Name of the graph.
    source, target
        Gene ids [E] of the two ends of each edge; edges from a gene to itself are dropped.
    weight
        float [E], weight of each edge.
    directed
        Whether edges have a direction; otherwise each is entered in both.
    genes
        Gene ids of the nodes [N] (default: all genes that occur, sorted).
    meta
        Further metadata of the graph.
    """
    nodes = np.unique(np.concatenate([source, target])) if genes is None else genes
    position = {str(g): i for i, g in enumerate(nodes)}
    a = np.asarray([position[str(g)] for g in source], dtype=np.int64)
    b = np.asarray([position[str(g)] for g in target], dtype=np.int64)
    w = np.asarray(weight, dtype=np.float32)
    keep = a != b
    a, b, w = a[keep], b[keep], w[keep]
    if not directed:
        a, b = np.minimum(a, b), np.maximum(a, b)
    # Sorted by pair, then by falling magnitude, the positive one first: the first edge of each pair is the one to keep.
    order = np.lexsort((-w, -np.abs(w), b, a))
    a, b, w = a[order], b[order], w[order]
    first = np.ones(len(a), dtype=np.bool_)
    first[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    a, b, w = a[first], b[first], w[first]
    if not directed:
        a, b, w = np.concatenate([a, b]), np.concatenate([b, a]), np.concatenate([w, w])
    adjacency = sp.csr_array((w, (a, b)), shape=(len(nodes), len(nodes)))
    built = {"directed": directed, **(meta or {})}
    return GeneGraph(name, np.asarray(nodes, dtype=np.str_), adjacency, meta=built)
