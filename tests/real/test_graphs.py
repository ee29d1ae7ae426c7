"""Graphs of the public files, as `docs/graphs.md` builds them, and what the models make of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.graphs.diffusion import diffuse
from perturbfm_core.graphs.io import read_graph
from perturbfm_core.graphs.rewire import rewire
from perturbfm_core.graphs.spectral import spectral_features
from tests.support.command import perturbfm

SOURCES = {
    "string": "graphs/string_v12_human_ntm700.parquet",
    "go": "graphs/go_bp_2021_membership.parquet",
    "reactome": "graphs/reactome_membership.parquet",
    "dorothea": "graphs/dorothea_hs.parquet",
    "trrust": "graphs/trrust_v2_human.parquet",
}


@pytest.fixture(scope="module")
def built(real, place):
    """Return {name: graph} of every public file, built by the command line."""
    made = {}
    for name, file in SOURCES.items():
        kind = "tf" if name in ("dorothea", "trrust") else name
        answer = perturbfm("graphs", "build", kind, "--source", real(file), "--name", name, "--json").json
        made[name] = read_graph(place / answer["path"])
    return made


def test_string_holds_the_edges_of_high_confidence(real, built):
    table = pd.read_parquet(real(SOURCES["string"]))
    table = table[(table["combined_score"] >= 700) & (table["source"] != table["target"])]
    first = table["source"] < table["target"]
    low = table["source"].where(first, table["target"])
    high = table["target"].where(first, table["source"])
    pairs = pd.DataFrame({"low": low, "high": high}).drop_duplicates()
    assert built["string"].adjacency.nnz == 2 * len(pairs)
    assert built["string"].adjacency.data.min() == pytest.approx(0.7)


def test_regulation_holds_the_levels_a_to_c(real, built):
    table = pd.read_parquet(real(SOURCES["dorothea"]))
    kept = table[table["confidence"].isin(list("ABC"))]
    assert built["dorothea"].adjacency.nnz == len(kept) == 13_223
    assert (built["dorothea"].adjacency.data < 0).sum() == (kept["mor"] < 0).sum()
    signs = pd.read_parquet(real(SOURCES["trrust"]))
    signs = signs[signs["sign"] != 0].groupby(["source", "target"])["sign"].mean()
    signs = signs[signs != 0]
    # TRRUST holds factors that regulate themselves, which is no edge between genes.
    other = signs.index.get_level_values(0) != signs.index.get_level_values(1)
    assert built["trrust"].adjacency.nnz == int(other.sum())


def test_memberships_weigh_small_terms_most(real, built):
    table = pd.read_parquet(real(SOURCES["go"]))
    size = table.groupby("term_id")["gene"].nunique()
    used = table[table["term_id"].map(size).between(2, 500)]
    terms = used.groupby("gene")["term_id"].agg(set)
    go = built["go"]
    rng = np.random.default_rng(0)
    coo = go.adjacency.tocoo()
    for e in rng.choice(coo.nnz, size=50, replace=False):
        shared = terms[go.genes[coo.row[e]]] & terms[go.genes[coo.col[e]]]
        assert coo.data[e] == pytest.approx(sum(1 / np.log(size[t]) for t in shared), rel=1e-5)
    degree = np.diff(go.adjacency.indptr)
    assert np.median(degree) >= 20


def test_perturbed_genes_of_a_screen_are_covered(real, built):
    columns = ("--pert-col", "condition", "--context-col", "context", "--modality-col", "perturbation_type")
    perturbfm(
        "data",
        "import",
        real("pb_norman_k562_singles_doubles.h5ad"),
        "--out",
        "N",
        *columns,
        "--space",
        "delta",
    )
    shown = {name: perturbfm("graphs", "show", name, "--data", "N", "--json").json for name in built}
    assert {s["perturbed_genes"] for s in shown.values()} == {105}
    assert shown["string"]["perturbed_with_edges"] == 79
    # The file knows 96 of them, 17 by edges of lower score only.
    wide = ("--min-score", 400, "--name", "string-400")
    perturbfm("graphs", "build", "string", "--source", real(SOURCES["string"]), *wide)
    assert (
        perturbfm("graphs", "show", "string-400", "--data", "N", "--json").json["perturbed_with_edges"] == 96
    )
    assert 90 <= shown["go"]["perturbed_with_edges"] <= 95
    assert shown["go"]["perturbed_with_edges"] + len(shown["go"]["perturbed_without_edges"]) == 105


def test_a_rewired_string_keeps_degrees_and_little_else(built):
    graph = built["string"]
    other = rewire(graph, 0)
    assert np.array_equal(np.diff(graph.adjacency.indptr), np.diff(other.adjacency.indptr))
    shared = ((graph.adjacency != 0) * (other.adjacency != 0)).nnz / graph.adjacency.nnz
    assert shared < 0.05


def test_neighbours_have_like_features(built):
    graph = built["string"]
    F = spectral_features(graph, 64).matrix
    F = F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-9)
    coo = graph.adjacency.tocoo()
    joined = (F[coo.row] * F[coo.col]).sum(axis=1).mean()
    other = np.random.default_rng(0).permutation(len(F))
    assert joined > 0.5
    assert abs((F * F[other]).sum(axis=1).mean()) < 0.2


def test_diffusion_of_every_perturbed_gene(built):
    graph = built["dorothea"]
    regulators = graph.genes[np.diff(graph.adjacency.indptr) > 0].tolist()
    rows = diffuse(graph, regulators, steps=2, top_n=len(graph.genes))
    # One step keeps the whole weight, and the signs of the edges.
    assert np.abs(rows.steps[0]).sum(axis=1) == pytest.approx(1.0, rel=1e-5)
    at = [graph.position[g] for g in regulators]
    assert np.array_equal(np.sign(rows.steps[0].toarray()), np.sign(graph.adjacency[at].toarray()))
