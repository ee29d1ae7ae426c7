"""`perturbfm knowledge add`, `list` and `remove`: sources converted, registered, replaced, refused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.catalog.loading import load_catalog
from tests.support import source_files as made
from tests.support.command import attempt, perturbfm
from tests.support.source_commands import added, lines, refused, states, stored
from tests.support.source_files import written

GIVES = {
    "string": {"graph", "features"},
    "go": {"features"},
    "reactome": {"features"},
    "collectri": {"graph"},
    "dorothea": {"graph"},
    "hgnc": {"features"},
    "human-tfs": {"features"},
}
LICENCES = {
    "string": "CC BY 4.0",
    "go": "CC BY 4.0",
    "reactome": "CC0 1.0",
    "collectri": "CC BY 4.0",
    "dorothea": "mixed",
    "hgnc": "CC0 1.0",
    "human-tfs": "unknown",
}


@pytest.mark.parametrize("source", GIVES)
def test_a_source_is_registered_with_version_licence_and_hashes(files, source):
    answer = attempt("knowledge", "add", source, *lines(files)[source], "--json")
    assert answer.err.startswith(f"licence of {source_title(source)}: {LICENCES[source]}")
    got = answer.json
    assert (got["name"], got["organism"], got["identifiers"]) == (source, "human", "symbols")
    assert {"graph", "features"} & set(got) == GIVES[source]
    main = Path(lines(files)[source][1])
    assert got["files"][0] == {
        "role": "main",
        "place": str(main.resolve()),
        "sha256": hashlib.sha256(main.read_bytes()).hexdigest(),
        "size": main.stat().st_size,
    }
    for what in GIVES[source]:
        path = Path(got[what]["path"])
        assert path.name == f"{source}-{got[what]['sha256'][:12]}.npz"
        catalog = load_catalog()
        entry = catalog.graph(source) if what == "graph" else catalog.feature_table(source)
        assert (entry.sha256, entry.licence, entry.origin.source) == (
            got[what]["sha256"],
            got["licence"],
            source,
        )
    assert perturbfm("knowledge", "show", source, "--json").json == got
    assert states()[source] == "registered"
    said = perturbfm("doctor", "--json").json["knowledge"][source]
    assert all(got[w]["sha256"][:12] in said for w in GIVES[source])


def source_title(source: str) -> str:
    return {
        "string": "STRING",
        "go": "Gene Ontology",
        "reactome": "Reactome",
        "collectri": "CollecTRI",
        "dorothea": "DoRothEA",
        "hgnc": "HGNC",
        "human-tfs": "The Human Transcription Factors",
    }[source]


def test_versions_are_those_of_the_files_else_what_is_given(files):
    assert added("string", *lines(files)["string"]).values["version"] == "12.0"
    assert added("go", *lines(files)["go"]).values["version"] == "2024-06-17 (annotations of 2024-06-10)"
    assert added("reactome", *lines(files)["reactome"], "--version", "88").values["version"] == "88"
    assert re.fullmatch(
        r"read \d{4}-\d\d-\d\d", added("dorothea", *lines(files)["dorothea"]).values["version"]
    )


def test_nothing_is_registered_at_first_and_all_sources_can_be():
    rows = perturbfm("knowledge", "list", "--json").json
    assert {r["state"] for r in rows} == {"can be added"}
    assert {r["name"] for r in rows} == {
        "string",
        "go",
        "reactome",
        "collectri",
        "dorothea",
        "omnipath",
        "trrust",
        "hgnc",
        "human-tfs",
    }
    shown = perturbfm("knowledge", "show", "reactome").values
    assert (shown["licence"], shown["state"]) == ("CC0 1.0", "can be added")
    assert "https://reactome.org/download/current/ReactomePathways.gmt.zip" in shown["files"]
    assert all(r["size"] for r in rows)
    assert "string/human_links" in {r["name"] for r in perturbfm("data", "download", "list", "--json").json}


def test_the_same_source_again_another_beside_it_and_in_its_place(files):
    added("string", *lines(files)["string"])
    first = stored()
    assert "'string' is registered already (STRING 12.0, human); give --force" in refused(
        "add", "string", *lines(files)["string"], "--min-score", 300
    )
    assert stored() == first
    beside = added(
        "string", *lines(files)["string"], "--min-score", 300, "--name", "string-300", "--json"
    ).json
    assert len(stored()) == 4
    again = added("string", *lines(files)["string"], "--min-score", 300, "--force", "--json").json
    assert again["graph"]["sha256"] == beside["graph"]["sha256"]
    # Files of the graph that was replaced are gone.
    assert len(stored()) == 4
    assert not set(first) & set(stored())


def test_a_graph_of_ones_own_is_not_replaced_unasked(files):
    edges = written(files, "e.csv", "source,target\nTP53,MDM2\n")
    perturbfm("graphs", "build", "edges", "--source", edges, "--directed", "--name", "reactome")
    assert "of no public source; give another --name" in refused("add", "reactome", *lines(files)["reactome"])
    assert "is a word for what models read" in refused(
        "add", "reactome", *lines(files)["reactome"], "--name", "auto"
    )
    assert attempt("graphs", "build", "edges", "--source", edges, "--directed", "--name", "none").code == 2
    table = written(files, "x.gmt", made.gmt())
    line = ("graphs", "features", table, "--kind", "membership", "--dim", 2, "--name")
    assert attempt(*line, "auto").code == 2
    assert attempt(*line, "mine").code == 0


def test_a_file_of_ones_own(files):
    path = written(files, "my sets.gmt", made.gmt())
    got = added("file", "--from", path, "--licence", "MIT", "--version", "3", "--json").json
    assert (got["name"], got["licence"], got["version"], got["source"]) == ("my-sets", "MIT", "3", "file")
    edges = written(files, "edges.csv", "source,target,weight\nTP53,MDM2,1\n")
    assert "give --directed or --undirected" in refused("add", "file", "--from", edges)
    assert added("file", "--from", edges, "--undirected").values["name"] == "edges"
    assert "is given with --from FILE" in refused("add", "file")


def test_genes_that_a_spreadsheet_made_dates_of_are_stated(files):
    table = written(files, "mine.csv", "gene,a,b\nTP53,1,2\n1-Mar,3,1\nSep-02,2,2\n")
    (said,) = added("file", "--from", table, "--json").json["notes"]
    assert said.startswith("2 genes are called like dates (e.g. 1-Mar), which spreadsheets make of MARCH1")


def test_a_file_of_ones_own_is_translated(files):
    table = written(files, "f.csv", "Gene,a\nTP53,1\nMDM2,2\nATM,3\n")
    names = written(files, "names.csv", f"symbol,id\nTP53,{made.ensembl(0)}\nMDM2,{made.ensembl(1)}\n")
    got = added("file", "--from", table, "--names", names, "--ids", "ensembl", "--json").json
    assert (got["identifiers"], got["options"]) == ("Ensembl ids", {})
    assert got["features"]["genes"] == 2
    assert got["notes"] == ["1 ids have no name in names.csv and are left out"]
    assert "wanted are Ensembl ids" in refused(
        "add", "file", "--from", table, "--ids", "ensembl", "--name", "x"
    )


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_damaged_file_is_named_with_a_remedy(files, harm):
    table = written(files, "emb.csv", "gene,a\nTP53,1\nMDM2,2\n")
    got = added("file", "--from", table, "--name", "emb", "--json").json
    path = Path(got["features"]["path"])
    assert perturbfm("doctor", "--json").json["problems"] == []
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        np.savez(path, genes=np.asarray(["TP53"]), features=np.ones((1, 1)))
    remedy = f"`perturbfm knowledge add file --from {table.resolve()} --name emb --force`"
    doctor = attempt("doctor", "--json")
    (problem,) = doctor.json["problems"]
    assert (doctor.code, refused("show", "emb").removeprefix("error: ")) == (2, problem)
    assert "registered source 'emb'" in problem
    assert remedy in problem
    assert "`perturbfm knowledge remove emb`" in problem
    added("file", "--from", table, "--name", "emb", "--force")
    assert perturbfm("doctor", "--json").json["problems"] == []


def test_a_remedy_repeats_the_options(files):
    line = ("--min-score", 300, "--dim", 2, "--name", "s")
    got = added("string", *lines(files)["string"], *line, "--json").json
    Path(got["graph"]["path"]).unlink()
    said = refused("show", "s")
    assert "--min-score 300 --dim 2 --force`" in said
    again = said.partition("`perturbfm knowledge add ")[2].partition("`")[0].split()
    assert added(*again, "--json").json["graph"]["sha256"] == got["graph"]["sha256"]


def test_removal(files):
    for source in ("string", "reactome"):
        added(source, *lines(files)[source])
    gone = perturbfm("knowledge", "remove", "string", "--json").json
    assert len(gone["files"]) == 4
    assert not any(Path(f).exists() for f in gone["files"])
    assert (states()["string"], states()["reactome"]) == ("can be added", "registered")
    assert "no source is registered as 'string'; registered: reactome" in refused("remove", "string")
    assert "no source is registered as 'nothing'" in refused("show", "nothing")
    added("string", *lines(files)["string"])


def test_options_without_a_use_are_refused(files):
    main = lines(files)["reactome"]
    assert "--min-score has no use with reactome; it takes --dim, --max-term" in refused(
        "add", "reactome", *main, "--min-score", 7
    )
    assert "--dim has no use with collectri" in refused(
        "add", "collectri", *lines(files)["collectri"], "--dim", 3
    )
    assert "--ontology has no use with reactome" in refused(
        "add", "reactome", *main, "--ontology", files / "go-basic.obo"
    )
    assert "--version describes a file that is given" in refused("add", "reactome", "--version", "8")
    assert "unknown source 'strnig'" in refused("add", "strnig")
    table = written(files, "f.csv", "gene,a\nTP53,1\nMDM2,2\n")
    assert "--dim has no use with" in refused("add", "file", "--from", table, "--dim", 2)
    pathways = files / "ReactomePathways.gmt.zip"
    assert "--aspects has no use with" in refused("add", "go", "--from", pathways, "--aspects", "F")
    assert "it takes --dim, --min-score" in refused("add", "string", *lines(files)["string"], "--max-term", 3)
    assert "none.gmt is not a file" in refused("add", "reactome", "--from", "none.gmt")
    assert "--sha256 says aaaa" in refused("add", "reactome", *main, "--sha256", "a" * 64)
    assert attempt("knowledge", "add", "reactome", *main, "--organism", "fly").code == 2
    assert stored() == []


def test_terms_that_forbid_some_uses_are_accepted_first():
    for source in ("dorothea", "omnipath"):
        answer = attempt("knowledge", "add", source)
        assert answer.code == 2
        first, last = answer.err.strip().split("\n")
        assert "terms of its own, some for academic use only" in first
        assert "repeat with --accept-licence" in last


@pytest.mark.parametrize(
    ("source", "name", "text", "said"),
    [
        ("string", "9606.protein.links.v12.0.txt.gz", made.string_links("mouse"), "taxon 10090 (mouse)"),
        ("go", "goa_human.gaf.gz", made.gaf(organism="mouse"), "taxon 10090 (mouse)"),
        ("reactome", "ReactomePathways.gmt.zip", made.gmt("MMU", made.MOUSE), "pathways of MMU"),
        ("collectri", "CollecTRI_regulons.csv", "who,whom\nA,B\n", "has no column of regulators"),
        ("go", "go-basic.obo", "nothing of the kind\n", "holds no term of an ontology"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_nothing_is_registered(files, source, name, text, said):
    written(files, name, text)
    assert said in refused("add", source, *lines(files)[source])
    assert states()[source] == "can be added"
    assert stored() == []
