"""A process killed at any step leaves what was there, and the next one goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from tests.support.command import VARIABLES, Work, perturbfm
from tests.support.few_panels import score_only
from tests.support.leftovers import check_runs, debris
from tests.support.paths import REPO

COMMANDS = {
    "train": ["train", "linear", "--data", "D", "--split", "SPLIT"],
    "run": ["run", "--data", "D", "--split", "SPLIT", "--entry", "additive"],
    "refresh": ["leaderboard", "refresh"],
    "freeze": ["splits", "create", "--data", "D", "--spec", "leave_one_context_out", "--no-bounds"],
    "import": [
        "data",
        "make-synth",
        "--out",
        "D",
        "--n-obs",
        "160",
        "--n-perts",
        "4",
        "--register",
        "--force",
    ],
}


# How many steps of each are fatal in turn, from its first to its last.
POINTS = {"train": 6, "run": 6, "refresh": 8, "freeze": 6, "import": 6}


@pytest.fixture(autouse=True)
def as_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score as the killed commands do: by few panels."""
    score_only(monkeypatch, "delta")


@pytest.fixture(scope="module")
def killed(template: Work, tmp_path_factory: pytest.TempPathFactory):
    """Kill every command at its steps; return a function of its name: its words, and the copies left behind."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(template.path, source, symlinks=True, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(source)
        # A run that the leaderboard has not seen, and a split whose bounds are still to be computed.
        perturbfm("train", "control_only", "--data", "D", "--split", template.split)
        folder = SplitFolder(source / "splits")
        stats = folder.stats(template.split)
        assert stats is not None
        folder.save_stats(template.split, stats.model_copy(update={"ceiling": None}))
    argv = {
        name: [{"SPLIT": template.split}.get(word, word) for word in words]
        for name, words in COMMANDS.items()
    }
    target = tmp_path_factory.mktemp("copies")
    asked = {name: [POINTS[name], words] for name, words in argv.items()}
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    done = subprocess.run(
        [sys.executable, REPO / "tests/support/killer.py", source, target, json.dumps(asked)],
        env={
            **environment,
            "PYTHONPATH": str(REPO),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return lambda name: (argv[name], target / name)


def outcome(store: ArtifactStore) -> dict[str, bytes]:
    """Return what must not depend on interruptions: metrics by entry, splits, data."""
    runs = {
        read_json(p / "config.json")["entry"]: (p / "metrics.json").read_bytes() for p in store.run_dirs()
    }
    splits = {p.name: p.read_bytes() for p in store.split_dir.iterdir() if p.suffix == ".json"}
    data = {p.name: p.read_bytes() for p in Path("D").iterdir() if p.name == "meta.json"}
    return {**runs, **splits, **data}


@pytest.mark.parametrize(("name", "point"), [(name, i) for name, n in POINTS.items() for i in range(n)])
def test_a_killed_command_can_be_repeated(killed, monkeypatch, name, point):
    argv, copies = killed(name)
    folders = sorted(p for p in copies.iterdir() if p.name != "whole")
    assert len(folders) == POINTS[name]
    monkeypatch.chdir(copies / "whole")
    wanted, undisturbed = outcome(ArtifactStore()), len(ArtifactStore().run_dirs())
    assert debris(copies / "whole") == []

    monkeypatch.chdir(folders[point])
    store = ArtifactStore()
    check_runs(store)
    # A run may have been published since the leaderboard was.
    asked = perturbfm(
        "leaderboard", "sql", "select distinct entry from leaderboard order by 1", "--json", warns=True
    ).json
    entries = [r["entry"] for r in asked]
    assert entries in (["global_mean"], ["control_only", "global_mean"])
    if name != "refresh":
        assert entries == ["global_mean"]
    had = len(store.run_dirs())
    assert had <= undisturbed

    perturbfm(*argv)
    check_runs(store)
    assert debris(folders[point]) == []
    assert outcome(store) == wanted
    # The killed process published its run, which is then found, or it did not: nothing is there twice.
    assert len(store.run_dirs()) == undisturbed
    assert perturbfm("splits", "verify", "--all").values["failed"] == "0"
