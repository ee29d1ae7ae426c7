"""The word ``auto``: which registered sources it stands for, what it leaves of a configuration, and who resolves it."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.catalog import registering
from perturbfm_core.catalog.entries import FeaturesEntry, GraphEntry, ModelEntry, Origin, SplitSpec
from perturbfm_core.catalog.loading import load_catalog, to_yaml
from perturbfm_core.config import content_hash
from perturbfm_core.errors import ConfigError, GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph, from_edges
from perturbfm_core.graphs.io import write_features, write_graph
from perturbfm_core.graphs.masks import PertMasks
from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import new_model
from perturbfm_core.pipeline import registered, source_use
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.gene_families import listed
from perturbfm_core.pipeline.gene_graph import check_name, gather, missing
from perturbfm_core.pipeline.opening import open_experiment, with_registered
from perturbfm_core.pipeline.registered import names_for, resolved_params
from perturbfm_core.pipeline.report import existing_run
from perturbfm_core.pipeline.run import run, run_entry
from perturbfm_core.pipeline.source_use import acted_on
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.suite import SuiteCell, SuiteSplit
from perturbfm_core.pipeline.suite_status import suite_status
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning.validation import Validation
from tests.support.factories import screen

PERTS = [f"P{i}" for i in range(10)]
AUTO = {"gene_features": ["auto"]}


@pytest.fixture
def store(own_home) -> ArtifactStore:
    rows = [(p, "k") for p in PERTS for _ in range(3)] + [("control", "k")] * 6
    store = ArtifactStore()
    import_dataset(store, screen(rows, genes=8, name="small"), storage="npz")
    return store


@pytest.fixture
def ds(store):
    return open_dataset(store.dataset("small"))


@pytest.fixture
def split(store, ds):
    spec = SplitSpec(
        kind="perturbation_ood", params={"holdout": ["P0", "P1"]}, val_frac=0, validation="inner_cv"
    )
    return freeze_split(store, ds, spec, bounds=False)[0][0]


def table(name: str, genes: list[str], seed: int = 0) -> GeneFeatures:
    values = np.random.default_rng(seed).normal(size=(len(genes), 3)).astype(np.float32)
    return GeneFeatures(name, np.asarray(genes), values)


def graph(name: str, genes: list[str]) -> GeneGraph:
    return from_edges(
        name, np.asarray(genes[:-1]), np.asarray(genes[1:]), np.ones(len(genes) - 1), directed=False
    )


def register(store: ArtifactStore, item: GeneFeatures | GeneGraph, source: str | None = "file") -> None:
    origin = None
    if source is not None:
        origin = Origin(source=source, title="made up", version="1", organism="human", identifiers="symbols")
    is_graph = isinstance(item, GeneGraph)
    path = store.graph(item.name) if is_graph else store.feature_table(item.name)
    write_graph(item, path) if is_graph else write_features(item, path)
    given = {
        "name": item.name,
        "description": "d",
        "path": str(path.resolve()),
        "sha256": item.sha256,
        "origin": origin,
    }
    registering.register(GraphEntry(kind="edges", **given) if is_graph else FeaturesEntry(**given))


# ---- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("auto", ("auto",)),
        (["auto"], ("auto",)),
        ("none", ()),
        (["none"], ()),
        ("go", ("go",)),
        (("go", "auto"), ("go", "auto")),
        ([], ()),
    ],
)
@pytest.mark.parametrize("model", ["perturbfm-v0", "gene_embedding_ridge"])
def test_words_of_parameters(model, given, wanted):
    assert new_model(model, {"gene_features": given}).params.gene_features == wanted


@pytest.mark.parametrize("name", ["adjacency", "gene_features"])
def test_none_stands_alone(name):
    with pytest.raises(ConfigError, match=f"{name}: 'none' stands alone, found none, auto"):
        new_model("perturbfm-v1", {name: ["none", "auto"]})


def test_the_word_leaves_the_configuration_as_it_is_without():
    for model, plain, words in (
        ("perturbfm-v0", {}, AUTO),
        ("perturbfm-v2", {"adjacency": ["coexpression"]}, {"adjacency": ["coexpression", "auto"], **AUTO}),
        ("knn", {"gene_features": ["go"]}, {"gene_features": ["go", "auto"]}),
    ):
        a, b = (
            model_configs(ModelEntry(name="e", description="", model=model, params=p))[0]
            for p in (plain, words)
        )
        assert (a.config_hash, a.entry_hash, a.fit_hash, a.params) == (
            b.config_hash,
            b.entry_hash,
            b.fit_hash,
            b.params,
        )
        assert (a.auto, b.auto) == (
            (),
            tuple(n for n in ("adjacency", "gene_features") if "auto" in words.get(n, ())),
        )
        assert "auto" not in b.new_model().params.gene_features


def test_the_entries_that_ship_take_the_word():
    for name, entry in load_catalog().models.items():
        if name.startswith("perturbfm-"):
            config = model_configs(entry)[0]
            wanted = ("gene_features",) if name == "perturbfm-v0" else ("adjacency", "gene_features")
            assert (name, config.auto) == (name, wanted)
            assert missing(new_model(entry.model, entry.params).needs()) is None


# ---- what it stands for ------------------------------------------------------------------------------------------


def test_sources_that_know_a_tenth_of_the_perturbed_genes(store, ds):
    assert names_for(store, ds, "perturbfm-v0", AUTO) == {}
    register(store, table("one", ["P3", "X1", "X2"]))
    register(store, table("other", ["Y1", "Y2"]))
    register(store, table("mine", PERTS), source=None)
    register(store, graph("net", ["P1", "P2", "P3"]))
    assert names_for(store, ds, "perturbfm-v0", AUTO) == {"gene_features": ("one",)}
    assert names_for(store, ds, "perturbfm-v0", {"gene_features": ["one", "auto"]}) == {}
    both = {"adjacency": ["coexpression", "auto"], **AUTO}
    assert names_for(store, ds, "perturbfm-v1", both) == {"adjacency": ("net",), "gene_features": ("one",)}
    assert names_for(store, ds, "perturbfm-v1", {**both, "graph": False}) == {"gene_features": ("one",)}
    assert names_for(store, ds, "perturbfm-v1", {**both, "perturbation": False}) == {}
    assert names_for(store, ds, "perturbfm-v0", both) == {"gene_features": ("one",)}
    assert names_for(store, ds, "ridge", {}) == {}


def test_every_source_that_is_not_read_is_said_once(store, ds, monkeypatch):
    monkeypatch.setattr(source_use, "_said", set())
    register(store, table("one", PERTS))
    register(store, table("other", ["Y1", "Y2"]))
    register(store, graph("net", ["Z1", "Z2", "Z3"]))
    said: list[str] = []
    for _ in range(2):
        names_for(store, ds, "perturbfm-v0", AUTO, said.append)
    about = "registered sources that know less than a tenth of the perturbed genes of 'small' (symbols, e.g. 'P0') are not read"
    assert said == [f"warning: {about}: other has symbols of human"]
    names_for(store, ds, "perturbfm-v1", {"adjacency": ["coexpression", "auto"], **AUTO}, said.append)
    assert said[1:] == [f"warning: {about}: net has symbols of human; other has symbols of human"]
    # A table of a source whose graph is read is left out by choice.
    register(store, graph("one", PERTS))
    names_for(store, ds, "perturbfm-v2", {"adjacency": ["auto"], **AUTO}, said.append)
    assert len(said) == 2


def test_one_in_ten_is_enough_and_fewer_are_not(store):
    rows = [(f"Q{i}", "k") for i in range(21)] + [("control", "k")] * 4
    import_dataset(store, screen(rows, genes=4, name="wide"), storage="npz")
    wide = open_dataset(store.dataset("wide"))
    register(store, table("two", ["Q1", "Q2"]))
    register(store, table("three", ["Q1", "Q2", "Q3"]))
    assert names_for(store, wide, "perturbfm-v0", AUTO) == {"gene_features": ("three",)}
    assert registered.LEAST_SHARE == 0.1


def test_targets_of_drugs_count_where_masks_describe_them(ds):
    mask = np.zeros((2, 3), dtype=np.float32)
    mask[0, 0] = mask[0, 2] = -1
    mask[1, 1] = 1
    masks = PertMasks(np.asarray(["P0", "absent"]), np.asarray(["TP53", "MDM2", "ATM"]), mask)
    assert acted_on(ds) == PERTS
    assert acted_on(ds, masks) == ["ATM", *PERTS[1:], "TP53"]


def test_resolved_parameters_have_no_word_left(store, ds):
    assert resolved_params(store, ds, "perturbfm-v0", {"gene_features": "auto", "rank": 3}) == {
        "gene_features": [],
        "rank": 3,
    }
    register(store, table("one", PERTS))
    assert resolved_params(store, ds, "knn", AUTO) == {"gene_features": ["one"]}
    assert resolved_params(store, ds, "knn", {"gene_features": ["coexpression", "auto"]}) == {
        "gene_features": ["coexpression", "one"]
    }
    assert resolved_params(store, ds, "ridge", {"alphas": [1.0]}) == {"alphas": [1.0]}


def test_members_of_an_ensemble_read_the_same(store, ds):
    register(store, table("one", PERTS))
    entry = ModelEntry(name="e", description="", model="knn", params=AUTO, uncertainty={"ensemble": 2})
    config = with_registered(store, ds, model_configs(entry)[0])
    assert config.new_model().needs() == Needs(features=("one",))
    assert config.config_hash == model_configs(entry)[0].config_hash


# ---- keys, runs, and what looks at them --------------------------------------------------------------------------


def entry_of(name: str = "e") -> ModelEntry:
    return ModelEntry(name=name, description="", model="gene_embedding_ridge", params=AUTO)


def test_a_source_is_part_of_the_key_by_its_content(store, ds, split):
    def key() -> str:
        return open_experiment(store, ds, split, model_configs(entry_of())[0]).keys.model

    keys = [key()]
    for item in (table("one", PERTS), table("one", PERTS, seed=1), table("two", PERTS)):
        register(store, item)
        keys.append(key())
    assert len(set(keys)) == 4
    register(store, table("far", ["Z1", "Z2"]))
    assert key() == keys[-1]
    # Where it came from is not: the same content is the same fit.
    register(store, table("two", PERTS), source="go")
    assert key() == keys[-1]


@pytest.mark.slow
def test_the_state_of_a_suite_knows_runs_of_registered_sources(store, ds, split, monkeypatch):
    entry = entry_of("gene-embedding-auto")
    folder = store.home.parent / "catalog/models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{entry.name}.yaml").write_text(to_yaml(entry))
    cell = SuiteCell(
        SuiteSplit("small", "perturbation_ood", "key", "board", split.hash, None, is_frozen=True),
        entry.name,
        0,
        None,
    )

    def state() -> str:
        return suite_status(store, [cell])[0].state

    def make() -> str:
        return run_entry(store, split.hash, entry)[0].name

    monkeypatch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")
    assert state() == "missing"
    make()
    assert state() == "done"
    register(store, table("one", PERTS))
    assert state() == "missing"
    make()
    assert state() == "done"


def test_tuning_scores_what_the_entry_reads(store, ds, split):
    register(store, table("one", PERTS))
    words = Validation(store, ds, split, entry_of(), 0).score({"gene_features": ["auto"]}, 0)
    named = Validation(store, ds, split, entry_of(), 0).score({"gene_features": ["one"]}, 0)
    plain = Validation(store, ds, split, entry_of(), 0).score({"gene_features": []}, 0)
    assert words == named != plain


def test_what_no_source_has_is_said_once_and_never_in_silence(store, ds, split, monkeypatch):
    monkeypatch.setattr(source_use, "_said", set())
    register(store, table("one", PERTS[:3]))
    gather(store, ds, split, Needs(features=("one",)))
    said: list[str] = []
    for _ in range(2):
        gather(store, ds, split, Needs(features=("one",)), said.append)
    assert [s for s in said if s.startswith("warning: ")] == [
        "warning: 7 of 10 perturbed genes of 'small' are not found in any source that is read (one): P3, P4, P5, P6, P7 and 2 more"
    ]
    (use,) = gather(store, ds, split, Needs(features=("one",))).sources
    assert (use.name, use.found, use.perturbed) == ("one", 3, 10)
    assert content_hash({"features": use.sha256}) == content_hash(
        {"features": table("one", PERTS[:3]).sha256}
    )


@pytest.mark.slow
def test_a_run_is_found_again_only_with_the_same_sources(store, ds, split, monkeypatch):
    monkeypatch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")

    def e():
        return open_experiment(store, ds, split, model_configs(entry_of())[0])

    first = run(e())
    register(store, table("one", PERTS))
    assert existing_run(e()) is None
    second = run(e())
    assert (existing_run(e()), first != second) == (second, True)


def test_a_registered_file_that_is_gone_is_said(store, ds):
    register(store, table("one", PERTS))
    store.feature_table("one").unlink()
    with pytest.raises(GraphError, match="'one' is in the catalog, but"):
        names_for(store, ds, "perturbfm-v0", AUTO)


# ---- families and lists ------------------------------------------------------------------------------------------

FACTORS = ["FOXA1", "FOXA3", "FOXL2", "CEBPA", "CEBPB", "KLF1"]
OTHERS = ["CDKN1A", "CDKN1B", "MYCBP", "SETD2"]


@pytest.fixture
def of_genes(own_home) -> ArtifactStore:
    rows = [(p, "k") for p in FACTORS + OTHERS for _ in range(3)] + [("control", "k")] * 6
    store = ArtifactStore()
    import_dataset(store, screen(rows, genes=8, name="genes"), storage="npz")
    return store


def test_families_by_symbols_need_no_source(of_genes):
    ds = open_dataset(of_genes.dataset("genes"))
    assert names_for(of_genes, ds, "perturbfm-v2", AUTO) == {"gene_features": ("families",)}
    assert names_for(of_genes, ds, "perturbfm-v2", {"gene_features": ["families", "auto"]}) == {}
    assert names_for(of_genes, ds, "perturbfm-v2", {}) == {}


def test_a_fit_reads_families_and_records_them(of_genes):
    ds = open_dataset(of_genes.dataset("genes"))
    spec = SplitSpec(
        kind="perturbation_ood", params={"holdout": ["FOXA3", "CEBPA"]}, val_frac=0, validation="inner_cv"
    )
    split = freeze_split(of_genes, ds, spec, bounds=False)[0][0]
    side = gather(of_genes, ds, split, Needs(features=("families",)))
    assert list(side.features) == list(side.digests["features"]) == ["families"]
    assert {"FOXA1", "FOXA3", "SETD2"} <= set(side.features["families"].genes.tolist())


def test_symbols_without_families_are_no_table(store, ds, split):
    with pytest.raises(GraphError, match="no two perturbed genes of 'small' have symbols of one family"):
        gather(store, ds, split, Needs(features=("families",)))
    with pytest.raises(GraphError, match="'families' is a word for what models read"):
        check_name("families")


def test_of_a_complete_list_being_in_it_is_a_table_too(of_genes):
    register(of_genes, table("tfs", FACTORS), "human-tfs")
    ds = open_dataset(of_genes.dataset("genes"))
    assert names_for(of_genes, ds, "perturbfm-v0", AUTO) == {
        "gene_features": ("families", "tfs", "tfs:listed")
    }
    made = listed(table("tfs", FACTORS), ds)
    assert made.matrix[made.position["KLF1"]].tolist() == [1.0, 0.0]
    assert made.matrix[made.position["SETD2"]].tolist() == [0.0, 1.0]
    assert missing(Needs(features=("tfs", "tfs:listed"))) is None
    assert "needs the gene features 'no'" in str(missing(Needs(features=("no:listed",))))


@pytest.mark.parametrize("name", ["adjacency", "gene_features", "borrow"])
def test_a_name_that_is_repeated_counts_once(name):
    repeated, once = (new_model("perturbfm-v1", {name: names}) for names in (["a", "b", "a"], ["a", "b"]))
    assert repeated.params == once.params
    assert getattr(once.params, name) == ("a", "b")
