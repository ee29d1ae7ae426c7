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
