"""Commands killed at random times over one folder: nothing lost, nothing half, nothing stuck."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import VARIABLES, perturbfm
from tests.support.paths import REPO

# `make kill` asks for more, and for other times.
KILLS = int(os.environ.get("PERTURBFM_KILLS", "7"))
SEED = int(os.environ.get("PERTURBFM_KILL_SEED", "0"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a registered data set, a split, a run and a leaderboard, ready for Dagster."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    size = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)
    perturbfm("data", "make-synth", "--out", "data/small", "--name", "small", *size, "--register")
    held = ("--spec", "context_ood", "--holdout-context", "C0")
    split = perturbfm("splits", "create", "--data", "data/small", *held).values["split_hash"]
    perturbfm("train", "global_mean", "--data", "data/small", "--split", split)
    perturbfm("leaderboard", "refresh")
    shutil.copy(REPO / "dagster.yaml", path)
    return path


def test_nothing_is_lost_half_or_stuck(folder: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in (*VARIABLES, "DAGSTER_HOME")}
    done = subprocess.run(
        [sys.executable, REPO / "tests/support/random_killer.py", folder, str(SEED), str(KILLS)],
        env={**environment, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60 + 30 * KILLS,
    )
    log = folder.parent / "output.log"
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"seed {SEED}: {found}")
    kills = found.pop("kills")
    assert found == {"lost": [], "half": [], "stuck": [], "failed": [], "debris": [], "running": 0}, (
        log.read_text()[-8000:]
    )
    assert sum(kills.values()) == KILLS
    assert len(kills) == 7
