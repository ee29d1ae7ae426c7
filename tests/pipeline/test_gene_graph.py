"""Graphs and features on their way to a model: found, built, checked, recorded in key, run and audit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.controls import INPUT, REFERENCE
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import ConfigError, GraphError, SplitError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph, from_edges
from perturbfm_core.graphs.io import read_graph, write_graph
from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import MODELS
from perturbfm_core.pipeline import gene_graph as stage
from perturbfm_core.pipeline import split as freezing
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.splits.audit.core import report
from perturbfm_core.splits.audit.own import fit_records, query_reads
from perturbfm_core.splits.audit.run import read_run
from perturbfm_core.splits.folder import SplitFolder, traits_of
from perturbfm_core.splits.view import Query, train_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.code import Code
from tests.support.factories import grid_rows, screen, split_one
from tests.support.stages import fit, predict, publish

CONFIG = SimulationConfig(name="small", n_obs=1500, n_genes=30, n_contexts=3, n_perts=6, n_batches=2)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a store with one data set and two splits, once."""
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    ds, truth = simulate(CONFIG)
    import_dataset(store, ds, storage="npz", truth=truth.arrays())
    ds = open_dataset(store.dataset("small"))
    made = []
    for held in ("C1", "C2"):
        spec = SplitSpec(kind="context_ood", params={"holdout": [held]})
        made += freezing.freeze_split(store, ds, spec, bounds=False)
    return path, [split.hash for split, _, _ in made]


@pytest.fixture
def store(template, own_home) -> ArtifactStore:
    shutil.copytree(template[0], own_home)
    shutil.copytree(own_home / "splits", own_home.parent / "splits")
    return ArtifactStore()


@pytest.fixture
def ds(store):
    return open_dataset(store.dataset("small"))


@pytest.fixture
def split(store, template):
    return SplitFolder(store.split_dir).load(template[1][0])


@pytest.fixture
def other(store, template):
    return SplitFolder(store.split_dir).load(template[1][1])


@pytest.fixture
def asks(monkeypatch):
    """Return a function that makes the model global_mean ask for graphs and features, and keeps what it got."""
    kind, given = MODELS.get("global_mean"), []
    plain = kind._fit

    def remembering(self, view, seed):
        given.append(self.side_info)
        plain(self, view, seed)

    def ask(graphs=(), features=()):
        monkeypatch.setattr(kind, "needs", lambda self: Needs(tuple(graphs), tuple(features)))
        return given

    monkeypatch.setattr(kind, "_fit", remembering)
    return ask


ENTRY = ModelEntry(name="global_mean", description="x", model="global_mean")
(RUN,) = model_configs(ENTRY)


def graph(name="net", weight=1.0, split_hash=None) -> GeneGraph:
    made = from_edges(
        name,
        np.asarray(["G00", "G01"]),
        np.asarray(["G01", "G02"]),
        np.asarray([weight, 1.0]),
        directed=True,
    )
    return replace(made, split_hash=split_hash)


def table(name="emb", value=1.0) -> GeneFeatures:
    return GeneFeatures(name, np.asarray(["G00", "G01"]), np.asarray([[value], [2.0]], dtype=np.float32))


def register(store, made, **fields):
    given = {"description": "d", "source": "s", "licence": "MIT", **fields}
    if isinstance(made, GeneGraph):
        return stage.save_graph(made, store.graph(made.name), **given)
    return stage.save_features(made, store.feature_table(made.name), **given)


# ---- catalog -----------------------------------------------------------------------------------------------------


def test_what_is_registered_is_in_the_catalog_and_comes_back(store):
    file = register(store, graph())
    register(store, table())
    assert file.name == "net.yaml"
    entry = load_catalog().graph("net")
    assert (entry.kind, entry.source, entry.licence) == ("edges", "s", "MIT")
    assert entry.sha256 == graph().sha256
    assert stage.load_graph(store, "net").sha256 == graph().sha256
    assert load_catalog().feature_table("emb").sha256 == table().sha256
    assert stage.load_features(store, "emb").matrix.tolist() == [[1.0], [2.0]]
    with pytest.raises(ConfigError, match="unknown gene graph 'nte'; known: net"):
        load_catalog().graph("nte")


def test_a_path_serves_where_there_is_no_such_name(store, tmp_path):
    write_graph(graph(), tmp_path / "file.npz")
    assert stage.load_graph(store, str(tmp_path / "file.npz")).sha256 == graph().sha256
    with pytest.raises(
        GraphError, match=r"no graph called 'none' in the catalog \(it has: none\), and no such file"
    ):
        stage.load_graph(store, "none")
    with pytest.raises(GraphError, match="no table of gene features called 'none' in the catalog"):
        stage.load_features(store, "none")


