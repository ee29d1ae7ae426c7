"""STATE's answers that are none: its control in place of an unknown perturbation, and cells given back as they came."""

from __future__ import annotations

import importlib
import json
import sys
import types
import zipfile

import anndata
import numpy as np
import pandas as pd
import pytest

import perturbfm_core.external.work as work
from perturbfm_core.external.raw import read_raw

GENES = ["A", "B", "C"]
TODO = [
    {"key": f"{c}|{p}", "pert_id": p, "genes": [p], "context_id": c}
    for c, p in (("x", "A"), ("x", "B"), ("y", "A"))
]
REQUEST = {"genes": GENES, "seed": 0, "conditions": TODO, "perturbation_genes": {}}


@pytest.fixture
def modules():
    """Return the worker and what it shares with others, imported as a worker imports them."""
    sys.path.insert(0, str(work.WORKERS))
    try:
        yield importlib.import_module("state_worker"), importlib.import_module("common")
    finally:
        sys.path.remove(str(work.WORKERS))
        for name in ("state_worker", "common"):
            sys.modules.pop(name, None)


@pytest.fixture
def infer(modules, tmp_path, monkeypatch):
    """Return a function that infers with a program in place of STATE's, which changes cells and prints."""
    worker, common = modules

    def run(change, printed: str = "", *, checkpoint: bool = True, unlike: bool = False):
        obs = pd.DataFrame(
            {"context_id": ["x"] * 4 + ["y"] * 3, "batch_id": "b", "pert_id": "control"},
            index=[f"k{i}" for i in range(7)],
        )
        controls = anndata.AnnData(np.random.default_rng(0).random((7, 3)).astype(np.float32), obs)
        (tmp_path / "run/checkpoints").mkdir(parents=True)
        if checkpoint:
            (tmp_path / "run/checkpoints/best.ckpt").write_text("")

        def state(folder, verb, *arguments):
            assert verb == "infer"
            cells = anndata.read_h5ad(folder / "infer.h5ad")
            cells.obsm["X_hvg"] = change(
                np.asarray(cells.obsm["X_hvg"]).copy(), cells.obs["gene"].astype(str)
            )
            if unlike:
                cells.obsm["X_state_pred"] = np.zeros((len(cells), 2))
            cells.write_h5ad(folder / "predicted.h5ad")
            return printed

        monkeypatch.setattr(worker, "_state", state)
        out = tmp_path / "out"
        out.mkdir()
        output = common.Output(out, GENES)
        names = worker.Names(REQUEST, controls, controls)
        worker._infer(tmp_path, controls, names, TODO, {"max_cells": 256}, REQUEST, output)
        output.write(level="cell", packages=())
        return read_raw(out), controls

    run.error = common.WorkerError
    return run


def shifted(values, genes):
    """Change every cell, by its perturbation."""
    return values + 0.5 + genes.map(lambda g: 0.1 * len(g) + 0.01 * sum(map(ord, g))).to_numpy()[:, None]


def test_what_is_changed_is_taken_with_its_own_control_and_number_of_cells(infer):
    raw, controls = infer(shifted)
    assert list(raw.key) == [c["key"] for c in TODO]
    assert list(raw.n_cells) == [4, 4, 3]
    base = {c: controls.X[(controls.obs["context_id"] == c).to_numpy()].mean(axis=0) for c in "xy"}
    for c, mean, own in zip(TODO, raw.mean, raw.control, strict=True):
        assert np.ptp(mean - base[c["context_id"]]) < 1e-5
        assert np.ptp(own - base[c["context_id"]]) < 1e-5
        assert (mean != own).all()


def test_a_printed_fallback_to_control_is_an_error(infer):
    with pytest.raises(infer.error, match="control in place of a perturbation that it does not know"):
        infer(shifted, "loaded\nWARNING: 3 rows use control fallback one-hot\ndone")


@pytest.mark.parametrize("n", [1, 3])
def test_cells_that_come_back_untouched_are_an_error(infer, n):
    def change(values, genes):
        out = shifted(values, genes)
        # The last condition is the last block of three cells.
        out[len(out) - n :] = values[len(out) - n :]
        return out

    with pytest.raises(infer.error, match=rf"returned {n} of 3 input cells of y\|A untouched"):
        infer(change)


def test_another_number_of_values_is_an_error(infer):
    with pytest.raises(infer.error, match="another number of values than there are genes"):
        infer(shifted, unlike=True)


def test_without_a_checkpoint_nothing_is_inferred(infer):
    with pytest.raises(infer.error, match="no checkpoint"):
        infer(shifted, checkpoint=False)


@pytest.fixture
def lightning(monkeypatch):
    """Return a module in place of Lightning, whose trainer gives its callbacks and steps back."""

    class EarlyStopping:
        def __init__(self, monitor, mode, patience):
            self.asked = (monitor, mode, patience)

    root, package, callbacks = (
        types.ModuleType("lightning" + name) for name in ("", ".pytorch", ".pytorch.callbacks")
    )

    class ModelCheckpoint:
        def load_state_dict(self, state):
            self.loaded = state

    package.Trainer = lambda *, callbacks, max_steps: (callbacks, max_steps)
    callbacks.Callback, callbacks.EarlyStopping = type("Callback", (), {}), EarlyStopping
    callbacks.ModelCheckpoint = ModelCheckpoint
    root.pytorch = package
    for module in (root, package, callbacks):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package


def at(step, loss=None, *, checking=False):
    """Return a trainer at a step, with a validation loss."""
    metrics = {"val_loss": loss}
    return types.SimpleNamespace(
        sanity_checking=checking, global_step=step, max_steps=90, callback_metrics=metrics
    )


