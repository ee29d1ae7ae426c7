"""STATE's answers that are none: its control in place of an unknown perturbation, and cells given back as they came."""

from __future__ import annotations

import importlib
import sys

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


@pytest.mark.parametrize(("patience", "more"), [(None, 1), (3, 2)])
def test_a_training_is_watched_and_stops_early_where_asked(modules, monkeypatch, capsys, patience, more):
    import types

    worker, _ = modules

    class Callback:
        pass

    class EarlyStopping(Callback):
        def __init__(self, monitor, mode, patience):
            self.asked = (monitor, mode, patience)

    lightning, callbacks = (
        types.ModuleType("lightning.pytorch"),
        types.ModuleType("lightning.pytorch.callbacks"),
    )
    lightning.Trainer = lambda *, callbacks, max_steps: (callbacks, max_steps)
    callbacks.Callback, callbacks.EarlyStopping = Callback, EarlyStopping
    root = types.ModuleType("lightning")
    root.pytorch = lightning
    for name, module in (("", root), (".pytorch", lightning), (".pytorch.callbacks", callbacks)):
        monkeypatch.setitem(sys.modules, "lightning" + name, module)
    worker.watch(patience)
    (own, *added), steps = lightning.Trainer(callbacks=["checkpoints"], max_steps=7)
    assert (own, steps, len(added)) == ("checkpoints", 7, more)
    assert [c.asked for c in added[1:]] == ([("val_loss", "min", 3)] if patience else [])
    at = types.SimpleNamespace(sanity_checking=False, global_step=50, callback_metrics={"val_loss": 1.25})
    added[0].on_validation_end(at, None)
    at.sanity_checking = True
    added[0].on_validation_end(at, None)
    printed = capsys.readouterr().out
    assert worker.reported(printed, {"steps": 50, "patience": patience}) == [
        "50 of 50 steps, lowest validation loss 1.25 at step 50"
    ]


def test_the_notes_name_the_best_validation_and_an_early_end(modules):
    worker, _ = modules
    printed = "".join(
        f"epoch\nvalidated: step {n}, loss {x}\n" for n, x in ((50, 3), (100, 1.5), (150, 2), (200, 1.75))
    )
    assert worker.reported(printed, {"steps": 40000, "patience": 2}) == [
        "200 of 40000 steps, lowest validation loss 1.5 at step 100; stopped after 2 validations without a lower one"
    ]
    assert worker.reported("nothing of it", {"steps": 10, "patience": None}) == []