def test_a_file_that_is_not_what_the_catalog_states_is_refused(store):
    register(store, graph())
    register(store, table())
    write_graph(graph(weight=3.0), store.graph("net"))
    with pytest.raises(GraphError, match=f"content {graph(weight=3.0).sha256[:12]}, the catalog states"):
        stage.load_graph(store, "net")
    np.savez(store.feature_table("emb"), genes=np.asarray(["G00"]), features=np.ones((1, 1)))
    with pytest.raises(GraphError, match="register it again"):
        stage.load_features(store, "emb")
    store.graph("net").unlink()
    with pytest.raises(GraphError, match=r"is in the catalog, but .* does not exist"):
        stage.load_graph(store, "net")


def test_names_that_are_refused(store):
    with pytest.raises(GraphError, match="'coexpression' is the graph that every fit builds"):
        register(store, graph("coexpression"))
    with pytest.raises(ConfigError, match="'A b' cannot be a key"):
        register(store, graph("A b"))


def test_the_truth_is_the_simulators_network(store):
    truth = simulate(CONFIG)[1]
    found = stage.truth_graph(store.dataset("small"), "t")
    # The simulator keeps (target, regulator), a graph goes from source to target.
    assert np.allclose(found.adjacency.toarray(), truth.network.toarray().T, atol=1e-6)
    assert found.meta == {"kind": "truth", "directed": True}
    (store.dataset("small") / "truth.npz").unlink()
    with pytest.raises(GraphError, match="only a simulated data set knows its network"):
        stage.truth_graph(store.dataset("small"), "t")


# ---- gathering ---------------------------------------------------------------------------------------------------


def test_the_coexpression_graph_is_built_once_and_bound_to_its_split(store, ds, split, other):
    needs = Needs(graphs=("coexpression",))
    first = stage.gather(store, ds, split, needs).graph("coexpression")
    assert first.split_hash == split.hash
    made = stage.build_graph(store, ds, split)
    assert made.reused
    assert read_graph(made.path / schema.GRAPH_FILE).sha256 == first.sha256
    second = stage.gather(store, ds, other, needs).graph("coexpression")
    assert second.split_hash == other.hash
    assert second.sha256 != first.sha256


def test_code_of_graphs_decides_their_key(store, ds, split, monkeypatch):
    key = stage.build_graph(store, ds, split).key
    monkeypatch.setattr(stage, "code_of", lambda *_: Code({"m": "new"}, {}))
    made = stage.build_graph(store, ds, split)
    assert not made.reused
    assert made.key != key


def test_a_graph_of_another_split_is_refused_wherever_it_comes_from(store, ds, split, other, tmp_path, asks):
    bound = graph("bound", split_hash=other.hash)
    register(store, bound)
    write_graph(bound, tmp_path / "bound.npz")
    for name in ("bound", str(tmp_path / "bound.npz")):
        asks(graphs=[name])
        with pytest.raises(
            GraphError, match=f"split {other.hash[:12]} and must not be used with split {split.hash[:12]}"
        ):
            fit(store, ds, split, RUN)
    asks(graphs=["bound"])
    assert not fit(store, ds, other, RUN).reused


def test_a_model_gets_what_it_needs_and_no_more(store, ds, split, asks):
    register(store, graph())
    register(store, table())
    register(store, graph("unused"))
    given = asks(graphs=["coexpression", "net"], features=["emb"])
    fit(store, ds, split, RUN)
    assert {tuple(k.graphs) for k in given} == {("coexpression", "net")}
    assert {tuple(k.features) for k in given} == {("emb",)}
    assert given[0].graph("net").sha256 == graph().sha256


def test_side_information_decides_the_key_of_a_fit(store, ds, split, asks):
    register(store, graph())
    register(store, table())
    keys = [fit(store, ds, split, RUN).key]
    asks(graphs=["net"])
    keys.append(fit(store, ds, split, RUN).key)
    register(store, graph(weight=2.0))
    keys.append(fit(store, ds, split, RUN).key)
    asks(features=["emb"])
    keys.append(fit(store, ds, split, RUN).key)
    register(store, table(value=5.0))
    keys.append(fit(store, ds, split, RUN).key)
    assert len(set(keys)) == 5
    predicted = predict(store, ds, split, RUN).key
    register(store, table())
    assert predict(store, ds, split, RUN).key != predicted
    assert fit(store, ds, split, RUN).key == keys[3]


def test_the_same_content_under_new_bytes_is_reused(store, ds, split, asks):
    register(store, graph())
    asks(graphs=["net"])
    key = fit(store, ds, split, RUN).key
    np.savez(
        store.graph("net"),
        genes=np.asarray(["G00", "G01", "G02"]),
        adjacency=graph().adjacency.toarray(),
    )
    again = fit(store, ds, split, RUN)
    assert (again.key, again.reused) == (key, True)


def test_what_is_missing_makes_an_entry_not_applicable(store, ds, split, asks, tmp_path):
    traits = traits_of(split, ds)
    asks(graphs=["string"])
    assert "needs the graph 'string', which is not in the catalog; build it" in why_not(traits, ENTRY)
    with pytest.raises(SplitError, match=r"'global_mean' is not applicable .* needs the graph 'string'"):
        run_entry(store, split.hash, ENTRY)
    asks(features=["emb"])
    assert "register them with `perturbfm graphs features FILE --name emb`" in why_not(traits, ENTRY)
    register(store, table())
    assert why_not(traits, ENTRY) is None
    write_graph(graph(), tmp_path / "here.npz")
    asks(graphs=["coexpression", str(tmp_path / "here.npz")])
    assert why_not(traits, ENTRY) is None


