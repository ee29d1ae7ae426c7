"""Graphs from published tables, by hand: memberships, scored interactions, signed regulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs import membership
from perturbfm_core.graphs.interactions import edge_graph, regulatory_graph, scored_graph
from perturbfm_core.graphs.kinds import TABLE_KINDS, build_from_table
from perturbfm_core.graphs.membership import membership_features, membership_graph
from perturbfm_core.graphs.neighbours import either_way, strongest


def edges(graph) -> dict[tuple[str, str], float]:
    """Return {(source, target): weight}."""
    coo = graph.adjacency.tocoo()
    return {
        (str(graph.genes[i]), str(graph.genes[j])): float(w)
        for i, j, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


def members(**terms: str) -> pd.DataFrame:
    """Return a table of memberships, one letter per gene."""
    return pd.DataFrame([(t, g) for t, genes in terms.items() for g in genes], columns=["term", "gene"])


# ---- neighbours --------------------------------------------------------------------------------------------------


def test_strongest_keeps_the_largest_magnitudes_and_the_first_of_equals():
    A = np.asarray([[0, -3, 2, 2], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=float)
    assert strongest(A, 2).toarray().tolist() == [[0, -3, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    with pytest.raises(GraphError, match="top_k is 0"):
        strongest(A, 0)


def test_either_way_takes_an_edge_that_one_end_names():
    A = np.asarray([[9, -3, 0], [1, 0, 0], [0, 2, 0]], dtype=float)
    assert either_way(A).toarray().tolist() == [[0, -3, 0], [-3, 0, 2], [0, 2, 0]]


# ---- membership --------------------------------------------------------------------------------------------------


def test_shared_terms_weigh_one_over_the_log_of_their_size():
    # Terms: t1 = {A, B}, t2 = {A, B, C}, t3 = {C, D}. A and B share t1 and t2.
    graph = membership_graph(members(t1="AB", t2="ABC", t3="CD"), name="go")
    two, three = 1 / math.log(2), 1 / math.log(3)
    half = {("A", "B"): two + three, ("A", "C"): three, ("B", "C"): three, ("C", "D"): two}
    assert edges(graph) == pytest.approx(half | {(b, a): w for (a, b), w in half.items()})
    assert graph.split_hash is None
    assert graph.meta["terms"] == 3


def test_repeated_rows_count_once_and_order_does_not_matter():
    table = members(t1="AB", t2="ABC", t3="CD")
    again = pd.concat([table, table]).sample(frac=1, random_state=0)
    assert membership_graph(again, name="go").sha256 == membership_graph(table, name="go").sha256


def test_terms_outside_the_limits_are_left_out():
    table = members(big="ABCDE", pair="AB", alone="F")
    graph = membership_graph(table, name="go", max_term=4)
    assert set(edges(graph)) == {("A", "B"), ("B", "A")}
    assert graph.genes.tolist() == ["A", "B"]
    assert len(membership_graph(table, name="go", max_term=5).genes) == 5


def test_genes_kept_leave_the_sizes_of_terms_alone():
    graph = membership_graph(members(t1="ABCD", t2="AB"), name="go", keep=["A", "C", "D", "unseen"])
    assert graph.genes.tolist() == ["A", "C", "D"]
    assert list(edges(graph).values()) == pytest.approx([1 / math.log(4)] * 6)


def test_each_gene_keeps_its_strongest_neighbours():
    # A's strongest is B (two terms); C and D reach A through the weaker term only.
    graph = membership_graph(members(t1="ABCD", t2="AB", t3="CD"), name="go", top_k=1)
    assert set(edges(graph)) == {("A", "B"), ("B", "A"), ("C", "D"), ("D", "C")}


def test_blocks_of_genes_do_not_change_the_graph(monkeypatch, rng):
    genes = [f"g{i:03d}" for i in range(150)]
    pairs = {(f"t{t}", g) for t in range(60) for g in rng.choice(genes, size=8, replace=False)}
    table = pd.DataFrame(sorted(pairs), columns=["term", "gene"])
    whole = membership_graph(table, name="go", top_k=7)
    monkeypatch.setattr(membership, "_BLOCK", 11)
    assert membership_graph(table, name="go", top_k=7).sha256 == whole.sha256
    B = pd.crosstab(table["gene"], table["term"]).to_numpy(dtype=float)
    expected = (B / np.log(B.sum(axis=0))) @ B.T
    np.fill_diagonal(expected, 0)
    found = whole.adjacency.toarray()
    at = np.nonzero(found)
    assert found[at] == pytest.approx(expected[at], rel=1e-6)
    assert (found > 0).sum(axis=1).min() >= 7


def test_memberships_that_join_nothing_are_refused():
    with pytest.raises(GraphError, match="no two of 2 genes share a term of 2 to 500 genes"):
        membership_graph(members(t1="A", t2="B"), name="go")
    with pytest.raises(GraphError, match="no two of 0 genes"):
        membership_graph(members(t1="AB"), name="go", keep=["Z"])
    with pytest.raises(GraphError, match=r"no column of terms; it has \['gene'\]"):
        membership_graph(pd.DataFrame({"gene": ["A"]}), name="go")


# ---- features of membership ------------------------------------------------------------------------------------------


def test_membership_features_are_the_singular_vectors_of_weighted_memberships():
    """With terms AB, BC and CD, all weights are 1 / log 3, and the products of genes are those of the matrix."""
    table = members(t1="AB", t2="BC", t3="CD")
    found = membership_features(pd.concat([table, table]), name="go", dim=2)
    assert found.genes.tolist() == list("ABCD")
    B = np.asarray([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]) / math.log(3)
    U, S, _ = np.linalg.svd(B, full_matrices=False)
    rank2 = (U[:, :2] * S[:2]) @ (U[:, :2] * S[:2]).T
    np.testing.assert_allclose(found.matrix @ found.matrix.T, rank2, atol=1e-5)
    # The ends of the chain share no term and are no neighbours; A is like B and unlike D.
    near = found.matrix @ found.matrix.T
    assert near[0, 1] > 0.1 > near[0, 3]


def test_small_terms_weigh_more_in_membership_features():
    found = membership_features(members(t1="AB", t2="CDEFGH", t3="ABCDEFGH"), name="go", dim=2)
    norm = dict(zip(found.genes.tolist(), np.linalg.norm(found.matrix, axis=1), strict=True))
    assert norm["A"] == pytest.approx(math.hypot(1 / math.log(3), 1 / math.log(9)), rel=1e-4)
    assert norm["C"] == pytest.approx(math.hypot(1 / math.log(7), 1 / math.log(9)), rel=1e-4)


def test_large_terms_and_genes_of_no_other_are_left_out_of_membership_features():
    table = members(t1="AB", t2="BC", t3="ABCDE")
    assert membership_features(table, name="go", dim=1, max_term=4).genes.tolist() == list("ABC")
    assert membership_features(table, name="go", dim=1).genes.tolist() == list("ABCDE")


def test_membership_features_do_not_depend_on_the_order_of_rows_and_repeat_with_the_seed():
    table = members(t1="ABC", t2="BCD", t3="DEF", t4="AF", t5="BE")
    one = membership_features(table, name="go", dim=3)
    assert membership_features(table.iloc[::-1], name="go", dim=3).sha256 == one.sha256


@pytest.mark.parametrize("dim", [0, 3])
def test_membership_features_of_too_many_dimensions_are_refused(dim):
    with pytest.raises(GraphError, match=f"would have {dim} dimensions of 4 genes in 3 terms .* from 1 to 2"):
        membership_features(members(t1="AB", t2="BC", t3="CD"), name="go", dim=dim)


# ---- interactions ------------------------------------------------------------------------------------------------


def scores(*rows: tuple[str, str, float], name: str = "combined_score") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["protein1", "protein2", name])


def test_scored_edges_from_the_least_score_on():
    # As STRING writes it, both directions of a pair are there.
    table = scores(("A", "B", 700), ("B", "A", 700), ("B", "C", 950), ("C", "D", 699), ("A", "A", 999))
    graph = scored_graph(table, min_score=700)
    assert edges(graph) == pytest.approx(
        {("A", "B"): 0.7, ("B", "A"): 0.7, ("B", "C"): 0.95, ("C", "B"): 0.95}
    )
    assert graph.meta["directed"] is False


def test_scores_up_to_one_are_weights_as_they_are():
    graph = scored_graph(scores(("A", "B", 0.4), ("B", "C", 0.9), name="score"), min_score=0.5)
    assert edges(graph) == pytest.approx({("B", "C"): 0.9, ("C", "B"): 0.9})


def test_genes_kept_top_k_and_names():
    table = scores(("p1", "p2", 900), ("p1", "p3", 800), ("p3", "p4", 950))
    names = {"p1": "A", "p2": "B", "p3": "C", "p4": "D"}
    graph = scored_graph(table, names=names, keep=["A", "B", "C"])
    assert set(edges(graph)) == {("A", "B"), ("B", "A"), ("A", "C"), ("C", "A")}
    thin = scored_graph(table, names=names, top_k=1)
    # A keeps B, C keeps D; A-C is nobody's strongest.
    assert set(edges(thin)) == {("A", "B"), ("B", "A"), ("C", "D"), ("D", "C")}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (scores(("A", "B", 10)), "would have no edge; scores go up to 10; lower --min-score"),
        (scores(("A", "A", 900)), "would have no edge"),
        (scores(("A", "B", -900)), "has negative scores .* use kind 'edges'"),
        (scores(("A", "B", "high")), "holds 'high', which is no number"),
        (pd.DataFrame({"source": ["A"], "target": ["B"]}), "no column of scores"),
        (pd.DataFrame({"x": ["A"], "y": ["B"]}), r"no column of sources; it has \['x', 'y'\]"),
    ],
)
def test_interactions_that_are_refused(table, message):
    with pytest.raises(GraphError, match=message):
        scored_graph(table)


def test_regulation_is_signed_and_directed_and_of_the_requested_confidence():
    table = pd.DataFrame(
        [("T", "x", 1, "A"), ("T", "y", -1, "C"), ("T", "z", 1, "D"), ("x", "T", -1, "B")],
        columns=["source", "target", "mor", "confidence"],
    )
    assert edges(regulatory_graph(table)) == {("T", "x"): 1.0, ("T", "y"): -1.0, ("x", "T"): -1.0}
    assert set(edges(regulatory_graph(table, confidence="a"))) == {("T", "x")}
    with pytest.raises(GraphError, match="would have no edge; check --confidence"):
        regulatory_graph(table, confidence="E")


@pytest.mark.parametrize("header", [True, False])
def test_modes_become_signs_and_records_are_averaged(header):
    rows = [
        ("T", "x", "Activation"),
        ("T", "x", "Unknown"),
        ("T", "y", "Repression"),
        ("T", "y", "Repression"),
        ("T", "y", "Activation"),
        ("T", "z", "Activation"),
        ("T", "z", "Repression"),
        ("T", "u", "Unknown"),
    ]
    table = pd.DataFrame(rows, columns=["tf", "target", "mode"] if header else range(3))
    # Unknown signs tell nothing, z's records cancel.
    assert edges(regulatory_graph(table)) == pytest.approx({("T", "x"): 1.0, ("T", "y"): -1 / 3})


def test_signs_that_are_none_are_refused():
    with pytest.raises(
        GraphError, match="mode 'sideways' is unknown; known: Activation, Repression, Unknown"
    ):
        regulatory_graph(pd.DataFrame({"tf": ["T"], "target": ["x"], "mode": ["sideways"]}))
    with pytest.raises(GraphError, match="no column of signs"):
        regulatory_graph(pd.DataFrame({"tf": ["T"], "target": ["x"]}))


def test_any_table_of_edges():
    table = pd.DataFrame({"from": ["A", "B"], "to": ["B", "C"], "weight": [-2.0, 1.0]})
    assert edges(edge_graph(table, name="e", directed=True)) == {("A", "B"): -2.0, ("B", "C"): 1.0}
    assert len(edges(edge_graph(table, name="e", directed=False))) == 4
    plain = edge_graph(table[["from", "to"]], name="e", directed=True)
    assert set(edges(plain).values()) == {1.0}


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_an_undirected_edge_has_one_weight_whatever_its_two_records_say(order):
    table = pd.DataFrame({"source": ["A", "B"], "target": ["B", "A"], "weight": [0.9, -0.9]}).iloc[order]
    undirected = edge_graph(table, name="e", directed=False)
    assert set(edges(undirected)) == {("A", "B"), ("B", "A")}
    assert (undirected.adjacency - undirected.adjacency.T).nnz == 0
    assert edges(edge_graph(table, name="e", directed=True))["B", "A"] == pytest.approx(-0.9)


def test_every_kind_builds_from_a_file_and_its_errors_name_it(tmp_path):
    tables = {
        "string": scores(("A", "B", 900)),
        "go": members(t="AB"),
        "reactome": members(t="AB"),
        "tf": pd.DataFrame({"tf": ["A"], "target": ["B"], "sign": [1]}),
        "edges": pd.DataFrame({"source": ["A"], "target": ["B"]}),
    }
    assert set(tables) == set(TABLE_KINDS.names())
    for kind, table in tables.items():
        table.to_csv(tmp_path / "t.csv", index=False)
        options = {"directed": True} if kind == "edges" else {"top_k": None}
        graph = build_from_table(kind, tmp_path / "t.csv", name="mine", **options)
        assert (graph.name, graph.genes.tolist()) == ("mine", ["A", "B"])
    with pytest.raises(GraphError, match=r"t.csv: the table has no column of scores"):
        build_from_table("string", tmp_path / "t.csv", name="x")
    with pytest.raises(GraphError, match=r"unknown kind of graph 'strnig' \(did you mean 'string'"):
        build_from_table("strnig", tmp_path / "t.csv", name="x")