@pytest.mark.parametrize(("patience", "more"), [(None, 1), (3, 2)])
def test_a_training_is_watched_and_stops_early_where_asked(
    modules, lightning, tmp_path, capsys, patience, more
):
    worker, _ = modules
    record = tmp_path / "validations.txt"
    worker.watch(patience, str(record))
    (own, *added), steps = lightning.Trainer(callbacks=["checkpoints"], max_steps=7)
    assert (own, steps, len(added)) == ("checkpoints", 7, more)
    assert [c.asked for c in added[1:]] == ([("val_loss", "min", 3)] if patience else [])
    added[0].on_train_start(at(0), None)
    added[0].on_validation_end(at(50, 1.25), None)
    added[0].on_validation_end(at(50, 0.5, checking=True), None)
    added[0].on_train_batch_end(at(51), None, None, None, 0)
    # Not more than a line in two seconds.
    added[0].on_train_batch_end(at(52), None, None, None, 0)
    assert capsys.readouterr().out.split("\n") == ["", "trained: 51 of 90, validation loss 1.25", ""]
    assert worker.reported(record.read_text(), {"steps": 50, "patience": patience}) == [
        "50 of 50 steps, lowest validation loss 1.25 at step 50"
    ]


def test_attempts_at_one_training_are_one_record_and_one_cost(modules, lightning, tmp_path):
    worker, _ = modules
    record, spent = tmp_path / "validations.txt", tmp_path / "spent.json"
    costs = []
    for first, losses in ((0, {50: 3.0, 100: 2.0}), (100, {150: 1.0, 200: 4.0})):
        worker.watch(None, str(record))
        watching = lightning.Trainer(max_steps=90)[0][-1]
        watching.on_train_start(at(first), None)
        for step, loss in losses.items():
            watching.on_validation_end(at(step, loss), None)
        costs.append(json.loads(spent.read_text())["cpu_s"])
    # The CPU time of this process counts as that of each attempt.
    assert costs[1] > 1.9 * costs[0] > 0
    assert worker.reported(record.read_text(), {"steps": 200, "patience": 5}) == [
        "200 of 200 steps, lowest validation loss 1 at step 150",
        "interrupted, and gone on with from step 100",
    ]


def test_states_that_were_moved_know_their_new_folder(modules, lightning, tmp_path):
    worker, _ = modules
    worker.watch(None, str(tmp_path / "validations.txt"))
    checkpoint = sys.modules["lightning.pytorch.callbacks"].ModelCheckpoint()
    checkpoint.dirpath = "/new/c"
    state = {"dirpath": "/old/c", "best_model_score": 1.5, "kth_value": 1.5, "kth_best_model_path": ""}
    state |= {"best_model_path": "/old/c/best.ckpt", "last_model_path": "/old/c/last.ckpt"}
    checkpoint.load_state_dict({**state, "best_k_models": {"/old/c/best.ckpt": 1.5}})
    assert checkpoint.loaded == {
        **state,
        "dirpath": "/new/c",
        "best_model_path": "/new/c/best.ckpt",
        "last_model_path": "/new/c/last.ckpt",
        "best_k_models": {"/new/c/best.ckpt": 1.5},
    }


def written(path, *, whole=True):
    """Write a state as torch does, a zip archive, or the first half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", path.name * 100)
    if not whole:
        path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("best", "last", "left"),
    [
        (None, None, None),
        (True, True, "last.ckpt"),
        (True, None, "best.ckpt"),
        (True, False, "best.ckpt"),
        (False, True, "last.ckpt"),
        (False, False, None),
    ],
)
def test_a_training_goes_on_from_the_newest_state_that_is_whole(modules, tmp_path, best, last, left):
    worker, _ = modules
    states = tmp_path / "checkpoints"
    for name, whole in (("best.ckpt", best), ("last.ckpt", last)):
        if whole is not None:
            written(states / name, whole=whole)
    assert worker.state_left(tmp_path) == (left is not None)
    assert (states / "last.ckpt").is_file() == (left is not None)
    if left:
        assert zipfile.ZipFile(states / "last.ckpt").read("data").decode() == left * 100
    assert (states / "best.ckpt").is_file() == bool(best)


def test_a_training_that_had_ended_is_not_made_again(modules, tmp_path, monkeypatch):
    worker, common = modules
    monkeypatch.setattr(worker, "_state", None)
    (tmp_path / "trained.json").write_text('["200 of 200 steps"]')
    output = common.Output(tmp_path, GENES)
    worker._train(tmp_path, None, None, None, {}, REQUEST, output)
    assert output.notes == ["200 of 200 steps"]


def test_the_notes_name_the_best_validation_and_an_early_end(modules):
    worker, _ = modules
    record = "".join(
        f"validated: step {n}, loss {x}\n" for n, x in ((50, 3), (100, 1.5), (150, 2), (200, 1.75))
    )
    assert worker.reported(record, {"steps": 40000, "patience": 2}) == [
        "200 of 40000 steps, lowest validation loss 1.5 at step 100; stopped after 2 validations without a lower one"
    ]
    # What a step came out at after an interruption counts.
    again = record + "resumed: step 150\nvalidated: step 200, loss 1.25\n"
    assert worker.reported(again, {"steps": 200, "patience": 2}) == [
        "200 of 200 steps, lowest validation loss 1.25 at step 200",
        "interrupted, and gone on with from step 150",
    ]
    assert worker.reported("nothing of it", {"steps": 10, "patience": None}) == []
