"""``perturbfm knowledge``: sources fetched, converted, registered, removed, and read by the entries that take what there is."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.downloads import transfer
from perturbfm_core.errors import StoreError
from perturbfm_core.pipeline import source_registering, source_use
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support import source_files as made
from tests.support.command import VARIABLES, Answer, attempt, perturbfm
from tests.support.factories import screen
from tests.support.http_host import Host, serving
from tests.support.source_files import GENES, written

LOST = ("LOSTGENE", "NOGENE")


@pytest.fixture
def files(tmp_path) -> Path:
    """Make the public files as a user has fetched them."""
    folder = tmp_path / "files"
    folder.mkdir()
    written(folder, "9606.protein.links.v12.0.txt.gz", made.string_links())
    written(folder, "9606.protein.info.v12.0.txt.gz", made.string_info())
    written(folder, "goa_human.gaf.gz", made.gaf())
    written(folder, "go-basic.obo", made.obo())
    written(folder, "ReactomePathways.gmt.zip", made.gmt())
    written(folder, "CollecTRI_regulons.csv", made.collectri())
    written(folder, "DatabaseExtract_v_1.01.csv", made.factors())
    written(folder, "hgnc_complete_set.txt", made.gene_groups())
    written(folder, "hierarchy_closure.csv", made.group_hierarchy())
    written(folder, "dorothea.tsv", made.omnipath())
    return folder


def lines(files: Path) -> dict[str, tuple[object, ...]]:
    """Return {source: options that name its files}."""
    return {
        "string": (
            "--from",
            files / "9606.protein.links.v12.0.txt.gz",
            "--names",
            files / "9606.protein.info.v12.0.txt.gz",
        ),
        "go": ("--from", files / "goa_human.gaf.gz", "--ontology", files / "go-basic.obo"),
        "reactome": ("--from", files / "ReactomePathways.gmt.zip"),
        "collectri": ("--from", files / "CollecTRI_regulons.csv"),
        "dorothea": ("--from", files / "dorothea.tsv"),
        "hgnc": ("--from", files / "hgnc_complete_set.txt", "--ontology", files / "hierarchy_closure.csv"),
        "human-tfs": ("--from", files / "DatabaseExtract_v_1.01.csv"),
    }


def added(*argv: object) -> Answer:
    """Register a source; its licence is all that there is on standard error."""
    answer = attempt("knowledge", "add", *argv)
    assert answer.code == 0, answer.err
    assert re.fullmatch(r"licence of [^\n]*\n", answer.err), answer.err
    return answer


def refused(*argv: object) -> str:
    """Return why a verb refuses, in one line after the licence."""
    answer = attempt("knowledge", *argv)
    assert (answer.code, answer.out) == (2, "")
    last = answer.err.strip().split("\n")
    assert len(last) == 1 + last[0].startswith("licence of "), answer.err
    return last[-1]


def states() -> dict[str, str]:
    return {row["name"]: row["state"] for row in perturbfm("knowledge", "list", "--json").json}


def stored() -> list[str]:
    return sorted(str(p.relative_to("data")) for p in Path("data").rglob("*.npz"))


# ---- registering -------------------------------------------------------------------------------------------------


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


# ---- fetching ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch):
    """Wait for nothing between the attempts of a transfer."""
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)


def packed_links() -> bytes:
    rng = np.random.default_rng(0)
    more = "".join(
        f"{made.protein(100 + int(a))} {made.protein(100 + int(b))} 200\n"
        for a, b in rng.integers(0, 5000, (4000, 2))
    )
    return gzip.compress((made.string_links() + more).encode())


def test_files_are_fetched_from_an_address_and_go_on_where_they_were_cut(files, hurried):
    info = (files / "9606.protein.info.v12.0.txt.gz").read_bytes()
    content = packed_links()
    with serving(Host(content, drops=[9_000, 1_000])) as links, serving(Host(info)) as names:
        place = f"{links.url}/protein.links.v12.0/9606.protein.links.v12.0.txt.gz"
        got = added("string", "--from", place, "--names", f"{names.url}/info.txt.gz", "--json").json
        assert [asked for _, asked in links.requests] == [None, "bytes=9000-", "bytes=10000-"]
    assert got["files"][0] == {
        "role": "main",
        "place": place,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    assert got["version"] == "12.0"
    assert got["graph"]["edges"] == len(made.pairs())


def test_a_transfer_that_is_cut_off_registers_nothing_and_is_finished_later(files, hurried):
    content, names = packed_links(), files / "9606.protein.info.v12.0.txt.gz"
    with serving(Host(content, drops=[5_000, *[0] * 30])) as host:
        line = ("add", "string", "--from", f"{host.url}/9606.protein.links.v12.0.txt.gz", "--names", names)
        assert "times in a row" in refused(*line)
        assert states()["string"] == "can be added"
        assert stored() == []
        host.drops.clear()
        host.requests.clear()
        added(*line[1:])
        assert [asked for _, asked in host.requests] == ["bytes=5000-"]
    assert states()["string"] == "registered"


def test_a_wrong_hash_a_page_and_a_damaged_file_register_nothing(files, hurried):
    good = (files / "ReactomePathways.gmt.zip").read_bytes()
    with serving(Host(good)) as host:
        place = f"{host.url}/ReactomePathways.gmt.zip"
        assert "its sha256 is not aaaaaaaaaaaa" in refused(
            "add", "reactome", "--from", place, "--sha256", "a" * 64
        )
        assert "is not a valid RemoteFile" in refused("add", "reactome", "--from", place, "--sha256", "xyz")
        host.statuses = [404]
        assert "answered 404" in refused("add", "reactome", "--from", place)
        host.content = good[: len(good) // 2]
        said = refused("add", "reactome", "--from", place)
        assert "--repin fetches it anew" in said
        assert stored() == []
        host.content = good
        assert "--repin fetches it anew" in refused("add", "reactome", "--from", place)
        added("reactome", "--from", place, "--repin")
    assert states()["reactome"] == "registered"


def test_the_registry_is_read_by_way_of_a_mirror(files, monkeypatch):
    mirror = files / "mirror"
    for name, file in (
        ("go/human_annotations", "goa_human.gaf.gz"),
        ("go/ontology", "go-basic.obo"),
        ("string/human_links", "9606.protein.links.v12.0.txt.gz"),
        ("string/human_info", "9606.protein.info.v12.0.txt.gz"),
    ):
        (mirror / name).mkdir(parents=True)
        (mirror / name / file).write_bytes((files / file).read_bytes())
    monkeypatch.setenv("PERTURBFM_MIRROR", str(mirror))
    got = added("go", "--json").json
    assert [f["place"].rpartition("/")[2] for f in got["files"]] == ["goa_human.gaf.gz", "go-basic.obo"]
    assert added("string").values["version"] == "12.0"
    # An address that is given is the place.
    with serving(Host((files / "ReactomePathways.gmt.zip").read_bytes())) as host:
        place = f"{host.url}/ReactomePathways.gmt.zip"
        assert added("reactome", "--from", place, "--json").json["files"][0]["place"] == place
        assert len(host.requests) == 1


def test_what_cannot_be_written_registers_nothing(files, monkeypatch):
    def fails(*_):
        msg = "no room"
        raise StoreError(msg)

    monkeypatch.setattr(source_registering, "write_graph", fails)
    assert "no room" in refused("add", "string", *lines(files)["string"])
    assert states()["string"] == "can be added"


def test_an_entry_that_was_cut_off_between_graph_and_features_is_finished(files):
    whole = added("string", *lines(files)["string"], "--json").json
    for folder in ("graphs", "features"):
        (entry,) = Path(".perturbfm/catalog", folder).glob("string.yaml")
        entry.unlink()
        assert states()["string"] == "registered"
        again = added("string", *lines(files)["string"], "--json").json
        assert {w: again[w]["sha256"] for w in ("graph", "features")} == {
            w: whole[w]["sha256"] for w in ("graph", "features")
        }
    assert "is registered already" in refused("add", "string", *lines(files)["string"])


# ---- what models read --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a screen of ten genes, two of which no source has, and a split of it."""
    path = tmp_path_factory.mktemp("knowledge")
    store = ArtifactStore(path, path / "splits")
    perts, genes = [*GENES, *LOST], [f"g{i}" for i in range(12)]
    rng = np.random.default_rng(0)
    blocks = rng.normal(size=(3, 12))
    rows = [(p, "k", {"modality": "CRISPRi"}) for p in perts for _ in range(3)] + [("control", "k")] * 8
    effect = {p: blocks[min(i // 4, 2)] for i, p in enumerate(perts)}
    X = np.stack([4 + effect.get(r[0], np.zeros(12)) for r in rows]) + rng.normal(
        scale=0.3, size=(len(rows), 12)
    )
    import_dataset(store, screen(rows, X=X, genes=genes, name="small"), storage="npz")
    ds = open_dataset(store.dataset("small"))
    spec = SplitSpec(
        kind="perturbation_ood", params={"holdout": ["MDM2", "TAL1", LOST[0]]}, val_frac=0, calib_frac=0
    )
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    return path, split.hash


@pytest.fixture
def split(template, tmp_path, monkeypatch) -> str:
    import shutil

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(source_use, "_said", set())
    shutil.copytree(template[0], tmp_path, dirs_exist_ok=True)
    return template[1]


@pytest.fixture
def quick(split, monkeypatch) -> str:
    """Return the split, and leave pages of reports unwritten."""
    monkeypatch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")
    return split


def fitted(split: str, entry: str, *more: object) -> tuple[dict[str, object], str]:
    """Run an entry without its network; return the record of the run, with ``existing``, and what was said."""
    answer = attempt(
        "run", "--entry", entry, "--split", split, "--param", "gate=off", "--name", "e", *more, "--json"
    )
    assert answer.code == 0, answer.err
    record = json.loads((Path(answer.json["run_dir"]) / "config.json").read_text())
    return {**record, "existing": answer.json["existing"], "dir": answer.json["run_dir"]}, answer.err


def predicted(record: dict[str, object]) -> bytes:
    return (Path(str(record["dir"])) / "predictions.npz").read_bytes()


@pytest.mark.slow
def test_an_entry_reads_what_is_registered_and_its_run_says_so(files, quick):
    before, said = fitted(quick, "perturbfm-v0")
    assert (before["side_info"], before["sources"], said) == ({"graphs": {}, "features": {}}, [], "")
    assert before["params"]["gene_features"] == []
    for source in ("reactome", "go", "collectri"):
        added(source, *lines(files)[source])
    after, said = fitted(quick, "perturbfm-v0")
    assert said == (
        "warning: 2 of 10 perturbed genes of 'small' are not found in any source that is read (go, reactome): "
        "LOSTGENE, NOGENE\n"
    )
    assert not after["existing"]
    # The configuration is the same, what it read is not.
    assert after["config_hash"] == before["config_hash"]
    assert after["objects"]["model"] != before["objects"]["model"]
    assert predicted(after) != predicted(before)
    catalog = load_catalog()
    assert after["side_info"]["features"] == {n: catalog.feature_table(n).sha256 for n in ("go", "reactome")}
    assert [
        (s["name"], s["what"], s["version"], s["found"], s["perturbed"], s["licence"])
        for s in after["sources"]
    ] == [
        ("go", "features", "2024-06-17 (annotations of 2024-06-10)", 8, 10, "CC BY 4.0"),
        ("reactome", "features", after["sources"][1]["version"], 8, 10, "CC0 1.0"),
    ]
    records = json.loads((Path(str(after["dir"])) / "audit.json").read_text())["made"]
    assert [r["source"] for r in records if r["what"] == "embedding"] == [
        f"{s['source']} {s['version']}, {s['sha256'][:12]}" for s in after["sources"]
    ]
    assert perturbfm("splits", "audit", quick, "--run", after["dir"], warns=True).code == 0
    # Said once; the run is found.
    again, said = fitted(quick, "perturbfm-v0")
    assert (again["existing"], again["run_id"], said) == (True, after["run_id"], "")
    # As it was, when all are gone.
    for source in ("reactome", "go", "collectri"):
        perturbfm("knowledge", "remove", source)
    gone, _ = fitted(quick, "perturbfm-v0")
    assert (gone["existing"], gone["run_id"]) == (True, before["run_id"])


@pytest.mark.slow
def test_a_changed_table_is_another_run(files, quick):
    added("reactome", *lines(files)["reactome"], "--dim", 3)
    first, _ = fitted(quick, "perturbfm-v0")
    added("reactome", *lines(files)["reactome"], "--dim", 2, "--force")
    second, _ = fitted(quick, "perturbfm-v0")
    assert not second["existing"]
    assert first["objects"]["model"] != second["objects"]["model"]
    added("reactome", *lines(files)["reactome"], "--dim", 3, "--force")
    assert fitted(quick, "perturbfm-v0")[0]["run_id"] == first["run_id"]


@pytest.mark.slow
def test_none_reads_nothing_and_a_name_reads_one(files, quick):
    for source in ("reactome", "go"):
        added(source, *lines(files)[source])
    none, said = fitted(quick, "perturbfm-v0", "--gene-features", "none")
    assert (none["side_info"]["features"], none["sources"], said) == ({}, [], "")
    one, _ = fitted(quick, "perturbfm-v0", "--gene-features", "go")
    assert list(one["side_info"]["features"]) == ["go"]
    assert [s["name"] for s in one["sources"]] == ["go"]
    every, _ = fitted(quick, "perturbfm-v0", "--gene-features", "auto")
    assert list(every["side_info"]["features"]) == ["go", "reactome"]
    both, _ = fitted(quick, "perturbfm-v0", "--gene-features", "go", "--gene-features", "auto")
    assert both["side_info"]["features"] == every["side_info"]["features"]
    answer = attempt(
        "run", "--entry", "perturbfm-v0", "--split", quick, "--gene-features", "go", "--gene-features", "none"
    )
    assert answer.code == 2
    assert "'none' stands alone, found go, none" in answer.err


@pytest.mark.slow
def test_a_model_of_graphs_reads_graphs_and_no_table_of_the_same_source(files, quick):
    for source in ("string", "reactome", "collectri"):
        added(source, *lines(files)[source])
    v2, _ = fitted(quick, "perturbfm-v2")
    assert set(v2["side_info"]["graphs"]) == {"coexpression", "string", "collectri"}
    assert set(v2["side_info"]["features"]) == {"reactome"}
    assert {(s["name"], s["what"]) for s in v2["sources"]} == {
        ("string", "graph"),
        ("collectri", "graph"),
        ("reactome", "features"),
    }
    v0, _ = fitted(quick, "perturbfm-v0")
    assert set(v0["side_info"]["features"]) == {"reactome", "string"}
    plain, _ = fitted(quick, "perturbfm-v2", "--graph-features", 0)
    assert set(plain["side_info"]["features"]) == {"reactome", "string"}
    bare, _ = fitted(quick, "perturbfm-v2", "--adjacency", "none", "--gene-features", "none")
    assert bare["side_info"] == {"graphs": {}, "features": {}}


@pytest.mark.slow
def test_sources_of_other_names_are_not_read_and_that_is_said_once(files, quick):
    mouse = written(files, "mouse.gmt", made.gmt("MMU", made.MOUSE))
    added("reactome", "--from", mouse, "--organism", "mouse")
    assert states() == {**states(), "reactome-mouse": "registered"}
    before, said = fitted(quick, "perturbfm-v0")
    assert said == (
        "warning: no registered source knows the perturbed genes of 'small' (symbols, e.g. 'ATM'), none is read: "
        "reactome-mouse has symbols of mouse\n"
    )
    assert before["sources"] == []
    mapping = written(files, "Ensembl2Reactome_All_Levels.txt", made.reactome_mapping())
    added("reactome", "--from", mapping, "--ids", "ensembl")
    assert "reactome has Ensembl ids of human" in fitted(quick, "perturbfm-v0")[1]
    names = "".join(f"{made.ensembl(i)}\t{g}\n" for i, g in enumerate(GENES))
    added(
        "reactome",
        "--from",
        mapping,
        "--names",
        written(files, "names.tsv", "gene\tname\n" + names),
        "--force",
    )
    after, _ = fitted(quick, "perturbfm-v0")
    assert [s["name"] for s in after["sources"]] == ["reactome"]


def test_models_of_gene_embeddings_take_the_word_as_well(files, quick):
    added("reactome", *lines(files)["reactome"])
    line = ("run", "--entry", "gene_embedding_ridge", "--split", quick, "--gene-features", "auto", "--json")
    record = json.loads((Path(attempt(*line).json["run_dir"]) / "config.json").read_text())
    assert [s["name"] for s in record["sources"]] == ["reactome"]


def test_a_registered_file_that_changed_is_refused(files, quick):
    got = added("reactome", *lines(files)["reactome"], "--json").json
    Path(got["features"]["path"]).unlink()
    answer = attempt("run", "--entry", "perturbfm-v0", "--split", quick)
    assert answer.code == 2
    assert "is in the catalog, but" in answer.err


def test_the_cover_of_a_data_set(files, quick):
    added("string", *lines(files)["string"])
    shown = perturbfm("knowledge", "show", "string", "--data", "data/small", "--json").json
    assert (shown["perturbed_genes"], shown["found"], shown["not_found"]) == (10, 8, list(LOST))


@pytest.mark.slow
def test_the_report_names_the_sources(files, split):
    added("reactome", *lines(files)["reactome"], "--version", "88")
    record, _ = fitted(split, "perturbfm-v0")
    page = (Path(str(record["dir"])) / "report.html").read_text()
    assert "reactome 88 (features" in page
    assert "8 of 10 perturbed genes" in page
