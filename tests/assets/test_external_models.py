"""GEARS, scGen, STATE and CPA themselves: trained for a little, scored with all panels and ranked, by command line and Dagster.

With PERTURBFM_EXTERNAL=1, as in `.ci/run`, their environments (5 GB) are built first, below ``PERTURBFM_ENVS`` or
~/.cache/perturbfm/envs, where they are kept; that of CPA, which is large, is used if it is there (``make external-cpa``).
Without it, or where they cannot be built in ten minutes together, recorded outputs, made up by
``tests/external/replay_worker.py``, go the same way in place of a training, with the reason as a warning.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.errors import ExternalError
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.external.environments import env_of
from perturbfm_core.external.known_environments import KNOWN
from perturbfm_core.external.settings import variable_of
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS
from perturbfm_core.store.artifacts import ArtifactStore
from tests.assets.conftest import Location
from tests.support.asset_runs import DEMO, cell, metadata
from tests.support.command import perturbfm
from tests.support.paths import REPO
from tests.support.workers import NOT_TRAINED, SMALL_STATE, TRAINED

ENVS = os.environ.get("PERTURBFM_ENVS") or str(Path.home() / ".cache/perturbfm/envs")
# For the builds of all environments together, without the trainings between them.
BUILD_S = 600
REPLAY = REPO / "tests/external/replay_worker.py"
# A training of seconds: the skill of its predictions means nothing.
SHORT = {
    "gears": {
        "epochs": 1,
        "hidden_size": 8,
        "batch_size": 128,
        "settings": {"num_similar_genes_go_graph": 3, "num_similar_genes_co_express_graph": 3},
        "degenerate": "flag",
    },
    "scgen": {"epochs": 5, "n_hidden": 64, "n_latent": 16},
    "state": {
        "steps": 4,
        "val_freq": 4,
        "batch_size": 4,
        "settings": {k: v for k, v in SMALL_STATE.items() if k not in ("steps", "batch_size")},
        "degenerate": "flag",
    },
    "cpa": {"epochs": 60, "lr": 3e-3, "batch_size": 64, "n_hidden": 64, "n_latent": 32, "degenerate": "flag"},
}
SPLITS = {e["kind"]: e["key"] for e in DEMO}
KIND = {"gears": "combo_ood", "scgen": "context_ood", "state": "context_ood", "cpa": "combo_ood"}


@pytest.fixture(scope="module")
def build() -> Callable[[str], str | None]:
    """Return a function that builds an environment where it is absent, and returns why it cannot be had."""
    left = float(BUILD_S)

    def made(name: str) -> str | None:
        nonlocal left
        if not TRAINED:
            return NOT_TRAINED
        try:
            env_of(name, ArtifactStore())
        except ExternalError as absent:
            if name == "cpa":
                return f"{absent}; make external-cpa builds it"
            if left < 1:
                return f"the environments were not built within {BUILD_S} seconds"
            began = time.monotonic()
            command = [sys.executable, "-m", "perturbfm_core.cli.main", "external", "env", "create", name]
            try:
                done = subprocess.run(
                    [*command, "--accept-licence"],
                    capture_output=True,
                    text=True,
                    timeout=left,
                )
            except subprocess.TimeoutExpired:
                return f"the environments were not built within {BUILD_S} seconds"
            finally:
                left -= time.monotonic() - began
            if done.returncode:
                return f"the environment of {name} cannot be built: {done.stderr.strip()[-300:]}"
        return None

    return made


def replayed(name: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let recorded outputs stand in for a model whose environment cannot be had, and say why."""
    warnings.warn(f"recorded outputs stand in for {name}: {why}", stacklevel=2)
    monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], modules=("numpy", "anndata")))
    monkeypatch.setenv(variable_of(name), sys.executable)
    monkeypatch.setattr(MODELS.get(f"external-{name}"), "script", lambda _: REPLAY)


@pytest.fixture
def in_dagster(here: Location, monkeypatch: pytest.MonkeyPatch) -> Location:
    """Point the code location at the kept environments, with a short training of each model."""
    monkeypatch.setenv("PERTURBFM_ENVS", ENVS)
    models = here.module("partitions").CATALOG.models
    for name, params in SHORT.items():
        entry = ModelEntry(name=f"external-{name}", description="", model=f"external-{name}", params=params)
        monkeypatch.setitem(models, entry.name, entry)
    return here


