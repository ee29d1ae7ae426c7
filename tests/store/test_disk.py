"""Writes that the disk refuses: recognised whoever reports them, one line with path and space, nothing half-written."""

from __future__ import annotations

import errno
import os
import pickle
import re
import resource
import sqlite3
from pathlib import Path

import pytest

from perturbfm_core.errors import DiskError, StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import Staging, publish_directory, publish_file, write_atomic, write_together
from perturbfm_core.store.disk import amount, disk_error, refusal, refused_write, writing
from perturbfm_core.store.owner import require_local
from tests.support.small_disk import small_disk

FULL = r"the disk is full; it needs {}, [\d.]+ \w+ are free; free some space there or choose another place, and repeat the command"


def failed(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (failed(errno.ENOSPC), "the disk is full"),
        (failed(errno.EDQUOT), "the disk quota is used up"),
        (failed(errno.EROFS, "/mnt/x"), "the file system is read-only"),
        (failed(errno.EFBIG), "the file is larger than the file system or this process's limit allows"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "the file system is read-only"),
        (RuntimeError("IO Error: Could not write file: Disk quota exceeded"), "the disk quota is used up"),
        (OSError("Can't write data (file write failed: errno = 28, error message = 'x')"), "the disk is full"),
        (ValueError("no such column"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), None),
        (failed(errno.EACCES, "/elsewhere/secret"), None),
    ],
)  # fmt: skip
def test_what_the_disk_refuses_is_recognised(error, reason):
    assert refusal(error) == reason
    wrapped = RuntimeError("the library failed")
    wrapped.__cause__ = error
    assert refusal(wrapped) == reason


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EIO])
def test_errors_that_reads_have_too_count_where_the_file_is_written(tmp_path, number):
    target = tmp_path / "runs/a.json"
    for path in (None, target, tmp_path / "runs/.staging/x", tmp_path):
        assert refusal(failed(number, path and str(path)), target) is not None
        assert refusal(failed(number, path and str(path))) is None
    assert refusal(failed(number, "/elsewhere/input.h5ad"), target) is None


@pytest.mark.parametrize(("n", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (20_480_000, "20.5 MB"), (3 * 10**12, "3.0 TB")])  # fmt: skip
def test_amounts_read_well(n, text):
    assert amount(n) == text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_refused_write_names_path_and_space_and_keeps_the_old_content(tmp_path, monkeypatch, number):
    target = tmp_path / "file.json"
    write_atomic(target, "old")

    def refuse(fd):
        raise failed(number)

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(DiskError, match=rf"cannot write {target}: .*it needs 2.0 kB"):
        write_atomic(target, "x" * 2000)
    with pytest.raises(DiskError, match=rf"cannot write {tmp_path / 'a'}: .*it needs more than 3.0 kB"):
        publish_directory(tmp_path / "a", lambda folder: write_atomic(folder / "x", "x" * 3000))
    monkeypatch.undo()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file.json": "old"}


