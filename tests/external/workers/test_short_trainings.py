"""Short trainings of external models in their own environments, where these are built."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import ExternalError
from perturbfm_core.external.environments import BUILDING, building_lock, env_of, state_of
from perturbfm_core.external.export import write_view
from perturbfm_core.external.raw import read_raw
from perturbfm_core.external.request import request_of
from perturbfm_core.external.runner import WorkerCall, run_worker
from perturbfm_core.splits.draft import SplitSpec
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.locks import file_lock
from tests.support.workers import NOT_TRAINED, SMALL_STATE, TRAINED, WORKERS

ENVS = os.environ.get("PERTURBFM_ENVS") or str(Path.home() / ".cache/perturbfm/envs")
CASES = {
    "gears": ({"kind": "perturbation_ood", "folds": 3}, {"epochs": 1, "hidden_size": 16}),
    "scgen": (
        {"kind": "context_ood", "params": {"holdout": ["C1"]}},
        {"epochs": 2, "n_hidden": 32, "n_latent": 8},
    ),
    "state": ({"kind": "context_ood", "params": {"holdout": ["C1"]}}, SMALL_STATE),
    "cpa": ({"kind": "combo_ood", "folds": 2}, {"epochs": 2, "n_hidden": 32, "n_latent": 8, "max_cells": 50}),
}


@pytest.fixture(scope="module")
def screen():
    return simulate(
        SimulationConfig(n_obs=500, n_genes=40, n_contexts=2, n_perts=6, n_combos=3, n_batches=2)
    )[0]


@pytest.fixture
def interpreter(monkeypatch):
    """Return a function that gives the interpreter of a model, or skips."""
    monkeypatch.setenv("PERTURBFM_ENVS", ENVS)

    def find(name):
        if not TRAINED:
            pytest.skip(NOT_TRAINED)
        store = ArtifactStore()
        if state_of(name, store).state == BUILDING:
            # Another test builds it: whoever has waited for its lock finds it built.
            with file_lock(building_lock(name, store), what=f"the environment of {name}"):
                pass
        try:
            return env_of(name, store)
        except ExternalError as error:
            pytest.skip(f"{error} (PERTURBFM_ENVS={ENVS})")

    return find


# Trains one weight for some steps, validated every 5, as STATE's program keeps its states; prints the step of each.
TRAINING = """
import sys
from pathlib import Path
folder, steps, workers = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, workers)
import lightning.pytorch as pl, state_worker, torch
from lightning.pytorch.callbacks import ModelCheckpoint

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Linear(1, 1)
    def training_step(self, batch, i):
        return self.weight(batch).sum()
    def validation_step(self, batch, i):
        self.log("val_loss", {10: 1.0, 20: 2.0, 30: 0.5}.get(self.global_step, 5.0))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)

state_worker.watch(None, str(folder / "validations.txt"))
states = ModelCheckpoint(
    dirpath=str(folder / "c"), filename="best", save_last=True, monitor="val_loss", save_top_k=1, every_n_train_steps=5
)
cells = torch.utils.data.DataLoader(torch.ones(1000, 1))
trainer = pl.Trainer(
    max_steps=steps, callbacks=[states], logger=False, enable_progress_bar=False, enable_model_summary=False,
    check_val_every_n_epoch=None, val_check_interval=5, limit_val_batches=1, accelerator="cpu",
)
last = folder / "c/last.ckpt"
trainer.fit(Model(), cells, cells, ckpt_path=str(last) if last.exists() else None)
found = {p.stem: torch.load(p, weights_only=True)["global_step"] for p in (folder / "c").iterdir()}
print("states", *(f"{name}:{step}" for name, step in sorted(found.items())))
"""


@pytest.mark.slow
def test_the_best_state_is_known_after_a_move(interpreter, tmp_path):
    """Lightning forgets it, writes others beside it, and STATE would have inferred with the one before the move."""
    python, script = interpreter("state"), tmp_path / "training.py"
    script.write_text(TRAINING)

    def train(folder, steps):
        line = [str(python), str(script), str(tmp_path / folder), str(steps), str(WORKERS)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    (tmp_path / "first").mkdir()
    # The state of the best validation is written five steps later, before the next one.
    assert train("first", 15) == "states best:15 last:15"
    (tmp_path / "first").rename(tmp_path / "moved")
    # 20 is worse than 10; it would have been the best since the move.
    assert train("moved", 25) == "states best:15 last:25"
    assert train("moved", 35) in ("states best:30 last:35", "states best:35 last:35")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_short_training_predicts_what_is_asked(screen, interpreter, tmp_path, name):
    python = interpreter(name)
    spec, params = CASES[name]
    split = freeze(screen, SplitSpec(**spec))[0]
    view = train_view(screen, split)
    asked = request_of(screen, split, view)
    (tmp_path / "view").mkdir()
    write_view(tmp_path / "view", screen, split, view, asked)
    path = tmp_path / "view/request.json"
    request = {**json.loads(path.read_text()), "model": name, "params": params, "seed": 3}
    # One that no model can know.
    request["conditions"].append(
        {**request["conditions"][0], "key": "unknown", "pert_id": "ZZZ", "genes": ["ZZZ"]}
    )
    path.write_text(json.dumps(request))
    lines: list[str] = []
    call = WorkerCall(
        name, python, WORKERS / f"{name}_worker.py", tmp_path / "view", tmp_path / "work", timeout=600
    )
    raw = read_raw(run_worker(call, lines.append))
    keys = {c["key"] for c in request["conditions"]}
    absent = {s["condition"] for s in raw.meta["skipped"]}
    assert "unknown" in absent
    assert set(map(str, raw.key)) == keys - absent
    roles = {c["key"]: c["role"] for c in request["conditions"]}
    assert {roles[key] for key in absent - {"unknown"}} <= {"validation"}
    assert list(raw.genes) == list(map(str, screen.genes))
    assert np.isfinite(raw.mean).all()
    assert raw.control is not None
    assert np.abs(raw.mean - raw.control).max() > 0
    # One answer for all perturbations of a context would be no model.
    of = [
        c["key"] for c in request["conditions"] if c["context_id"] == request["conditions"][0]["context_id"]
    ]
    assert np.ptp(raw.mean[np.isin(raw.key, of)], axis=0).max() > 0
    assert lines
    assert sorted(p.name for p in call.out.iterdir()) == ["raw.json", "raw.npz"]
