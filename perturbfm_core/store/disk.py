"""Writes that the disk refuses: recognised in any library's error, and said in one line with path and space."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from perturbfm_core.errors import DiskError

_FULL, _QUOTA = "the disk is full", "the disk quota is used up"
_READ_ONLY, _FORBIDDEN = "the file system is read-only", "writing there is not permitted"
_TOO_LARGE = "the file is larger than the file system or this process's limit allows"
_LONG, _NO_FOLDER = "the name is too long for the file system", "a part of the path is a file, not a folder"
_FOLDER = "there is a folder of that name"
SPECIAL = "there is a device or pipe of that name"
_NO_PLACE = "no file or folder can be made there"
_OF_SPACE = (_FULL, _QUOTA, _TOO_LARGE)
# The size of what is written says nothing about these.
_OF_NAMES = (_LONG, _NO_FOLDER, _FOLDER, SPECIAL, _NO_PLACE)
# Errors that only a write can have.
_OF_WRITES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _QUOTA,
    errno.EROFS: _READ_ONLY,
    errno.EFBIG: _TOO_LARGE,
}
# Errors that a read can have as well: they count where a write failed.
_OF_BOTH = {
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENAMETOOLONG: _LONG,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EISDIR: _FOLDER,
    errno.EIO: "the device reports an input or output error",
    errno.ESTALE: "the network file system has lost it",
}
# What libraries say that keep no error number: SQLite, DuckDB, safetensors, HDF5.
_TEXTS = (
    (re.compile(r"no space left|os error 28\b|errno = 28\b|disk is full|enospc", re.I), _FULL),
    (re.compile(r"quota exceeded|os error 122\b|errno = 122\b", re.I), _QUOTA),
    (re.compile(r"read-only file system|readonly database|os error 30\b|errno = 30\b", re.I), _READ_ONLY),
    (re.compile(r"file too large|os error 27\b|errno = 27\b", re.I), _TOO_LARGE),
)
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
# Below this, an error of a database without a reason is one of a full disk.
_NEARLY_FULL = 64 * 1024
_DATABASE = re.compile(r"disk i/o error|unable to open database file", re.I)


def refusal(error: BaseException, path: Path | None = None) -> str | None:
    """Return why the disk refused a write, None if an error is something else.

    Parameters
    ----------
    error
        The error; what it was raised from is looked at as well.
    path
        What was being written, if that is known: permissions and names then count too.
    """
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        if isinstance(found, OSError) and found.errno is not None:
            reason = _OF_WRITES.get(found.errno)
            if reason is None and path is not None and _concerns(found, path):
                reason = _OF_BOTH.get(found.errno)
                # In /proc, what would be made "does not exist"; other files that are not there were to be read.
                if found.errno == errno.ENOENT and _is_made_for(found, path):
                    reason = _NO_PLACE
        else:
            reason = _from_text(str(found), path)
        if reason is not None:
            return reason
        found = found.__cause__ or found.__context__
    return None


def _concerns(error: OSError, path: Path) -> bool:
    """Return whether an error is one of writing `path`: of a file beside it, below it, or above it."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    named, own = os.path.abspath(os.fsdecode(error.filename)), os.path.abspath(path)
    beside = os.path.dirname(own)
    return named == own or own.startswith(named + os.sep) or named.startswith(beside + os.sep)


def _is_made_for(error: OSError, path: Path) -> bool:
    """Return whether the file of an error is `path`, a folder above it, or what it is staged as beside it."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return False
    named, own = os.path.abspath(os.fsdecode(error.filename)), os.path.abspath(path)
    staged = os.path.join(os.path.dirname(own), f".{os.path.basename(own)}.")
    return named == own or own.startswith(named + os.sep) or named.startswith(staged)


def _from_text(text: str, path: Path | None) -> str | None:
    for pattern, reason in _TEXTS:
        if pattern.search(text):
            return reason
    if path is not None and _DATABASE.search(text):
        place = existing_part(path)
        free = free_space(path)
        if free is not None and free < _NEARLY_FULL:
            return _FULL
        if not os.access(place, os.W_OK):
            return _FORBIDDEN
    return None


def existing_part(path: Path) -> Path:
    """Return the nearest folder at or above a path that is there."""
    place = Path(os.path.abspath(path))
    with contextlib.suppress(OSError):
        while not place.is_dir() and place != place.parent:
            place = place.parent
    return place


def free_space(path: Path) -> int | None:
    """Return the bytes that are free where a path lies, None if that is not known."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(existing_part(path)).free
    return None


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    total = 0
    with contextlib.suppress(OSError):
        if path.is_file():
            return path.stat().st_size
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(folder, name).stat().st_size
    return total


