"""Diffusion of perturbations over a gene graph: powers of its adjacency and personalised PageRank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray

Normalisation = Literal["random_walk", "symmetric", "spectral"]
TOP_N = 256
_SOURCE_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Diffusion from source genes to all genes of a graph.

    Attributes
    ----------
    sources
        Ids of the source genes [P].
    known
        bool [P], whether the graph has the gene; rows of the others are empty.
    genes
        Gene ids [N] of the graph's nodes.
    steps
        One CSR float32 [P, N] per step: ``steps[t - 1][p]`` is e_p A^t, row p of the t-th power of the
        normalised adjacency.
    """

    sources: list[str]
    known: BoolArray
    genes: StrArray
    steps: list[Any]


def normalised(adjacency: Any, how: Normalisation) -> Any:
    """Return CSR float64 [N, N] of a signed adjacency, scaled so that its powers stay bounded.

    ``random_walk``: every row is divided by the sum of its absolute weights. ``symmetric``: an entry is
    divided by the root of (sum of absolute weights out of its source) times (sum of absolute weights into its
    target). ``spectral``: all weights are divided by the largest singular value.

    Raises
    ------
    GraphError
        If `how` is unknown.
    """
    if how not in get_args(Normalisation):
        msg = f"unknown normalisation {how!r}; known: {', '.join(get_args(Normalisation))}"
        raise GraphError(msg)
    A = sp.csr_array(adjacency, dtype=np.float64)
    if how == "spectral":
        # The largest singular value becomes 1, so no power of the matrix grows.
        top = _largest_singular_value(A)
        return A * (1.0 / top) if top > 0 else A
    out = np.asarray(abs(A).sum(axis=1)).reshape(-1)
    if how == "random_walk":
        return sp.csr_array(sp.diags_array(_inverse(out)) @ A)
    into = np.asarray(abs(A).sum(axis=0)).reshape(-1)
    return sp.csr_array(sp.diags_array(_inverse(np.sqrt(out))) @ A @ sp.diags_array(_inverse(np.sqrt(into))))


def diffuse(
    graph: GeneGraph,
    sources: Sequence[str],
    *,
    steps: int = 3,
    normalisation: Normalisation = "random_walk",
    top_n: int = TOP_N,
) -> Diffusion:
    """Return e_p A^t for every source p and t = 1..steps, with A the normalised adjacency.

    Signs of edges are multiplied along paths. Powers are exact; only the returned rows are cut to their
    `top_n` entries of largest magnitude.

    Parameters
    ----------
    graph
        The graph; effects flow from ``adjacency``'s rows to its columns.
    sources
        Ids of the perturbed genes [P]; a gene that the graph does not have gets empty rows.
    steps
        Number of steps T.
    normalisation
        Scaling of the adjacency, see `normalised`.
    top_n
        Number of entries kept in each row.

    Raises
    ------
    GraphError
        If `steps` or `top_n` is less than 1.
    """
    if steps < 1 or top_n < 1:
        msg = f"steps is {steps} and top_n {top_n}; both must be at least 1"
        raise GraphError(msg)
    # Rows e_p A^t are computed as columns, (A^T)^t e_p: a sparse matrix times a dense block of sources.
    forward = sp.csr_array(normalised(graph.adjacency, normalisation).T)
    at, known = _nodes(graph, sources)
    parts: list[list[Any]] = [[] for _ in range(steps)]
    for start in _starts(at, known, len(graph.genes)):
        state = start
        # The state is dense, since a few steps reach most genes; blocks of sources bound its size.
        for t in range(steps):
            state = forward @ state
            parts[t].append(_cut(state.T, top_n))
    shape = (0, len(graph.genes))
    return Diffusion(
        list(sources),
        known,
        graph.genes,
        [sp.csr_array(sp.vstack(p)) if p else sp.csr_array(shape, dtype=np.float32) for p in parts],
    )


