"""The whole model: the same bytes, what is saved, what is resumed, and what it may read."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.errors import ModelError, SplitError
from perturbfm_core.graphs.coexpression import train_coexpression
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import EncoderFolder, SideInfo
from perturbfm_core.models.base import Model, load_model, new_model, save_model
from perturbfm_core.models.perturbfm import model as model_module
from perturbfm_core.models.perturbfm.encoder.module import EncoderConfig
from perturbfm_core.models.perturbfm.encoder.pretraining import PretrainConfig, pretrain, save_encoder
from perturbfm_core.models.perturbfm.network import fitting
from perturbfm_core.splits.view import TrainView, train_view
from perturbfm_core.training.loop import LoopConfig
from tests.support.factories import query_of, simulated, split_all
from tests.support.networks import QUICK, VERSIONS, fitted, graph_of, screen_view

GENES = [f"g{i}" for i in range(20)]
# The whole fit: a core, networks on inner folds, a gate that is open, a variance.
WHOLE: dict[str, Any] = {**QUICK, "core": "process", "epochs": 4}


@lru_cache(maxsize=1)
def side_info() -> SideInfo:
    """Return two graphs and a table of features."""
    table = GeneFeatures(
        "t", np.asarray(GENES), np.random.default_rng(5).normal(size=(20, 3)).astype(np.float32)
    )
    graphs = {"ring": graph_of(GENES), "two": graph_of(GENES, "two", shift=2, directed=True)}
    return SideInfo(graphs, {"t": table})


@lru_cache(maxsize=1)
def small_view() -> TrainView:
    """Return six singles and two pairs in two contexts."""
    return screen_view(n=6, pairs=2)


@cache
def _once(name: str, seed: int, params: str) -> Model:
    return fitted(name, small_view(), side_info(), seed, **json.loads(params))


def once(name: str, seed: int = 0, **params: Any) -> Any:
    """Return a private copy of the model fitted on the small view with all side information, fitted once."""
    return copy.deepcopy(_once(name, seed, json.dumps(params, sort_keys=True)))


# An ensemble that both the test of the bytes and that of loading look at.
ENSEMBLE: dict[str, Any] = {**WHOLE, "ensemble_size": 2, "gating_mode": "lowrank"}


def saved(model: Model, folder: Path) -> dict[str, bytes]:
    """Return the files of a saved model."""
    folder.mkdir(parents=True)
    save_model(model, folder)
    return {name: (folder / name).read_bytes() for name in (schema.MODEL_FILE, schema.MODEL_META_FILE)}


def mixed_query(view: TrainView) -> Any:
    """Return seen and unseen conditions in seen and unseen contexts."""
    rows = [
        ("c0", "g1", "CRISPRi"),
        ("c0", "g1+g7", "CRISPRi"),
        ("new", "g15", "CRISPRi"),
        ("c1", "zz", "CRISPRi"),
    ]
    return query_of(
        rows, list(view.genes), control=np.random.default_rng(0).uniform(0.5, 3, size=(4, len(view.genes)))
    )


# ---- bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_the_same_seed_gives_the_same_bytes(name, tmp_path):
    models = [
        once(name, 3, **ENSEMBLE),
        fitted(name, screen_view(n=6, pairs=2), side_info(), 3, **ENSEMBLE),
    ]
    files = [saved(model, tmp_path / str(k)) for k, model in enumerate(models)]
    assert files[0] == files[1]
    # The networks alone: a core that differs must not stand in for networks that do not.
    mine, other = (
        saved(model, tmp_path / f"networks {k}")
        for k, model in enumerate(
            [once(name, 3, **QUICK), fitted(name, small_view(), side_info(), 4, **QUICK)]
        )
    )
    assert other[schema.MODEL_FILE] != mine[schema.MODEL_FILE]


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize(
    "params",
    [
        pytest.param({**WHOLE, "gate": "off"}, id="no network"),
        pytest.param({**WHOLE, "core": "stack"}, id="stack"),
        pytest.param(QUICK, id="no core"),
        pytest.param(ENSEMBLE, id="ensemble"),
    ],
)
def test_a_saved_model_predicts_the_same(name, params, tmp_path):
    view = small_view()
    model = once(name, 3, **params)
    assert (model.networks is None) == (params["gate"] == "off")
    files = saved(model, tmp_path / "a")
    back = load_model(tmp_path / "a")
    for query in (mixed_query(view), view.query()):
        mine, other = model.predict(query), back.predict(query)
        assert np.array_equal(mine.mean, other.mean)
        assert np.array_equal(mine.var, other.var)
        assert np.array_equal(mine.var_epistemic, other.var_epistemic)
    assert saved(back, tmp_path / "b") == files


def test_a_fit_from_before_the_core_had_its_name_and_doses_a_curve_predicts_the_same(tmp_path):
    view = small_view()
    model = once("perturbfm-v2", 3, **{**WHOLE, "core": "stack"})
    folder = tmp_path / "model"
    saved(model, folder)
    meta = json.loads((folder / schema.MODEL_META_FILE).read_text())
    meta["params"]["prior"] = meta["params"].pop("core")
    meta["state"] = {
        k.replace("core.", "prior.", 1).replace("response", "top_dose"): v
        for k, v in meta["state"].items()
        if not k.endswith("mean.response")
    }
    curves = [k for k in meta["state"] if k.endswith("top_dose")]
    assert len(curves) > 2
    meta["state"] |= dict.fromkeys(curves, 1.0)
    (folder / schema.MODEL_META_FILE).write_text(json.dumps(meta))
    arrays = load_file(folder / schema.MODEL_FILE)
    save_file({k.replace("core.", "prior.", 1): v for k, v in arrays.items()}, folder / schema.MODEL_FILE)
    back = load_model(folder)
    assert back.params.core == "stack"
    mine, other = model.predict(mixed_query(view)), back.predict(mixed_query(view))
    assert np.array_equal(mine.mean, other.mean)
    assert np.array_equal(mine.var, other.var)
    meta["state"] |= dict.fromkeys(curves, float(np.log(11)))
    (folder / schema.MODEL_META_FILE).write_text(json.dumps(meta))
    with pytest.raises(ModelError, match=r"dose-response curve' not found.*train again"):
        load_model(folder)


def test_networks_add_nothing_at_a_dose_of_0():
    view = small_view()
    model = once("perturbfm-v0", 3, **QUICK)
    control = np.random.default_rng(0).uniform(0.5, 3, size=(2, len(view.genes)))
    doses = query_of([("c0", "g1", "CRISPRi", d) for d in ("0", "1")], list(view.genes), control=control)
    mean = model.predict(doses).mean
    assert not mean[0].any()
    assert mean[1].any()


def test_an_ensemble_says_how_its_networks_differ():
    view = screen_view()
    one, three = (fitted("perturbfm-v0", view, **{**QUICK, "ensemble_size": k}) for k in (1, 3))
    assert not one.predict(view.query()).var_epistemic.any()
    prediction = three.predict(view.query())
    assert (prediction.var_epistemic.mean(axis=1) > 0).all()
    assert (prediction.var >= prediction.var_epistemic).all()
    assert len(three.training["networks"]) == 3


def test_training_records_curves_and_gate_but_no_wall_time():
    model = once("perturbfm-v2", **WHOLE)
    recorded = model.training
    assert recorded["gate"]["reason"] == "switched on"
    assert len(recorded["inner_folds"]) == 3
    for record in (*recorded["inner_folds"], *recorded["networks"]):
        assert len(record["curves"]["loss"]) == record["epochs"]
        assert "seconds" not in record
    assert [r["phase"] for r in recorded["inner_folds"]] == ["fold 1", "fold 2", "fold 3"]
    assert set(recorded["core"]) >= {"members", "best_baseline", "set_process"}


def test_large_sets_are_trained_in_batches(monkeypatch):
    view = small_view()
    whole = once("perturbfm-v2", **WHOLE)
    monkeypatch.setattr(fitting, "FULL_BATCH", 8)
    parts = fitted("perturbfm-v2", view, side_info(), **WHOLE)
    batched = fitted("perturbfm-v2", view, side_info(), **WHOLE, batch_size=8)
    sizes = [m.training["networks"][0]["batch_size"] for m in (whole, parts, batched)]
    assert sizes == [len(view), 8, 8]
    query = mixed_query(view)
    assert np.array_equal(parts.predict(query).mean, batched.predict(query).mean)
    assert not np.array_equal(parts.predict(query).mean, whole.predict(query).mean)


def test_inner_folds_are_not_trained_where_the_gate_cannot_open():
    seen: list[str] = []
    view = screen_view(n=6, pairs=0, contexts=1)
    model: Any = new_model("perturbfm-v0", {**WHOLE, "gate": "auto"})
    model.on_epoch = lambda report: seen.append(report.phase)
    model.fit(view, 0)
    assert "6 groups are fewer than 10" in model.gate.reason
    assert set(seen) <= {"variance"}


def test_the_epistemic_variance_is_a_positive_part_of_the_variance():
    view = small_view()
    model = once("perturbfm-v2", **WHOLE)
    for prediction in (model.predict(mixed_query(view)), model.oof.prediction):
        assert (prediction.var_epistemic <= prediction.var).all()
        assert (prediction.var_epistemic > 0).all()


# ---- interruption --------------------------------------------------------------------------------------------


def model_at(folder: Path | None) -> Any:
    """Return an unfitted model that leaves what it has finished in a folder."""
    model: Any = new_model("perturbfm-v2", {**WHOLE, "adjacency": ["ring"]})
    model.side_info, model.checkpoints = side_info(), folder
    return model


@lru_cache(maxsize=1)
def never_interrupted() -> Model:
    """Return that model, fitted at one go."""
    model: Model = model_at(None)
    model.fit(small_view(), 0)
    return model


@pytest.mark.parametrize("phase", ["fold 2", "fold 3", "member 1"])
def test_an_interrupted_fit_goes_on_and_ends_with_the_same_bytes(phase, tmp_path):
    view = small_view()
    plain = copy.deepcopy(never_interrupted())
    stopped = model_at(tmp_path / "checkpoints")

    def kill(report: Any) -> None:
        if report.phase == phase and report.epoch == 2:
            raise KeyboardInterrupt

    stopped.on_epoch = kill
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(view, 0)
    again, seen = model_at(tmp_path / "checkpoints"), []
    again.on_epoch = lambda report: seen.append(report.phase)
    again.fit(view, 0)
    assert saved(again, tmp_path / "again") == saved(plain, tmp_path / "plain")
    # What had been finished is not trained again.
    assert "fold 1" not in seen
    assert phase in seen


# ---- what may be read ----------------------------------------------------------------------------------------


def test_a_test_row_changes_nothing_and_cannot_be_read(tmp_path):
    ds = simulated(n_obs=400, n_genes=20, n_contexts=2, n_perts=8, n_combos=0)
    split = _first_fold(ds)
    X = ds.expression[:].toarray()
    test = split.rows(ds, "test")
    spoilt = X.copy()
    spoilt[test] = 9.0
    files, deltas = [], []
    for k, values in enumerate((X, spoilt)):
        metadata = ds.metadata.model_copy(update={"space": "log1p"})
        data = PerturbDataset(ds.obs, ds.genes, Values(expression=values), metadata)
        own = _first_fold(data)
        assert np.array_equal(own.rows(data, "test"), test)
        view = train_view(data, own)
        with pytest.raises(SplitError, match="must not read them"):
            view.expression(test[:3])
        graph = train_coexpression(view, "a" * 64, name="coexpression")
        model = fitted("perturbfm-v2", view, SideInfo({"coexpression": graph}), **WHOLE)
        files.append(saved(model, tmp_path / str(k)))
        deltas.append(data.expression[test].mean())
    assert deltas[0] != deltas[1]
    assert files[0] == files[1]


def _first_fold(ds: Any) -> Any:
    return split_all(ds, "perturbation_ood", {}, folds=4)[0]


def test_a_graph_of_train_rows_is_made_again_for_every_inner_fold(monkeypatch):
    ds = simulated(n_obs=400, n_genes=20, n_contexts=2, n_perts=8, n_combos=0)
    split = _first_fold(ds)
    view = train_view(ds, split)
    graph = train_coexpression(view, split.hash, name="coexpression")
    made: list[set[str]] = []

    def spy(part: TrainView, *args: Any, **kwargs: Any) -> Any:
        made.append(set(part.conditions.index))
        return train_coexpression(part, *args, **kwargs)

    monkeypatch.setattr(model_module, "train_coexpression", spy)
    fitted("perturbfm-v1", view, SideInfo({"coexpression": graph}), **{**WHOLE, "gate": "off"})
    for fit, _ in view.inner:
        assert set(view.conditions.index[fit]) in made


@pytest.mark.parametrize("name", ["perturbfm-v1", "perturbfm-v3"])
def test_folds_that_leave_fewer_contexts_and_conditions_serve_one_network(name):
    # Folds of unequal size hold out whole contexts: fewer axes of control and response, fewer covariates.
    view = screen_view(n=4, pairs=0, contexts=12)
    context = view.conditions["context_id"].to_numpy()
    held = [
        np.isin(context, names) for names in (["c0"], ["c1", "c2", "c3"], [f"c{i}" for i in range(4, 12)])
    ]
    view = replace(view, inner=[(~h, h) for h in held], unit="context")
    model: Any = fitted(name, view, side_info(), **WHOLE)
    assert len(model.training["inner_folds"]) == 3
    query = query_of([("new", "g1", "CRISPRi", "", '{"batch":"b99"}')], GENES, control=view.control[:1])
    assert np.isfinite(model.predict(query).mean).all()


def test_spectral_features_of_a_graph_of_train_rows_are_not_shown_to_inner_folds():
    ds = simulated(n_obs=400, n_genes=20, n_contexts=2, n_perts=8, n_combos=0)
    view = train_view(ds, _first_fold(ds))
    own = train_coexpression(view, "a" * 64, name="coexpression")
    known = SideInfo({"coexpression": own, "ring": graph_of([str(g) for g in view.genes])})
    model: Any = fitted("perturbfm-v1", view, known, **WHOLE)
    assert len(model.featurizer.tables) == 1
    assert len(model.featurizer.graphs) == 2


# ---- encoders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perturbfm-v0", "perturbfm-v3"])
@pytest.mark.parametrize("freeze", [True, False])
def test_a_pretrained_encoder_is_used_and_saved_and_unchanged_if_frozen(name, freeze, tmp_path):
    ds = simulated(n_obs=400, n_genes=20, n_contexts=2, n_perts=8, n_combos=0)
    split = _first_fold(ds)
    view = train_view(ds, split)
    config = PretrainConfig(
        encoder=EncoderConfig(dim=4, hidden_dim=6, n_layers=1), loop=LoopConfig(epochs=2), device="cpu"
    )
    made = pretrain(view, config, 0, split_hash=split.hash)
    (tmp_path / "e").mkdir()
    save_encoder(made, tmp_path / "e")
    before = {k: v.clone() for k, v in made.encoder.state_dict().items()}
    known = SideInfo(encoder=EncoderFolder(tmp_path / "e", "x", split.hash))
    model: Any = fitted(name, view, known, **QUICK, freeze_encoder=freeze)
    (network,) = model.networks.members
    after = network.encoder.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before) == freeze
    saved(model, tmp_path / "m")
    back = load_model(tmp_path / "m")
    assert np.array_equal(back.predict(view.query()).mean, model.predict(view.query()).mean)
    # The encoder is read: another control state is another prediction.
    other = replace(view.query(), control=view.control[:, ::-1].copy())
    assert not np.allclose(model.predict(other).mean, model.predict(view.query()).mean, atol=1e-7)


def test_v3a_reads_the_most_variable_genes_only():
    model: Any = fitted("perturbfm-v3a", screen_view(), **QUICK, hvg_count=7)
    (network,) = model.networks.members
    assert len(network.encoder.columns) == 7
    assert model.networks.meta()["encoder"]["kind"] == "set-transformer"


def test_one_condition_of_delta_data_can_be_fitted():
    view = replace(screen_view(n=4, pairs=0, contexts=1), control=None, inner=[])
    for name in VERSIONS:
        prediction = fitted(name, view, side_info(), **QUICK).predict(replace(view.query(), control=None))
        assert np.isfinite(prediction.mean).all()
