"""What is made of graphs: rewired controls, diffusion rows, spectral features."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs import diffusion
from perturbfm_core.graphs.diffusion import diffuse, normalised, personalised_pagerank
from perturbfm_core.graphs.graph import GeneGraph, from_edges
from perturbfm_core.graphs.rewire import rewire
from perturbfm_core.graphs.spectral import regularised, spectral_features


def graph_of(A, name="g", **fields) -> GeneGraph:
    A = np.asarray(A, dtype=np.float32)
    return GeneGraph(name, np.asarray([f"n{i}" for i in range(len(A))]), sp.csr_array(A), **fields)


def random_graph(n: int, edges: int, seed: int, *, directed: bool) -> GeneGraph:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, n, size=(2, edges)).astype(str)
    genes = np.asarray(sorted(str(i) for i in range(n)))
    return from_edges("r", a, b, rng.normal(size=edges), directed=directed, genes=genes)


# ---- rewiring ----------------------------------------------------------------------------------------------------


def degrees(A) -> tuple[list[int], list[int]]:
    return np.diff(A.indptr).tolist(), np.bincount(A.indices, minlength=A.shape[0]).tolist()


@pytest.mark.parametrize("directed", [True, False])
@given(n=st.integers(2, 30), edges=st.integers(0, 80), seed=st.integers(0, 1000))
def test_every_degree_is_kept(directed, n, edges, seed):
    graph = random_graph(n, edges, seed, directed=directed)
    other = rewire(graph, seed)
    A, B = graph.adjacency, other.adjacency
    assert degrees(A) == degrees(B)
    assert not B.diagonal().any()
    assert (abs(B - B.T).max() == 0) or directed or not B.nnz
    assert sorted(A.data.tolist()) == sorted(B.data.tolist())
    if directed and (abs(A - A.T).max() > 0 if A.nnz else False):
        # A weight stays with its source.
        for i in range(n):
            assert sorted(A[[i]].data.tolist()) == sorted(B[[i]].data.tolist())


@pytest.mark.parametrize("directed", [True, False])
def test_few_edges_stay_where_they_were(directed):
    graph = random_graph(300, 1500, 3, directed=directed)
    other = rewire(graph, 0)
    A, B = graph.adjacency != 0, other.adjacency != 0
    by_chance = A.nnz / 300**2
    assert (A * B).nnz / A.nnz < 5 * by_chance
    again = rewire(graph, 0)
    assert again.sha256 == other.sha256
    assert rewire(graph, 1).sha256 != other.sha256


def test_a_rewired_graph_says_so_and_keeps_its_split():
    graph = random_graph(20, 60, 0, directed=True)
    bound = GeneGraph("co", graph.genes, graph.adjacency, "a" * 64, {"kind": "coexpression"})
    other = rewire(bound, 7)
    assert (other.name, other.split_hash) == ("co-rewired-7", "a" * 64)
    assert other.meta == {"kind": "coexpression", "rewired": 7, "rewired_from": bound.sha256}


def test_where_no_swap_is_possible_the_graph_stays():
    full = graph_of(np.ones((4, 4)) - np.eye(4))
    assert rewire(full, 0).sha256 == full.sha256


# ---- diffusion ---------------------------------------------------------------------------------------------------

CHAIN = graph_of([[0, 2, -2, 0], [0, 0, 0, 3], [0, 0, 0, 1], [0, 0, 0, 0]])


def test_diffusion_by_hand():
    # From n0 half of the walk goes to n1, half (with its sign) to n2; both go on to n3, where they cancel.
    found = diffuse(CHAIN, ["n0", "n2", "elsewhere"], steps=3)
    assert [s.shape for s in found.steps] == [(3, 4)] * 3
    assert found.known.tolist() == [True, True, False]
    assert found.steps[0].toarray().tolist() == [[0, 0.5, -0.5, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert found.steps[1].toarray().tolist() == [[0, 0, 0, 0]] * 3


@pytest.mark.parametrize("how", ["random_walk", "symmetric", "spectral"])
def test_diffusion_is_the_power_of_the_normalised_graph(how, monkeypatch):
    monkeypatch.setattr(diffusion, "_SOURCE_BLOCK", 7)
    graph = random_graph(25, 120, 1, directed=True)
    A = normalised(graph.adjacency, how).toarray()
    found = diffuse(graph, graph.genes.tolist(), steps=4, normalisation=how, top_n=25)
    for t, step in enumerate(found.steps, start=1):
        assert np.allclose(step.toarray(), np.linalg.matrix_power(A, t), atol=1e-6)


def test_normalisations_bound_what_they_promise():
    graph = random_graph(25, 120, 1, directed=True)
    A = graph.adjacency.toarray()
    walk = normalised(graph.adjacency, "random_walk").toarray()
    assert np.abs(walk).sum(axis=1)[np.abs(A).sum(axis=1) > 0] == pytest.approx(1.0)
    assert np.array_equal(np.sign(walk), np.sign(A))
    assert np.linalg.norm(normalised(graph.adjacency, "spectral").toarray(), 2) == pytest.approx(1.0)
    assert np.linalg.norm(normalised(graph.adjacency, "symmetric").toarray(), 2) <= 1 + 1e-9
    tiny = graph_of([[0, -4], [0, 0]])
    assert normalised(tiny.adjacency, "spectral").toarray().tolist() == [[0, -1], [0, 0]]
    empty = graph_of(np.zeros((3, 3)))
    for how in ("random_walk", "symmetric", "spectral"):
        assert normalised(empty.adjacency, how).nnz == 0


@pytest.mark.parametrize("n", [2, 30])
def test_factors_that_switch_as_many_genes_on_as_off_can_be_spread(n):
    factors = [(f"t{i}", f"g{(i + j) % n}", 1.0 if j else -1.0) for i in range(n) for j in range(2)]
    source, target, sign = (np.asarray(x) for x in zip(*factors, strict=True))
    graph = from_edges("r", source, target, sign, directed=True)
    scaled = normalised(graph.adjacency, "spectral").toarray()
    assert np.linalg.norm(scaled, 2) == pytest.approx(1.0)


def test_rows_keep_their_largest_entries():
    graph = random_graph(40, 300, 2, directed=True)
    whole = diffuse(graph, graph.genes.tolist(), steps=3, top_n=40)
    cut = diffuse(graph, graph.genes.tolist(), steps=3, top_n=5)
    for full, few in zip(whole.steps, cut.steps, strict=True):
        F, C = full.toarray(), few.toarray()
        assert np.diff(few.indptr).max() <= 5
        assert np.array_equal(C[C != 0], F[C != 0])
        smallest_kept = np.where(C != 0, np.abs(C), np.inf).min(axis=1)
        largest_cut = np.where(C == 0, np.abs(F), 0).max(axis=1)
        assert (largest_cut <= smallest_kept + 1e-9).all()
        assert few.has_sorted_indices


def test_pagerank_is_the_closed_form():
    graph = random_graph(20, 80, 4, directed=True)
    A = normalised(graph.adjacency, "random_walk").toarray()
    found = personalised_pagerank(graph, ["3", "7", "none"], restart=0.2, top_n=20, tolerance=1e-9)
    wanted = 0.2 * np.linalg.inv(np.eye(20) - 0.8 * A)
    at = [graph.position["3"], graph.position["7"]]
    assert np.allclose(found.steps[0].toarray()[:2], wanted[at], atol=1e-6)
    assert found.steps[0].toarray()[2].tolist() == [0] * 20


def test_diffusion_refuses_bad_parameters():
    with pytest.raises(GraphError, match="steps is 0"):
        diffuse(CHAIN, ["n0"], steps=0)
    with pytest.raises(GraphError, match=r"restart is 1\.0"):
        personalised_pagerank(CHAIN, ["n0"], restart=1.0)
    with pytest.raises(
        GraphError, match="unknown normalisation 'walk'; known: random_walk, symmetric, spectral"
    ):
        diffuse(CHAIN, ["n0"], normalisation="walk")
    assert diffuse(CHAIN, []).steps[0].shape == (0, 4)
    assert personalised_pagerank(CHAIN, []).steps[0].shape == (0, 4)


# ---- spectral features -------------------------------------------------------------------------------------------


def test_regularised_by_hand():
    # Sums of magnitudes as source: 4, 2, 0 (mean of those with edges 3); as target: 0, 1, 5 (mean 3).
    A = graph_of([[0, 1, -3], [0, 0, 2], [0, 0, 0]]).adjacency
    wanted = [[0, 1 / np.sqrt(7 * 4), -3 / np.sqrt(7 * 8)], [0, 0, 2 / np.sqrt(5 * 8)], [0, 0, 0]]
    assert np.allclose(regularised(A).toarray(), wanted)


def test_lone_pairs_do_not_fill_the_features():
    # Twenty pairs beside a dense module of ten genes: plainly normalised, each pair would lead.
    A = np.zeros((50, 50))
    A[:10, :10] = 1 - np.eye(10)
    for i in range(10, 50, 2):
        A[i, i + 1] = A[i + 1, i] = 1
    F = spectral_features(graph_of(A), 1).matrix[:, 0]
    assert F[:10].min() > 0.1
    assert np.abs(F[10:]).max() < 1e-3


def test_spectral_features_rebuild_the_regularised_graph():
    rng = np.random.default_rng(0)
    low = rng.random((12, 2))
    A = low @ low.T
    graph = graph_of(A)
    N = regularised(graph.adjacency).toarray()
    table = spectral_features(graph, 11)
    # A positive semidefinite graph is the product of its features with themselves.
    assert np.allclose(table.matrix @ table.matrix.T, N, atol=1e-5)
    assert (table.name, table.matrix.dtype) == ("g_svd11", np.float32)


def test_a_directed_graph_has_features_as_source_and_as_target():
    graph = random_graph(30, 120, 5, directed=True)
    N = regularised(graph.adjacency).toarray()
    table = spectral_features(graph, 58)
    S, T = table.matrix[:, :29], table.matrix[:, 29:]
    best = np.linalg.svd(N)
    rank29 = (best[0][:, :29] * best[1][:29]) @ best[2][:29]
    assert np.allclose(S @ T.T, rank29, atol=1e-5)


def test_spectral_features_are_the_same_again_and_of_fixed_sign():
    graph = random_graph(40, 200, 6, directed=False)
    one, two = spectral_features(graph, 8), spectral_features(graph, 8)
    assert one.sha256 == two.sha256
    top = np.argmax(np.abs(one.matrix), axis=0)
    assert (one.matrix[top, np.arange(8)] > 0).all()
    scale = np.linalg.norm(one.matrix, axis=0)
    assert (np.diff(scale) <= 1e-6).all()
    other = spectral_features(graph, 8, seed=9)
    assert np.allclose(np.abs(one.matrix), np.abs(other.matrix), atol=1e-4)


def test_two_modules_are_separated_and_lonely_genes_have_zeros():
    block = np.ones((4, 4)) - np.eye(4)
    A = np.zeros((9, 9))
    A[:4, :4], A[4:8, 4:8] = block, block
    A[0, 4] = A[4, 0] = 0.1
    F = spectral_features(graph_of(A), 2).matrix
    F = F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-9)
    like = F @ F.T
    assert like[1:4, 1:4].min() > 0.9
    assert like[5:8, 5:8].min() > 0.9
    assert like[1:4, 5:8].max() < 0.5
    assert spectral_features(graph_of(A), 2).matrix[8].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_graphs_too_small_for_features():
    assert spectral_features(random_graph(10, 40, 0, directed=False), 64).matrix.shape == (10, 9)
    with pytest.raises(GraphError, match="has 2 genes and 1 edges"):
        spectral_features(graph_of([[0, 1], [0, 0]]))
    with pytest.raises(GraphError, match="has 3 genes and 0 edges"):
        spectral_features(graph_of(np.zeros((3, 3))))
    with pytest.raises(GraphError, match="dim is 1; a directed graph needs at least 2"):
        spectral_features(CHAIN, 1)
