"""Registered sources as entries read them, and what the record of a run has of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.pipeline import source_use
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support import source_files as made
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.factories import screen
from tests.support.source_commands import added, lines, states
from tests.support.source_files import GENES, written

LOST = ("LOSTGENE", "NOGENE")


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
