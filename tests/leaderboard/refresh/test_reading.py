"""A refresh reads a run once, and everything anew where something else changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.leaderboard import database, known_runs
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.refreshed_store import add, content, renew


def test_a_run_is_read_once(store: ArtifactStore, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    digests: list[Path] = []
    digest = known_runs.file_digest
    monkeypatch.setattr(known_runs, "file_digest", lambda p: digests.append(p) or digest(p))  # type: ignore[func-returns-value]
    renew(store)
    assert not reads
    assert not digests
    new = add(store, "linear")
    renew(store)
    assert reads == [new.name]
    renew(store, from_nothing=True)
    assert len(reads) == 4


def test_a_file_written_again_with_the_same_content_is_not_read_again(
    store: ArtifactStore, reads: list[str]
) -> None:
    for path in store.run_dirs():
        file = path / schema.SCORES_FILE
        file.write_bytes(file.read_bytes())
    renew(store)
    assert not reads


def test_a_change_within_one_tick_of_the_clock_is_seen(store: ArtifactStore, reads: list[str]) -> None:
    run = add(store, "linear")
    renew(store)
    file = run / schema.CONFIG_FILE
    stat = file.stat()
    text = file.read_text().replace('"fit_s": 0.5', '"fit_s": 0.7')
    file.write_text(text)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    renew(store)
    assert reads == [run.name, run.name]
    found = database.query(store, "SELECT fit_seconds FROM runs WHERE entry = 'linear'")
    assert found["fit_seconds"].tolist() == [0.7]


def test_other_code_makes_all_tables_anew(
    store: ArtifactStore, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "code_digest", lambda: "other")
    renew(store)
    assert len(reads) == 2


@pytest.mark.parametrize("content_of", [b"", b"\x93NUMPY half", None])
def test_means_that_were_kept_and_are_damaged_are_made_anew(
    store: ArtifactStore, content_of: bytes | None
) -> None:
    kept = list((store.runs / ".scores").rglob("mean.*.npy"))
    assert kept
    for file in kept:
        if content_of is None:
            np.save(file, np.ones((2, 2)))
        else:
            file.write_bytes(content_of)
    add(store, "linear")
    renew(store)
    found = content(store)
    renew(store, from_nothing=True)
    assert content(store) == found


@pytest.mark.parametrize("harm", ["file", "log", "note", "scores"])
def test_what_another_program_changed_is_made_anew(store: ArtifactStore, harm: str) -> None:
    before = content(store)
    file = store.leaderboard.resolve()
    if harm == "file":
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-4096])
    elif harm == "log":
        Path(f"{file}.wal").write_bytes(b"another's")
    elif harm == "note":
        (store.runs / ".scores" / f"{file.stem}.json").unlink()
    else:
        shutil.rmtree(store.runs / ".scores")
    renew(store)
    assert content(store) == before


@pytest.mark.parametrize("name", ["moved", "it's, moved", "moved [1]"])
def test_a_leaderboard_that_was_moved_answers_as_before(
    store: ArtifactStore, tmp_path: Path, name: str
) -> None:
    before = content(store)
    (tmp_path / "away").mkdir()
    there = ArtifactStore(store.home.rename(tmp_path / "away" / name), store.split_dir)
    found = content(there)
    assert {t: rows for t, rows in found.items() if t != "runs"} == {
        t: r for t, r in before.items() if t != "runs"
    }
    assert len(database.query(there, "SELECT * FROM strata")) == 2
    renew(there)
    assert len(content(there)["scores"]) == len(before["scores"])
    assert {Path(p).parent for p in database.query(there, "SELECT path FROM runs")["path"]} == {there.runs}
