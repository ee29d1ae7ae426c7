"""``perturbfm graphs``: every kind built from a file as a user has it, listed, shown, and refused where unfit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.graphs.io import read_graph
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.pipeline.gene_graph import build_graph
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm


@pytest.fixture
def files(tmp_path) -> Path:
    """Make small public files as their publishers write them."""
    (tmp_path / "links.txt").write_text(
        "protein1 protein2 combined_score\n9606.P1 9606.P2 900\n9606.P2 9606.P1 900\n9606.P2 9606.P3 500\n"
    )
    (tmp_path / "info.txt").write_text(
        "#string_protein_id\tpreferred_name\n9606.P1\tG01\n9606.P2\tG02\n9606.P3\tG03\n"
    )
    (tmp_path / "go.gmt").write_text("GO:1\t\tG01\tG02\tG03\nGO:2\t\tG01\tG02\n")
    (tmp_path / "trrust.tsv").write_text(
        "G01\tG02\tActivation\t1\nG01\tG03\tRepression\t2\nG02\tX\tUnknown\t3\n"
    )
    pd.DataFrame(
        {"source": ["G01", "G02"], "target": ["G02", "G03"], "mor": [1, -1], "confidence": ["A", "D"]}
    ).to_parquet(tmp_path / "dorothea.parquet")
    (tmp_path / "edges.csv").write_text("source,target,weight\nG01,G02,0.5\nZ,G01,-2\n")
    return tmp_path


def weights(path) -> dict[tuple[str, str], float]:
    graph = read_graph(Path(path))
    coo = graph.adjacency.tocoo()
    names = graph.genes
    return {
        (names[i], names[j]): round(float(w), 4) for i, j, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


def test_string_with_names_and_a_least_score(files):
    made = perturbfm(
        "graphs", "build", "string", "--source", "links.txt", "--names", "info.txt", "--licence", "CC BY 4.0"
    )
    assert made.values["graph"] == "string"
    assert made.values["edges"] == "1"
    assert weights(made.values["path"]) == {("G01", "G02"): 0.9, ("G02", "G01"): 0.9}
    entry = load_catalog().graph("string")
    assert (entry.licence, entry.source, entry.kind) == ("CC BY 4.0", "links.txt", "interactions")
    low = perturbfm(
        "graphs",
        "build",
        "string",
        "--source",
        "links.txt",
        "--min-score",
        400,
        "--name",
        "string-400",
        "--json",
    ).json
    assert (low["graph"], low["edges"], low["genes"]) == ("string-400", 2, 3)


@pytest.mark.parametrize("kind", ["go", "reactome"])
def test_memberships(files, kind):
    made = perturbfm("graphs", "build", kind, "--source", "go.gmt", "--top-k", 1, "--json").json
    assert made["genes"] == 3
    assert weights(made["path"])["G01", "G02"] == round(1 / np.log(3) + 1 / np.log(2), 4)
    small = perturbfm(
        "graphs", "build", kind, "--source", "go.gmt", "--max-term", 2, "--name", "small", "--json"
    ).json
    assert small["genes"] == 2


def test_regulation(files):
    made = perturbfm("graphs", "build", "tf", "--source", "trrust.tsv", "--name", "trrust", "--json").json
    assert weights(made["path"]) == {("G01", "G02"): 1.0, ("G01", "G03"): -1.0}
    assert (made["directed"], made["negative_share"]) == (True, 0.5)
    abc = perturbfm("graphs", "build", "tf", "--source", "dorothea.parquet", "--json").json
    assert weights(abc["path"]) == {("G01", "G02"): 1.0}
    wide = perturbfm(
        "graphs",
        "build",
        "tf",
        "--source",
        "dorothea.parquet",
        "--confidence",
        "ABCD",
        "--name",
        "wide",
        "--json",
    ).json
    assert wide["edges"] == 2


def test_any_edges_as_a_table_or_as_npz(files):
    made = perturbfm("graphs", "build", "edges", "--source", "edges.csv", "--directed", "--json").json
    assert made["graph"] == "edges"
    assert weights(made["path"]) == {("G01", "G02"): 0.5, ("Z", "G01"): -2.0}
    again = perturbfm("graphs", "build", "edges", "--source", made["path"], "--name", "copy", "--json").json
    assert again["sha256"] == made["sha256"]
    both = perturbfm(
        "graphs",
        "build",
        "edges",
        "--source",
        "edges.csv",
        "--undirected",
        "--name",
        "both",
        "--out",
        "b.npz",
        "--json",
    ).json
    assert both["path"] == "b.npz"
    assert weights("b.npz")["G01", "Z"] == -2.0


def test_coexpression_of_a_split_is_the_graph_that_a_fit_builds(work):
    made = perturbfm("graphs", "build", "coexpression", "--split", work.split, "--data", "D", "--json").json
    assert made["graph"] == f"d.coexpression.{work.split[:12]}"
    assert made["split_hash"] == work.split
    store = ArtifactStore()
    split = SplitFolder(store.split_dir).load(work.split)
    stage = build_graph(store, open_dataset(Path("D")), split)
    assert read_graph(stage.path / "graph.npz").sha256 == made["sha256"]
    thin = perturbfm(
        "graphs",
        "build",
        "coexpression",
        "--split",
        work.split,
        "--data",
        "D",
        "--top-k",
        2,
        "--name",
        "thin",
        "--json",
    ).json
    assert thin["edges"] < made["edges"]


def test_truth_and_its_rewired_control(work):
    made = perturbfm("graphs", "build", "truth", "--data", "D", "--json").json
    assert (made["graph"], made["kind"], made["directed"]) == ("d.truth", "truth", True)
    other = perturbfm("graphs", "build", "truth", "--data", "D", "--rewire", 3, "--json").json
    assert other["graph"] == "d.truth-rewired-3"
    one, two = read_graph(Path(made["path"])), read_graph(Path(other["path"]))
    assert np.array_equal(np.diff(one.adjacency.indptr), np.diff(two.adjacency.indptr))
    assert one.sha256 != two.sha256
    named = perturbfm(
        "graphs", "build", "truth", "--data", "D", "--rewire", 3, "--name", "control", "--json"
    ).json
    assert (named["graph"], named["sha256"]) == ("control", other["sha256"])


def test_genes_of_a_data_set_only(files, work):
    made = perturbfm(
        "graphs", "build", "edges", "--source", "edges.csv", "--directed", "--genes-from", "D", "--json"
    ).json
    assert weights(made["path"]) == {("G01", "G02"): 0.5}


def test_list_and_show(files, work):
    assert perturbfm("graphs", "list").out.startswith("(no rows: no graph or feature table is registered")
    perturbfm("graphs", "build", "go", "--source", "go.gmt")
    perturbfm("graphs", "build", "coexpression", "--split", work.split, "--data", "D", "--name", "co")
    np.savez("emb.npz", genes=np.asarray(["G01", "G02"]), emb=np.ones((2, 3)))
    made = perturbfm("graphs", "features", "emb.npz", "--name", "emb", "--licence", "MIT").values
    assert (made["genes"], made["dimensions"]) == ("2", "3")
    rows = {r["name"]: r for r in perturbfm("graphs", "list", "--json").json}
    assert {n: (r["what"], r["genes"]) for n, r in rows.items()} == {
        "co": ("graph", 50),
        "go": ("graph", 3),
        "emb": ("features", 2),
    }
    assert rows["co"]["split"] == work.split[:12]
    shown = perturbfm("graphs", "show", "go", "--data", "D", "--json").json
    assert (shown["genes"], shown["edges"]) == (3, 3)
    assert shown["density"] == 1.0
    assert (shown["measured_genes"], shown["measured_with_edges"]) == (50, 3)
    perturbed = {g for p in open_dataset(Path("D")).conditions["pert_id"] for g in p.split("+")}
    assert shown["perturbed_genes"] == len(perturbed)
    assert set(shown["perturbed_without_edges"]) == perturbed - {"G01", "G02", "G03"}
    Path("data/graphs/go.npz").unlink()
    assert (
        "does not exist"
        in {r["name"]: r for r in perturbfm("graphs", "list", "--json").json}["go"]["problem"]
    )


def test_what_exists_is_replaced_only_by_force(files):
    build = ("graphs", "build", "go", "--source", "go.gmt")
    first = perturbfm(*build, "--json").json
    refused = attempt(*build)
    assert refused.code == 2
    assert "already exists; choose another --name or --out, or give --force" in refused.err
    assert attempt(*build, "--name", "other", "--out", first["path"]).code == 2
    again = perturbfm(*build, "--max-term", 2, "--force", "--json").json
    assert again["sha256"] != first["sha256"]
    assert load_catalog().graph("go").sha256 == again["sha256"]
    assert perturbfm("graphs", "show", "go", "--json").json["genes"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nope"],
            "unknown kind of graph 'nope'; known: coexpression, string, go, reactome, tf, edges, truth",
        ),
        (["string"], "a string graph needs --source"),
        (["coexpression"], "a coexpression graph needs --split"),
        (["truth"], "a truth graph needs --data"),
        (
            ["go", "--source", "go.gmt", "--min-score", "3", "--split", "x"],
            "--min-score, --split has no use with kind 'go' and this source; it takes --genes-from, --max-term, --names",
        ),
        (["edges", "--source", "edges.csv"], "give --directed or --undirected"),
        (["edges", "--source", "e.npz", "--directed"], "--directed has no use with kind 'edges'"),
        (["go", "--source", "edges.csv"], "edges.csv: the table has no column of genes"),
        (["go", "--source", "none.gmt"], "none.gmt does not exist"),
        (
            ["string", "--source", "links.txt", "--min-score", "2000"],
            "would have no edge; scores go up to 900",
        ),
        (["go", "--source", "go.gmt", "--name", "Bad Name"], "cannot be a key"),
        (["go", "--source", "go.gmt", "--name", "coexpression"], "is the graph that every fit builds"),
        (["coexpression", "--split", "0000000"], "0000000"),
    ],
)
def test_builds_that_are_refused(files, arguments, message):
    answer = attempt("graphs", "build", *arguments)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert message in answer.err
    assert not Path("data").exists()
    assert not Path(".perturbfm").exists()


def test_columns_of_text_are_named_where_features_are_registered(files):
    table = pd.DataFrame({"Gene": ["A", "B"], "kind": ["x", "y"], "a": [1.0, 2.0]})
    table.to_parquet("t.parquet")
    answer = perturbfm("graphs", "features", "t.parquet", "--name", "t", warns=True)
    assert answer.values["dimensions"] == "1"
    assert "t.parquet: 1 columns hold no numbers and are left out: 'kind'" in answer.err


def test_features_that_are_refused(files):
    np.savez("bad.npz", x=np.ones(3))
    answer = attempt("graphs", "features", "bad.npz", "--name", "e")
    assert (answer.code, "gene features need 'genes' [N] and 'features' [N, F]" in answer.err) == (2, True)
    assert not Path("data").exists()


def test_features_are_made_of_gene_sets(files):
    Path("sets.gmt").write_text(
        "T1\tx\tG01\tG02\nT2\tx\tG02\tG03\nT3\tx\tG03\tG04\nT4\tx\tG01\tG02\tG03\tG04\tG05\n"
    )
    made = perturbfm(
        *(
            "graphs",
            "features",
            "sets.gmt",
            "--kind",
            "membership",
            "--dim",
            2,
            "--max-term",
            4,
            "--name",
            "go",
        )
    ).values
    assert (made["genes"], made["dimensions"]) == ("4", "2")
    (row,) = perturbfm("graphs", "list", "--json").json
    assert (row["kind"], row["problem"]) == ("membership", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kind", "sets"), "unknown kind of gene features 'sets'; known: table, membership"),
        (("--dim", 2, "--max-term", 5), "--dim, --max-term has no use with a table"),
        (("--kind", "membership", "--dim", 9), "--dim must be from 1 to"),
    ],
)
def test_options_of_features_that_are_refused(files, options, message):
    answer = attempt("graphs", "features", "go.gmt", "--name", "e", *options)
    assert (answer.code, message in answer.err) == (2, True)
    assert not Path("data").exists()
