"""Public files unpacked: those that gzip has compressed, and the one file that is wanted of a zip archive."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from perturbfm_core.errors import DownloadError
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.disk import amount, disk_error, free_space, writing

# What a compressed table of counts becomes, at least, where nothing says how much.
EXPANDS: Final = 3
_CHUNK = 1 << 20
_SHOWN = 4


def is_packed(name: str) -> bool:
    """Return whether a file of this name is unpacked before it is read."""
    return name.endswith((".gz", ".zip"))


def unpacked(path: Path, tell: Progress = quiet, member: str | None = None) -> Path:
    """Return a file without its compression, made beside it if it is not there.

    Parameters
    ----------
    path
        A file; one whose name ends neither in ``.gz`` nor in ``.zip`` is returned as it is.
    tell
        Called with the progress.
    member
        Name of the file that is wanted of a zip archive, in whatever folder it lies there.

    Raises
    ------
    DownloadError
        If it is damaged, or the archive has no such file.
    DiskError
        If the disk has no room for it.
    """
    if path.suffix == ".gz":
        return _made(path, path.with_suffix(""), _gzip_size(path), lambda: gzip.open(path, "rb"), tell)
    if path.suffix != ".zip" or member is None:
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            found = [i for i in archive.infolist() if PurePosixPath(i.filename).name == member]
            if len(found) != 1:
                names = ", ".join(i.filename for i in archive.infolist()[:_SHOWN])
                msg = f"{path} has {len(found)} files called {member}, among {names}; it is another archive"
                raise DownloadError(msg)
            target = path.with_name(f"{path.stem}_{member}")
            return _made(path, target, found[0].file_size, lambda: archive.open(found[0]), tell)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _made(path: Path, target: Path, needed: int, opened: Callable[[], Any], tell: Progress) -> Path:
    """Return what a packed file holds, made if it is not there or older.

    Parameters
    ----------
    path, target
        The packed file, and where what it holds is put.
    needed
        Bytes of that, about.
    opened
        Opens the packed file to read what it holds.
    tell
        Called with the progress.
    """
    if target.is_file() and target.stat().st_mtime >= path.stat().st_mtime:
        return target
    free = free_space(path)
    if free is not None and needed > free:
        raise disk_error(target, "the disk is full", needed)
    tell(f"{path.name}: unpacking about {amount(needed)}")
    part = target.with_name(target.name + ".part")
    try:
        source: IO[bytes]
        with writing(target, needed), opened() as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
        part.replace(target)
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _gzip_size(path: Path) -> int:
    """Return the bytes that a gzip file becomes, about: its own record of them wraps at 4 GB."""
    packed = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(max(packed - 4, 0))
        recorded = int.from_bytes(handle.read(4), "little")
    return recorded if packed < 1 << 30 else max(recorded, packed * EXPANDS)


def _damaged(path: Path, error: BaseException) -> DownloadError:
    return DownloadError(f"{path} is damaged ({error}); remove it and download it again")