def amount(n: int) -> str:
    """Return a number of bytes as text with its unit."""
    value, unit = float(n), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{n} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def disk_error(
    path: Path, reason: str, needed: int | None = None, *, at_least: bool = False, staged: int = 0
) -> DiskError:
    """Return the error of a refused write in one line.

    Parameters
    ----------
    path
        What could not be written.
    reason
        What `refusal` returned.
    needed
        Bytes that it needs.
    at_least
        Whether it needs more than `needed`.
    staged
        Bytes that were written of it, which are free again once they are removed.
    """
    if reason in _OF_NAMES:
        needed = None
    size = None if needed is None else f"it needs {'more than ' if at_least else ''}{amount(needed)}"
    if reason in _OF_SPACE:
        free = free_space(path)
        parts = [size or "it needs more than there is"]
        if free is not None:
            parts[0] += f", {amount(free + staged)} are free"
        parts.append("free some space there or choose another place, and repeat the command")
    else:
        parts = [] if size is None else [size]
        if reason in (_FOLDER, SPECIAL):
            parts.append("give the name of a file, or one that is not taken")
        else:
            parts.append("choose a place that can be written (PERTURBFM_HOME is that of data and runs)")
    error = DiskError(f"cannot write {path}: {'; '.join([reason, *parts])}")
    error.path, error.reason, error.needed = str(path), reason, needed
    return error


@contextlib.contextmanager
def writing(path: Path, needed: int | None = None, staged: Path | None = None) -> Iterator[None]:
    """Raise what the disk refuses as a `DiskError` that names `path`.

    Parameters
    ----------
    path
        What is written.
    needed
        Its size in bytes, if that is known.
    staged
        Where it is being made, if that is elsewhere: what lies there when the disk refuses is the least it needs.

    Raises
    ------
    DiskError
        If the disk refuses the write.
    """
    try:
        yield
    except DiskError as error:
        if staged is None or not Path(error.path).is_relative_to(staged):
            raise
        # What is read by users is the place that the staged files were meant for.
        raise _of_staged(path, error.reason, needed, staged, error.needed) from error
    except Exception as error:
        reason = refusal(error, path) or (refusal(error, staged) if staged is not None else None)
        if reason is None:
            raise
        if staged is None:
            raise disk_error(path, reason, needed) from error
        raise _of_staged(path, reason, needed, staged, None) from error


def _of_staged(path: Path, reason: str, needed: int | None, staged: Path, more: int | None) -> DiskError:
    """Return the error of a write to `path` that was refused where it is staged.

    Parameters
    ----------
    path, reason
        See `disk_error`.
    needed
        Bytes that all of it needs, if that is known.
    staged
        Where it is staged.
    more
        Bytes that the refused file needs, if they are known.
    """
    there = size_of(staged)
    if needed is not None:
        return disk_error(path, reason, needed, staged=there)
    if more is None:
        # What did not fit needs more than was free; that says nothing where space is not what was missing.
        more = max(free_space(staged) or 0, _BLOCK) if reason in _OF_SPACE else 0
    return disk_error(path, reason, (there + more) or None, at_least=True, staged=there)


# The least that any file takes.
_BLOCK = 4096


def refused_write(error: BaseException) -> DiskError | None:
    """Return the error of a write that nobody named on the way, None if `error` is something else.

    The path is that of the error, else the folder of data and runs, which most of what is written goes to.
    """
    if isinstance(error, DiskError):
        return None
    named = getattr(error, "filename", None)
    path = Path(os.fsdecode(named) if isinstance(named, str | bytes) else _home())
    reason = refusal(error)
    return None if reason is None else disk_error(path, reason)


def _home() -> str:
    return os.environ.get("PERTURBFM_HOME") or "."