def _typed(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


@pytest.mark.filterwarnings("default:recorded outputs stand in")
@pytest.mark.parametrize("name", list(SHORT))
def test_it_is_trained_scored_and_ranked(
    name: str, in_dagster: Location, build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (why := build(name)) is not None:
        replayed(name, why, monkeypatch)
    scored_and_ranked(name, in_dagster, tmp_path)


def test_recorded_outputs_are_converted_published_and_ranked(
    in_dagster: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in where an environment cannot be built goes each way, that of files included."""
    with pytest.warns(UserWarning, match="recorded outputs stand in for scgen: no room"):
        replayed("scgen", "no room", monkeypatch)
    scored_and_ranked("scgen", in_dagster, tmp_path)
    store = ArtifactStore(in_dagster.path)
    runs = [r for r in store.run_dirs() if (r / "training.json").is_file()]
    fits = {
        json.loads((r / "config.json").read_text())["entry"]: json.loads((r / "training.json").read_text())
        for r in runs
    }
    made = store.find(fits["external-scgen"]["worker"]["output"])
    assert made is not None
    line = ("external", "convert", made.path, "--model", "recorded-scgen", "--split", SPLITS[KIND["scgen"]])
    done = perturbfm(*line, "--out", tmp_path / "p.npz", "--publish", "--json", warns=True).json
    metrics = json.loads((Path(done["run_dir"]) / "metrics.json").read_text())
    assert set(PANELS.names()) <= set(metrics) | set(metrics.get("not_applicable", {}))
    perturbfm("leaderboard", "refresh")
    board = database.query(
        store,
        "SELECT entry, value, rank, rank_so_far FROM leaderboard WHERE panel = 'delta' AND metric = 'rmse'",
    ).set_index("entry")
    assert {"recorded-scgen", "recorded-scgen-own-control", "external-scgen", "global_mean"} <= set(
        board.index
    )
    # By either way the same scores.
    mine = [board.loc[[n], "value"].iloc[0] for n in ("recorded-scgen", "external-scgen")]
    assert mine[0] == pytest.approx(mine[1], rel=1e-5)


def scored_and_ranked(name: str, in_dagster: Location, tmp_path: Path) -> None:
    """Assert that a model is scored with all panels and ranked, by the command line and by Dagster."""
    split = SPLITS[KIND[name]]
    # scGen is trained by Dagster and the others by the command line; the other way finds what is there.
    typed = ("external", "run", name, "--split", split)
    typed += tuple(x for k, v in SHORT[name].items() for x in ("--param", f"{k}={_typed(v)}"))
    # After so little training there is much to warn of.
    if name != "scgen":
        perturbfm(*typed, warns=True)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        result = cell(in_dagster, f"external-{name}", split=split, instance=instance)
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    trained = metadata(result, "trained_model")
    assert trained["status"] == "ok"
    assert trained["model"] == f"external-{name}"
    assert trained["training"]["conversion"]["counts"]["missing"] == 0
    perturbfm("run", "--entry", "global_mean", "--split", split)
    perturbfm(*typed, warns=True)
    perturbfm("leaderboard", "refresh")
    store = ArtifactStore(in_dagster.path)
    runs = [
        r
        for r in store.run_dirs()
        if json.loads((r / "config.json").read_text())["model"] == trained["model"]
    ]
    assert runs
    metrics = json.loads((runs[-1] / "metrics.json").read_text())
    for panel in PANELS.names():
        assert panel in metrics or panel in metrics.get("not_applicable", {}), panel
    board = database.query(
        store,
        "SELECT entry, value, rank, rank_so_far FROM leaderboard WHERE panel = 'delta' AND metric = 'rmse' AND board IN "
        f"(SELECT board FROM leaderboard WHERE entry = 'external-{name}')",
    ).set_index("entry")
    mine = board[board.index.str.startswith(f"external-{name}")]
    # By either way it is the same run, or one with the same output; beside it, that output by the model's own control.
    own = mine.index.str.endswith("-own-control")
    assert (mine["value"][~own].nunique(), mine["value"][own].nunique()) == (1, 1)
    place = mine["rank"].fillna(mine["rank_so_far"])
    assert place.notna().all()
    assert "global_mean" in board.index
