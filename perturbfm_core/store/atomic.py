"""Atomic writes and staging folders: a killed process leaves the old state or the new one, never a part.

Files are written to a temporary name, flushed to disk and renamed; directories are staged beside their
destination and published by one rename, or exchanged with what they replace. What a killed process left is swept by
the next writer, who knows it by its name (see `perturbfm_core.store.owner`).
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbfm_core.errors import StoreError
from perturbfm_core.parsing import read_json_file
from perturbfm_core.store.disk import SPECIAL, disk_error, writing
from perturbfm_core.store.owner import has_ended, new_token, require_local

if TYPE_CHECKING:
    import pandas as pd


def fsync_path(path: Path) -> None:
    """Flush one file or directory to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_special(path: Path) -> None:
    """Refuse to put a file in the place of a device or pipe, such as ``/dev/null``, which a rename would replace.

    Raises
    ------
    DiskError
        If there is one.
    """
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise disk_error(path, SPECIAL)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file: the old content or the new, never a part of it.

    Raises
    ------
    DiskError
        If the disk is full, read-only, or refuses the write for another reason; or if `path` is a device.
    StoreError
        If `path` is an address, not a file.
    """
    require_local(path)
    _refuse_special(path)
    content = data.encode() if isinstance(data, str) else data
    with writing(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            if has_ended(left.name.removeprefix(f".{path.name}.").removesuffix(".tmp")):
                left.unlink(missing_ok=True)
        tmp = path.parent / f".{path.name}.{new_token()}.tmp"
        try:
            with tmp.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            tmp.replace(path)
            fsync_path(path.parent)
        finally:
            # Where the file system is read-only there is nothing to remove.
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Append one line to a log and flush it; what a kill left of an earlier line stays a line of its own.

    Raises
    ------
    DiskError
        If the disk is full, read-only, or refuses the write for another reason.
    StoreError
        If `path` is an address, not a file.
    """
    require_local(path)
    content = text.encode() + b"\n"
    with writing(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as handle:
            size = handle.seek(0, os.SEEK_END)
            if size and os.pread(handle.fileno(), 1, size - 1) != b"\n":
                content = b"\n" + content
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        fsync_path(path.parent)


def json_text(value: Any) -> str:
    """Return a value as the text of a JSON file (indented, no NaN)."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write JSON (indented, no NaN) atomically."""
    write_atomic(path, json_text(value))


def read_json(path: Path, error: type[Exception] = StoreError) -> Any:
    """Read a JSON file; a missing or damaged one raises `error` in one line."""
    return read_json_file(path, error, "; restore it or make it again")


class Staging:
    """A private directory that becomes an artifact by one rename, or disappears.

    Parameters
    ----------
    root
        The folder that it is made in.
    destination
        What it will become, which is named where it cannot be made; `root` if that is not known.
    """

    def __init__(self, root: Path, destination: Path | None = None) -> None:
        self.path = root / new_token()
        with writing(destination or root, staged=self.path):
            self.path.mkdir(parents=True)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def flush(self) -> None:
        """Flush everything staged to disk."""
        for folder, _, files in os.walk(self.path):
            for name in files:
                fsync_path(Path(folder) / name)
            fsync_path(Path(folder))

    def publish(self, destination: Path) -> None:
        """Flush everything staged and rename it to `destination`.

        Raises
        ------
        StoreError
            If `destination` exists.
        """
        self.flush()
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists():
            msg = f"{destination} already exists; choose another place or remove it first"
            raise StoreError(msg)
        self.path.rename(destination)
        fsync_path(destination.parent)

    def replace(self, destination: Path) -> None:
        """Flush everything staged and exchange it with the existing directory `destination`, which disappears.

        Where the file system cannot exchange two directories, the old one is set aside first; a reader or writer that
        comes after a kill in between puts it back (`restore`).
        """
        self.flush()
        if exchange(self.path, destination):
            fsync_path(destination.parent)
            return
        aside = self.path.with_name(f"{self.path.name}{_ASIDE}{destination.name}")
        destination.rename(aside)
        try:
            self.path.rename(destination)
        except BaseException:
            aside.rename(destination)
            raise
        fsync_path(destination.parent)
        shutil.rmtree(aside, ignore_errors=True)


_ASIDE = ".old."
_AT_FDCWD, _EXCHANGE = -100, 2


def exchange(one: Path, two: Path) -> bool:
    """Exchange two paths in one step (Linux, renameat2); return False, having done nothing, where that cannot be."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(two), _EXCHANGE) == 0)


def restore(path: Path) -> bool:
    """Put back a directory that a killed writer had set aside to replace it; return whether there was one."""
    for aside in (path.parent / STAGING).glob(f"*{_ASIDE}{glob.escape(path.name)}"):
        if not path.exists() and has_ended(aside.name.partition(_ASIDE)[0]):
            with contextlib.suppress(OSError):
                aside.rename(path)
                return True
    return False


def sweep_staging(root: Path) -> list[Path]:
    """Remove staging folders whose writer has ended; return what was removed.

    What a writer had set aside and not yet replaced goes back to its place beside `root`.
    """
    removed = []
    for folder in sorted(root.glob("*")):
        token, aside, name = folder.name.partition(_ASIDE)
        if not has_ended(token):
            continue
        if aside and not (root.parent / name).exists():
            with contextlib.suppress(OSError):
                folder.rename(root.parent / name)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder)
    return removed


STAGING = ".staging"


def publish_directory(destination: Path, fill: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Make the directory `destination` by `fill(staged)`, staged beside it and moved into place in one step.

    Parameters
    ----------
    destination
        The directory.
    fill
        Writes its content into the directory that it is given.
    overwrite
        Whether an existing directory is replaced: the old one stays whole until the new one is.

    Raises
    ------
    StoreError
        If `destination` exists and is not to be replaced.
    """
    require_local(destination)
    root = destination.parent / STAGING
    if root.is_dir():
        sweep_staging(root)
    if destination.exists() and not overwrite:
        msg = f"{destination} already exists; choose another place, or give --force to replace it"
        raise StoreError(msg)
    try:
        with Staging(root, destination) as staging, writing(destination, staged=staging.path):
            fill(staging.path)
            if destination.exists():
                staging.replace(destination)
            else:
                staging.publish(destination)
    finally:
        with contextlib.suppress(OSError):
            root.rmdir()


def publish_file(destination: Path, fill: Callable[[Path], None]) -> None:
    """Make the file `destination` by `fill(path)`, staged beside it and moved into place by one rename.

    For files that are too large to be made in memory; `write_atomic` writes the others.

    Parameters
    ----------
    destination
        The file, which is replaced if it exists.
    fill
        Writes its content to the path that it is given.
    """
    require_local(destination)
    _refuse_special(destination)
    root = destination.parent / STAGING
    if root.is_dir():
        sweep_staging(root)
    try:
        with Staging(root, destination) as staging, writing(destination, staged=staging.path):
            made = staging.path / destination.name
            fill(made)
            staging.flush()
            made.replace(destination)
            fsync_path(destination.parent)
    finally:
        with contextlib.suppress(OSError):
            root.rmdir()


def write_together(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Write several files into a folder: all are on disk before the first of them is in its place.

    Raises
    ------
    DiskError
        If the disk refuses the write; the folder is then as it was.
    """
    require_local(folder)
    contents = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    root = folder.parent / STAGING
    if root.is_dir():
        sweep_staging(root)
    try:
        size = sum(map(len, contents.values()))
        with Staging(root, folder) as staging, writing(folder, size, staging.path):
            for name, content in contents.items():
                (staging.path / name).write_bytes(content)
            if not folder.exists():
                staging.publish(folder)
                return
            staging.flush()
            for name in contents:
                (staging.path / name).replace(folder / name)
            fsync_path(folder)
    finally:
        with contextlib.suppress(OSError):
            root.rmdir()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as the content of a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