def test_several_files_are_all_there_or_none(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_together(out, {"a": "old", "b": "old"})
    (out / "mine").write_text("kept")

    def refuse(fd):
        raise failed(errno.ENOSPC)

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(DiskError, match=rf"cannot write {out}: {FULL.format('2.0 kB')}"):
        write_together(out, {"a": "n" * 1000, "b": "n" * 1000})
    with pytest.raises(DiskError, match=rf"cannot write {tmp_path / 'new'}: the disk is full"):
        write_together(tmp_path / "new", {"a": "n"})
    monkeypatch.undo()
    assert {p.name: p.read_text() for p in out.iterdir()} == {"a": "old", "b": "old", "mine": "kept"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    write_together(out, {"a": "new", "b": b"new"})
    assert {p.name: p.read_text() for p in out.iterdir()} == {"a": "new", "b": "new", "mine": "kept"}


def test_the_error_survives_a_process_boundary(tmp_path):
    error = disk_error(tmp_path / "x", "the disk is full", 7)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.needed) == (str(error), str(tmp_path / "x"), 7)


def test_an_error_that_is_another_passes_unchanged(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path / "x"):
        raise KeyError("mine")
    with pytest.raises(PermissionError), writing(tmp_path / "x"):
        raise failed(errno.EACCES, "/elsewhere/input.h5ad")
    assert refused_write(KeyError("mine")) is None


def test_a_database_without_a_reason_is_one_of_a_full_disk_where_it_is(tmp_path, monkeypatch):
    error = sqlite3.OperationalError("disk I/O error")
    assert refusal(error, tmp_path / "study.db") is None
    monkeypatch.setattr("perturbfm_core.store.disk.free_space", lambda path: 0)
    assert refusal(error, tmp_path / "study.db") == "the disk is full"


@pytest.mark.parametrize("leave", [0, 4096, 300_000])
def test_a_full_disk_keeps_what_was_there(tmp_path, leave):
    with small_disk(tmp_path / "disk") as disk:
        store = ArtifactStore(disk.path / "home", disk.path / "splits")
        write_atomic(store.runs / "a.json", "old")
        publish_directory(store.data / "d", lambda folder: write_atomic(folder / "x", "old"))
        before = sorted(str(p) for p in disk.path.rglob("*"))
        disk.fill(leave)
        large = "n" * 2_000_000
        with pytest.raises(
            DiskError, match=rf"cannot write {store.runs / 'a.json'}: {FULL.format('2.0 MB')}"
        ):
            write_atomic(store.runs / "a.json", large)
        with pytest.raises(
            DiskError, match=rf"cannot write {store.data / 'd'}: {FULL.format('more than .*')}"
        ):
            publish_directory(
                store.data / "d", lambda f: (f / "x").write_text(large) and None, overwrite=True
            )
        with pytest.raises(
            DiskError, match=rf"cannot write {store.object('ab')}: {FULL.format('more than .*')}"
        ):
            store.put_object("ab", lambda f: (f / "x").write_text(large) and None)
        # Locks hold without a name.
        with store.lock("mine", wait=False) as held:
            assert held
        disk.empty()
        left = {str(p) for p in disk.path.rglob("*")} - set(before)
        assert not [p for p in left if not re.search(r"/runs/\.(locks|staging|objects)", p)]
        assert (store.runs / "a.json").read_text() == (store.data / "d/x").read_text() == "old"


def test_a_read_only_disk_is_named(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        store = ArtifactStore(disk.path / "home", disk.path / "splits")
        write_atomic(store.runs / "a.json", "old")
        refused = "the file system is read-only"
        with disk.read_only():
            with pytest.raises(
                DiskError, match=rf"cannot write {store.runs / 'a.json'}: {refused}; it needs 3 bytes"
            ):
                write_atomic(store.runs / "a.json", "new")
            with pytest.raises(DiskError, match=f"cannot write .*: {refused}"):
                publish_directory(disk.path / "b", lambda folder: None)
            with pytest.raises(DiskError, match=f"cannot write .*: {refused}"), store.lock("mine"):
                pass
            with pytest.raises(DiskError, match=f"cannot write .*: {refused}"):
                store.put_object("ab", lambda folder: None)
        assert (store.runs / "a.json").read_text() == "old"


def test_the_limit_of_a_process_is_named(tmp_path):
    target = tmp_path / "file.json"
    write_atomic(target, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            DiskError, match=r"larger than the file system or this process's limit allows; it needs 5.0 kB"
        ):
            write_atomic(target, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file.json": "old"}


@pytest.mark.parametrize("name", ["x" * 300, "file/below"])
def test_a_name_that_cannot_be_is_named(tmp_path, name):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(
        DiskError, match=r"cannot write .*: (the name is too long|a part of the path is a file)"
    ):
        write_atomic(tmp_path / name, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["x", "x/y"])
def test_where_no_file_can_be_made_the_asked_for_name_is_named(name):
    path = Path("/proc") / name
    said = f"cannot write {path}: no file or folder can be made there; choose a place"
    for write in (
        lambda: write_atomic(path, "new"),
        lambda: write_together(path, {"a": "new"}),
        lambda: publish_file(path, lambda made: made.write_text("new") and None),
        lambda: publish_directory(path, lambda folder: None),
        lambda: Staging(path.parent, path),
    ):
        with pytest.raises(DiskError, match=re.escape(said)):
            write()


def test_the_folder_that_a_file_is_staged_in_is_not_named(tmp_path):
    (tmp_path / "file").write_text("a file")
    for write in (write_together, lambda path, _: publish_directory(path, lambda folder: None)):
        with pytest.raises(DiskError, match=re.escape(f"cannot write {tmp_path / 'file/below'}: a part of")):
            write(tmp_path / "file/below", {"a": "new"})


def test_a_name_that_is_taken_says_nothing_about_space(tmp_path):
    (tmp_path / "folder").mkdir()
    said = f"cannot write {tmp_path / 'folder'}: there is a folder of that name; give the name of a file, "
    with pytest.raises(DiskError, match=re.escape(said)) as caught:
        publish_file(tmp_path / "folder", lambda path: path.write_text("new") and None)
    with pytest.raises(DiskError, match=re.escape(said)) as again:
        write_atomic(tmp_path / "folder", "new")
    write_atomic(tmp_path / "folder/file", "a file")
    with pytest.raises(DiskError, match="a part of the path is a file") as below:
        write_atomic(tmp_path / "folder/file/below", "new")
    for error in (caught, again, below):
        assert "it needs" not in str(error.value)


def test_a_device_or_pipe_is_no_place_of_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        said = f"cannot write {tmp_path / name}: there is a device or pipe of that name; give the name of a file, "
        with pytest.raises(DiskError, match=re.escape(said)):
            write_atomic(tmp_path / name, "new")
        with pytest.raises(DiskError, match=re.escape(said)):
            publish_file(tmp_path / name, lambda path: path.write_text("new") and None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_what_is_refused_for_other_reasons_than_space_needs_no_more_than_it_is(tmp_path):
    def refuse(path):
        raise PermissionError(errno.EACCES, "no", str(path))

    with pytest.raises(DiskError, match="writing there is not permitted; choose a place") as caught:
        publish_file(tmp_path / "file", refuse)
    assert "it needs" not in str(caught.value)


ADDRESSES = ["s3://bucket/home", "S3://bucket", "gs://b", "az://c/x", "abfss://c@a.net/x", "https://host/x", "s3:/bucket", "file:///tmp/x"]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_home(tmp_path, monkeypatch, address):
    for variable in ("PERTURBFM_HOME", "PERTURBFM_SPLIT_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, address)
            with pytest.raises(
                StoreError,
                match=rf"{variable} is '{re.escape(address)}', which is no folder of a file system",
            ):
                ArtifactStore()
    with pytest.raises(StoreError, match="no folder of a file system"):
        ArtifactStore(address)
    with pytest.raises(StoreError, match="no folder of a file system"):
        write_atomic(tmp_path.__class__(address) / "x.json", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/data/x", "runs", "a:b", "./s3:/x", "C:/x", "x/s3://y"])
def test_a_path_is_no_address(path):
    require_local(path)
