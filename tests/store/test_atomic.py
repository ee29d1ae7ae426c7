"""Atomic writes, locks and staging: the old state or the new one, whoever fails or is killed."""

from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor

import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import Staging, publish_directory, sweep_staging, write_atomic


@pytest.fixture
def store(own_home) -> ArtifactStore:
    return ArtifactStore()


def test_stale_temporary_files_are_swept_and_live_ones_are_not(tmp_path):
    target = tmp_path / "file.json"
    stale, live, other = (tmp_path / f".{n}.tmp" for n in ("file.json.aa", "file.json.bb", "another.json.cc"))
    for path in (stale, live, other):
        path.write_text("half")
    with live.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_atomic(target, "new")
        assert target.read_text() == "new"
        assert (stale.exists(), live.exists(), other.exists()) == (False, True, True)
    write_atomic(target, b"newer")
    assert target.read_bytes() == b"newer"
    assert not live.exists()


def test_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch):
    target = tmp_path / "file.json"
    write_atomic(target, "old")

    def full(fd):
        msg = "no space left on device"
        raise OSError(msg)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(target, "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file.json": "old"}


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path):
    target = tmp_path / "file.txt"
    contents = [str(i) * 5000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: [write_atomic(target, text) for _ in range(5)], contents))
    assert target.read_text() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_staging_of_a_live_writer_is_left_alone(tmp_path):
    root = tmp_path / "staging"
    with Staging(root) as staging:
        (staging.path / "x").write_text("half")
        assert sweep_staging(root) == []
        assert (staging.path / "x").exists()
    assert list(root.iterdir()) == []
    dead = root / "dead"
    dead.mkdir()
    (root / "dead.lock").touch()
    assert sweep_staging(root) == [dead]
    assert list(root.iterdir()) == []


def test_published_directory_is_never_overwritten(tmp_path):
    publish_directory(tmp_path / "a", lambda p: (p / "x").write_text("one"))
    with pytest.raises(StoreError, match="already exists; choose another place, or give --force"):
        publish_directory(tmp_path / "a", lambda p: (p / "x").write_text("two"))
    with Staging(tmp_path / "staging") as staging, pytest.raises(StoreError, match="already exists"):
        staging.publish(tmp_path / "a")
    assert (tmp_path / "a/x").read_text() == "one"
    publish_directory(tmp_path / "a", lambda p: (p / "y").write_text("three"), overwrite=True)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["y"]
    assert not (tmp_path / ".staging").exists()


def test_replacement_that_fails_puts_the_old_directory_back(tmp_path, monkeypatch):
    publish_directory(tmp_path / "a", lambda p: (p / "x").write_text("one"))

    def refuse(self, destination):
        msg = "disk is gone"
        raise OSError(msg)

    monkeypatch.setattr(Staging, "publish", refuse)
    with pytest.raises(OSError, match="disk is gone"):
        publish_directory(tmp_path / "a", lambda p: (p / "x").write_text("two"), overwrite=True)
    assert (tmp_path / "a/x").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_directory_set_aside_by_a_killed_writer_comes_back(tmp_path):
    """Killed between moving the old one away and moving the new one in: the next writer restores it."""
    staging = tmp_path / ".staging"
    (staging / "dead").mkdir(parents=True)
    (staging / "dead.lock").touch()
    (staging / "dead.old.a").mkdir()
    (staging / "dead.old.a/x").write_text("one")
    publish_directory(tmp_path / "b", lambda p: (p / "x").write_text("other"))
    assert (tmp_path / "a/x").read_text() == "one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_object_that_another_writer_published_first_is_used(store):
    def fill(folder):
        (folder / "mine").touch()
        # Meanwhile the other one is done.
        path = store.object("ab12")
        path.mkdir(parents=True)
        (path / "theirs").touch()

    path = store.put_object("ab12", fill)
    assert [p.name for p in path.iterdir()] == ["theirs"]
    assert list(store.staging_root.iterdir()) == []