def personalised_pagerank(
    graph: GeneGraph,
    sources: Sequence[str],
    *,
    restart: float = 0.15,
    normalisation: Normalisation = "random_walk",
    top_n: int = TOP_N,
    tolerance: float = 1e-6,
) -> Diffusion:
    """Return personalised PageRank: one row per source, Σ_t restart (1 - restart)^t e_p A^t (t from 0).

    With the random-walk normalisation of a graph without negative edges, this is the stationary distribution
    of a walk that returns to its source with probability `restart` at each step. The series is cut when the
    remaining weight is below `tolerance`. The result has a single step.

    Parameters
    ----------
    graph
        The graph; effects flow from ``adjacency``'s rows to its columns.
    sources
        Ids of the perturbed genes [P]; a gene that the graph does not have gets an empty row.
    restart
        Probability of a return to the source, between 0 and 1.
    normalisation
        Scaling of the adjacency, see `normalised`.
    top_n
        Number of entries kept in each row.
    tolerance
        Weight of the series that may be left out.

    Raises
    ------
    GraphError
        If `restart` is not between 0 and 1.
    """
    if not 0 < restart < 1:
        msg = f"restart is {restart}; it must lie between 0 and 1"
        raise GraphError(msg)
    forward = sp.csr_array(normalised(graph.adjacency, normalisation).T)
    at, known = _nodes(graph, sources)
    # The weights after term t sum to (1 - restart)^(t + 1).
    terms = math.ceil(math.log(tolerance) / math.log(1.0 - restart))
    parts = []
    for start in _starts(at, known, len(graph.genes)):
        term = restart * start
        total = term.copy()
        for _ in range(terms):
            term = (1.0 - restart) * (forward @ term)
            total += term
        parts.append(_cut(total.T, top_n))
    rows = sp.csr_array(sp.vstack(parts)) if parts else sp.csr_array((0, len(graph.genes)), dtype=np.float32)
    return Diffusion(list(sources), known, graph.genes, [rows])


def _nodes(graph: GeneGraph, sources: Sequence[str]) -> tuple[IntArray, BoolArray]:
    """Return (int64 [P] node of each source, -1 if unknown; bool [P] whether it is known)."""
    at = np.asarray([graph.position.get(str(g), -1) for g in sources], dtype=np.int64)
    return at, at >= 0


def _starts(at: IntArray, known: BoolArray, n: int) -> Iterator[FloatArray]:
    """Yield float64 [N, p], the unit vectors of the sources as columns, for blocks of sources."""
    for block in row_blocks(len(at), _SOURCE_BLOCK):
        start = np.zeros((n, block.stop - block.start))
        here = np.flatnonzero(known[block])
        start[at[block][here], here] = 1.0
        yield start


def _cut(rows: FloatArray, top_n: int) -> Any:
    """Return CSR float32 with the `top_n` entries of largest magnitude in each row of a dense block."""
    if top_n < rows.shape[1]:
        best = np.argpartition(-np.abs(rows), top_n - 1, axis=1)[:, :top_n]
        # Column order, as CSR has it.
        best.sort(axis=1)
        data = np.take_along_axis(rows, best, axis=1)
        i = np.repeat(np.arange(len(rows)), top_n)
        out = sp.csr_array((data.reshape(-1), (i, best.reshape(-1))), shape=rows.shape, dtype=np.float32)
    else:
        out = sp.csr_array(rows, dtype=np.float32)
    out.eliminate_zeros()
    out.sort_indices()
    return out


def _inverse(x: FloatArray) -> FloatArray:
    """Return 1 / x, 0 where x is 0: a gene without edges stays without."""
    return np.divide(1.0, x, out=np.zeros_like(x), where=x > 0)


def _largest_singular_value(A: Any) -> float:
    from scipy.sparse.linalg import svds

    if not A.nnz:
        return 0.0
    # svds needs matrices larger than the number of singular values that it computes.
    if min(A.shape) < 3:
        return float(np.linalg.norm(A.toarray(), 2))
    # A fixed start vector makes the result reproducible; in one of equal entries opposite signs may cancel.
    start = np.random.default_rng(0).standard_normal(A.shape[0])
    return float(svds(A, k=1, v0=start, return_singular_vectors=False)[0])
