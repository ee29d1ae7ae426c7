"""What publishing needs of other runs is found without listing them, however many there are."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core import schema
from perturbfm_core.leaderboard.run_list import list_runs
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.entry_names import run_of_entry
from perturbfm_core.store.run_index import add_run, runs_named, runs_of_split
from perturbfm_core.store.run_removal import remove_run
from tests.support.command import perturbfm
from tests.support.factories import run_config

SPLIT = "ab" * 32
OTHER = "cd" * 32


def write_run(store: ArtifactStore, run_id: str, entry: str, **config: Any) -> Path:
    """Write a run directory with its record and empty files."""
    folder = store.run(run_id)
    folder.mkdir(parents=True)
    for name in schema.RUN_FILES:
        (folder / name).touch()
    record = {**run_config(entry, **config), "run_id": run_id}
    (folder / schema.CONFIG_FILE).write_text(json.dumps(record))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home", tmp_path / "splits")


def run_id(entry: str, second: int = 0, split: str = SPLIT, suffix: str = "") -> str:
    return f"20260101-0000{second:02d}_{split[:7]}_{entry}_{'0' * 8}{suffix}"


def test_runs_that_were_there_before_the_index_are_in_it(store: ArtifactStore) -> None:
    mine = [
        write_run(store, run_id("a_b", 2, suffix="-1f2e"), "a_b", split=SPLIT),
        write_run(store, run_id("a_b", 1), "a_b", split=SPLIT),
    ]
    other = write_run(store, run_id("a_b_c"), "a_b_c", split=SPLIT)
    write_run(store, run_id("a_b", split=OTHER), "a_b", split=OTHER)
    assert runs_named(store, f"{SPLIT[:7]}_a_b_{'0' * 8}") == sorted(mine)
    assert runs_named(store, f"{SPLIT[:7]}_a_{'0' * 8}") == []
    assert runs_of_split(store, SPLIT) == sorted([*mine, other])
    assert run_of_entry(store, "a_b", external=False) is not None
    assert run_of_entry(store, "a", external=False) is None
    assert run_of_entry(store, "a_b", external=True) is None


def test_a_run_is_found_once_it_is_published_and_until_it_is_removed(store: ArtifactStore) -> None:
    name = f"{SPLIT[:7]}_mine_{'0' * 8}"
    assert runs_named(store, name) == []
    add_run(store, run_id("mine"), "mine", external=True)
    # Killed before its files were there, it is none.
    assert runs_named(store, name) == []
    assert run_of_entry(store, "mine", external=True) is None
    path = write_run(store, run_id("mine"), "mine", split=SPLIT, family="external")
    assert runs_named(store, name) == [path]
    assert run_of_entry(store, "mine", external=True) == path.name
    remove_run(store, path)
    assert runs_named(store, name) == []
    assert run_of_entry(store, "mine", external=True) is None
    assert not any(p.name == path.name for p in (store.runs / ".index").rglob("*"))


def test_a_run_that_was_copied_into_the_store_joins_when_runs_are_listed(store: ArtifactStore) -> None:
    name = f"{SPLIT[:7]}_late_{'0' * 8}"
    assert runs_named(store, name) == []
    path = write_run(store, run_id("late"), "late", split=SPLIT)
    list_runs(store)
    assert runs_named(store, name) == [path]


def test_an_index_that_was_removed_is_made_again(store: ArtifactStore) -> None:
    path = write_run(store, run_id("x"), "x", split=SPLIT)
    assert runs_of_split(store, SPLIT) == [path]
    shutil.rmtree(store.runs / ".index")
    assert runs_of_split(store, SPLIT) == [path]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder with a small data set ``D`` and a split of it."""
    folder = tmp_path_factory.mktemp("screen")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PERTURBFM_HOME", str(folder))
        patch.setenv("PERTURBFM_SPLIT_DIR", str(folder / "splits"))
        size = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)
        perturbfm("data", "make-synth", "--out", "D", *size)
        held = ("--spec", "context_ood", "--holdout-context", "C0")
        made = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
    return folder, made


class Looks:
    """Counts of looks into the file system."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.n: Counter[str] = Counter()
        self.entries = 0
        for name in ("stat", "lstat", "scandir", "listdir"):
            patch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, function: Any) -> Any:
        def looked(*args: Any, **kwargs: Any) -> Any:
            self.n[name] += 1
            found = function(*args, **kwargs)
            if name == "listdir":
                self.entries += len(found)
            return found

        return looked


def test_publishing_costs_the_same_beside_ten_runs_and_a_thousand(
    screen: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, split = screen
    monkeypatch.setenv("PERTURBFM_HOME", str(folder))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(folder / "splits"))
    monkeypatch.chdir(folder)
    store = ArtifactStore()
    train = ("train", "global_mean", "--data", "D", "--split", split, "--again")
    looks = {}
    # The first fits and makes the index; later ones publish what is stored.
    perturbfm(*train)
    for n in (10, 1000):
        for i in range(len(list(store.runs.glob("*_*_*"))), n):
            add_run(store, name := f"20250101-000000_{i:07x}_e{i}_{'0' * 8}", f"e{i}", external=False)
            write_run(store, name, f"e{i}", split=f"{i:07x}" + "0" * 57)
        with pytest.MonkeyPatch.context() as patch:
            counted = Looks(patch)
            perturbfm(*train)
        looks[n] = counted
    few, many = looks.values()
    # A run of the same name was added in between: some looks more, not a thousand.
    assert many.n.total() <= few.n.total() + 40, (few.n, many.n)
    assert many.n["scandir"] <= few.n["scandir"] + 2
    assert many.entries <= few.entries + 10