# ---- runs and their audit ----------------------------------------------------------------------------------------


def statuses(ds, split, run) -> dict[str, str]:
    return {o.check: o.status for o in report(ds, split, read_run(run))}


def test_a_run_records_its_side_information(store, ds, split, asks):
    plain = read_json(publish(store, ds, split, RUN) / schema.CONFIG_FILE)
    assert (plain["graph_hash"], plain["side_info"]) == (None, {"graphs": {}, "features": {}})
    register(store, graph())
    register(store, table())
    given = asks(graphs=["coexpression", "net"], features=["emb"])
    config = read_json(publish(store, ds, split, RUN) / schema.CONFIG_FILE)
    assert config["side_info"] == {
        "graphs": {"coexpression": given[-1].graph("coexpression").sha256, "net": graph().sha256},
        "features": {"emb": table().sha256},
    }
    assert config["graph_hash"] == given[-1].graph_hash
    assert len(config["graph_hash"]) == 64


def test_an_own_run_passes_the_audit_of_what_it_declares(store, ds, split, asks):
    register(store, graph())
    register(store, table())
    asks(graphs=["coexpression", "net"], features=["emb"])
    run = publish(store, ds, split, RUN)
    found = statuses(ds, split, run)
    declared = ("reference_controls_read", "held_out_controls_read", "test_rows_read", "made_on_other_rows")
    assert {found[c] for c in (*declared, "test_moments_read")} == {"clean"}
    records = read_run(run).records
    assert [(r.what, r.name, r.rows) for r in records.made] == [
        ("model", "global_mean", "fit"),
        ("graph", "coexpression", "fit"),
        ("graph", "net", "external"),
        ("embedding", "emb", "external"),
    ]
    read = np.zeros(ds.n_obs, dtype=bool)
    read[list(records.rows_read)] = True
    contexts = ds.obs["context_id"].astype(str).to_numpy()
    # Everything of the open contexts but the controls that the truth subtracts.
    assert np.array_equal(read, (contexts != "C1") & (ds.controls.roles != REFERENCE))
    assert (ds.controls.roles[read] == INPUT).any()
    assert records.predict_reads == ("conditions", "genes", "control")


@pytest.mark.parametrize(
    ("check", "plant"),
    [
        ("test_rows_read", lambda ds, split, r: r["rows_read"].append(int(split.rows(ds, "test")[0]))),
        (
            "reference_controls_read",
            lambda ds, split, r: r["rows_read"].append(
                int(np.flatnonzero(ds.controls.roles == REFERENCE)[0])
            ),
        ),
        ("made_on_other_rows", lambda ds, split, r: r["made"][0].update(rows_sha256="0" * 64)),
        ("made_on_other_rows", lambda ds, split, r: r["made"][1].update(split_hash="0" * 64)),
        ("test_moments_read", lambda ds, split, r: r["predict_reads"].append("s2")),
    ],
)
def test_a_fault_planted_in_an_own_record_is_found(store, ds, split, asks, check, plant):
    asks(graphs=["coexpression"])
    run = publish(store, ds, split, RUN)
    assert statuses(ds, split, run)[check] == "clean"
    file = run / schema.RECORDS_FILE
    records = json.loads(file.read_text())
    plant(ds, split, records)
    file.write_text(json.dumps(records))
    assert statuses(ds, split, run)[check] == "blocking"


def test_rows_of_a_validation_fold_and_of_matched_controls_are_declared():
    rows = grid_rows(list("ABCDEF"), ["c0", "c1"], reps=3, controls=6)
    ds = screen(rows)
    split = split_one(
        ds, "perturbation_ood", {"holdout": ["A"]}, validation="fold", val_frac=0.3, calibration="inner_cv"
    )
    assert len(split.rows(ds, "val"))
    read = set(fit_records(ds, split, train_view(ds, split), "m").rows_read)
    folds = {f: set(split.rows(ds, f).tolist()) for f in ("train", "val", "test")}
    assert folds["train"] | folds["val"] <= read
    assert not folds["test"] & read
    # Few controls serve both roles, and all are read.
    assert set(np.flatnonzero(ds.is_control).tolist()) <= read


def test_data_without_controls_declare_none():
    ds = screen(
        [(p, "c") for p in "ABCDEF"],
        space="delta",
        level="condition",
        X=np.random.default_rng(0).normal(size=(6, 4)),
        genes=4,
    )
    split = split_one(
        ds,
        "perturbation_ood",
        {"holdout": ["A"]},
        validation="none",
        calibration="none",
        val_frac=0,
        calib_frac=0,
    )
    records = fit_records(ds, split, train_view(ds, split), "m")
    assert records.control_roles == ()
    assert records.rows_read == tuple(split.rows(ds, "train").tolist())
    assert query_reads(Query(ds.conditions, ds.genes, None)) == ("conditions", "genes")
