"""Atomic writes, locks and staging: the old state or the new one, whoever fails or is killed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from perturbfm_core.errors import DiskError, StoreError
from perturbfm_core.store import atomic
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import (
    Staging,
    publish_directory,
    publish_file,
    restore,
    sweep_staging,
    write_atomic,
)
from perturbfm_core.store.owner import new_token
from tests.support.paths import REPO


@pytest.fixture
def store(own_home) -> ArtifactStore:
    return ArtifactStore()


@pytest.fixture
def ended() -> str:
    """Return the token of a process of this host that has ended."""
    code = "from perturbfm_core.store.owner import new_token; print(new_token())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    return done.stdout.strip()


def test_what_an_ended_process_left_is_swept_and_the_rest_is_not(tmp_path, ended):
    target = tmp_path / "file.json"
    host, boot, pid, started, _ = new_token().split("@")
    kept = [
        f".file.json.{new_token()}.tmp",  # of this process
        f".file.json.elsewhere@{boot}@{pid}@{started}@aa.tmp",  # of another host
        ".file.json.elsewhere@00000000@1@1@aa.tmp",
        ".file.json.aa.tmp",  # of something else
        f".another.json.{ended}.tmp",
    ]
    gone = [
        f".file.json.{ended}.tmp",
        f".file.json.{host}@00000000@{pid}@{started}@aa.tmp",  # before the machine started again
        f".file.json.{host}@{boot}@{pid}@{int(started) + 1}@aa.tmp",  # the number is another process's now
    ]
    for name in (*kept, *gone):
        (tmp_path / name).write_text("half")
    write_atomic(target, "new")
    assert {p.name for p in tmp_path.iterdir()} == {"file.json", *kept}


def test_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch):
    target = tmp_path / "file.json"
    write_atomic(target, "old")

    def broken(fd):
        msg = "the cable is loose"
        raise OSError(msg)

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="the cable is loose"):
        write_atomic(target, "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file.json": "old"}


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path):
    target = tmp_path / "file.txt"
    contents = [str(i) * 5000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: [write_atomic(target, text) for _ in range(5)], contents))
    assert target.read_text() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_staging_of_a_live_writer_is_left_alone(tmp_path, ended):
    root = tmp_path / "staging"
    with Staging(root) as staging:
        (staging.path / "x").write_text("half")
        assert sweep_staging(root) == []
        assert (staging.path / "x").exists()
    assert list(root.iterdir()) == []
    dead = root / ended
    dead.mkdir()
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


def test_a_file_that_a_function_writes_is_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "new" / "big.h5ad"
    publish_file(target, lambda path: path.write_text("one"))
    assert target.read_text() == "one"

    def fails(path):
        path.write_text("half")
        msg = "no more of it"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="no more of it"):
        publish_file(target, fails)
    assert target.read_text() == "one"

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "fsync_path", refuse)
        with pytest.raises(DiskError, match=f"cannot write {target}: the disk is full"):
            publish_file(target, lambda path: path.write_text("two"))
    assert target.read_text() == "one"
    publish_file(target, lambda path: path.write_text("three"))
    assert {p.name: p.read_text() for p in target.parent.iterdir()} == {"big.h5ad": "three"}


@pytest.fixture(params=["exchange", "no exchange"])
def either_way(request, monkeypatch):
    """Run with and without a file system that can exchange two directories."""
    if request.param == "no exchange":
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)


@pytest.mark.usefixtures("either_way")
def test_a_replaced_directory_is_the_new_one_and_leaves_nothing(tmp_path):
    publish_directory(tmp_path / "a", lambda p: (p / "x").write_text("one"))
    publish_directory(tmp_path / "a", lambda p: (p / "y").write_text("two"), overwrite=True)
    assert {p.name: p.read_text() for p in (tmp_path / "a").iterdir()} == {"y": "two"}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.usefixtures("either_way")
def test_replacement_that_fails_leaves_the_old_directory(tmp_path, monkeypatch):
    publish_directory(tmp_path / "a", lambda p: (p / "x").write_text("one"))

    def refuse(*_):
        msg = "disk is gone"
        raise OSError(msg)

    monkeypatch.setattr(atomic, "fsync_path", refuse)
    with pytest.raises(OSError, match="disk is gone"):
        publish_directory(tmp_path / "a", lambda p: (p / "x").write_text("two"), overwrite=True)
    assert (tmp_path / "a/x").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def set_aside(tmp_path, ended):
    """Leave what a kill between moving the old directory away and moving the new one in leaves."""
    staging = tmp_path / ".staging"
    (staging / ended).mkdir(parents=True)
    aside = staging / f"{ended}.old.a"
    aside.mkdir()
    (aside / "x").write_text("one")
    return aside


def test_directory_set_aside_by_a_killed_writer_comes_back_with_the_next_write(tmp_path, set_aside):
    publish_directory(tmp_path / "b", lambda p: (p / "x").write_text("other"))
    assert (tmp_path / "a/x").read_text() == "one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_directory_set_aside_by_a_killed_writer_comes_back_with_the_next_read(tmp_path, set_aside):
    assert restore(tmp_path / "a")
    assert (tmp_path / "a/x").read_text() == "one"
    assert not restore(tmp_path / "a")
    assert not restore(tmp_path / "c")


def test_a_directory_that_a_live_writer_has_set_aside_is_left_to_it(tmp_path, set_aside):
    set_aside.rename(set_aside.with_name(f"{new_token()}.old.a"))
    assert not restore(tmp_path / "a")
    sweep_staging(tmp_path / ".staging")
    assert not (tmp_path / "a").exists()


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
