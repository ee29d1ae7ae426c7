"""Text files of public databases: plain, gzip or zip by their content, any damage reported in one line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO, cast

import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.parsing import open_regular

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_LOOKED_AT = 4096


@contextlib.contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file for reading, unpacked if it is gzip, or a zip archive of one file.

    Raises
    ------
    GraphError
        If it is missing, empty, cut off, damaged, a web page or no text; also while it is read.
    """
    with open_regular(path, GraphError) as raw:
        begins = raw.read(4)
    if not begins:
        msg = f"{path} is empty; fetch it again"
        raise GraphError(msg)
    try:
        with contextlib.ExitStack() as stack:
            if begins.startswith(_GZIP):
                handle = cast(
                    TextIO, stack.enter_context(gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
                )
            elif begins == _ZIP:
                archive = stack.enter_context(zipfile.ZipFile(path))
                files = [n for n in archive.namelist() if not n.endswith("/")]
                if len(files) != 1:
                    msg = f"{path} is an archive of {len(files)} files; give one that holds a single file"
                    raise GraphError(msg)
                member = stack.enter_context(archive.open(files[0]))
                handle = io.TextIOWrapper(member, encoding="utf-8-sig", newline="")
            else:
                handle = stack.enter_context(path.open(encoding="utf-8-sig", newline=""))
            head = handle.read(_LOOKED_AT)
            if not head.strip():
                msg = f"{path} is empty; fetch it again"
                raise GraphError(msg)
            if "\0" in head or head.lstrip()[:15].lower().startswith(("<!doctype", "<html", "<?xml")):
                what = "no text" if "\0" in head else "a web page"
                msg = f"{path} is {what}, not a table; fetch it again, or give the right file with --from"
                raise GraphError(msg)
            handle.seek(0)
            yield handle
    except GraphError:
        raise
    except UnicodeDecodeError as error:
        msg = (
            f"{path} is no text in UTF-8 ({' '.join(str(error).split())[:80]}); save a table as UTF-8, gene features of Python as npz "
            "with genes and a matrix, or fetch the file again"
        )
        raise GraphError(msg) from error
    except EOFError as error:
        msg = f"{path} is cut off; fetch it again"
        raise GraphError(msg) from error
    except (
        OSError,
        ValueError,
        RuntimeError,
        OverflowError,
        zlib.error,
        zipfile.BadZipFile,
        csv.Error,
    ) as error:
        msg = f"{path} is damaged or of another kind ({' '.join(str(error).split())[:120]}); fetch it again"
        raise GraphError(msg) from error


def first_line(path: Path, comment: str = "") -> str:
    """Return the first line that is neither blank nor a comment (see `leading`), "" without one."""
    with opened(path) as handle:
        return leading(handle, comment)[1]


def leading(lines: Iterable[str], comment: str = "") -> tuple[int, str]:
    """Return (how many lines stand before the first one that counts, that line), the line "" without one.

    Blank lines do not count, nor do those that begin with `comment`; but the last of these is the header of a table if it
    has as many cells as the line after it, as in STRING's files (``#node1``, ``node2``, ...).
    """
    header: tuple[int, str] | None = None
    for at, raw in enumerate(lines):
        line = raw.rstrip("\r\n")
        if not line.strip():
            continue
        if comment and line.startswith(comment):
            header = (at, line)
            continue
        sep = "\t" if "\t" in line else ","
        is_named = header is not None and 0 < line.count(sep) == header[1].count(sep)
        return header if header is not None and is_named else (at, line)
    return 0, ""


def read_columns(path: Path, columns: Mapping[int, str], *, comment: str = "") -> pd.DataFrame:
    """Return some columns of a tab-separated file without a header, all as text.

    Parameters
    ----------
    path
        The file.
    columns
        {position: name} of the columns that are read, none of which may be empty.
    comment
        How the lines begin that stand before the first row.

    Raises
    ------
    GraphError
        If it cannot be read, has too few columns, or a row is cut off.
    """
    width = max(columns) + 1
    with opened(path) as handle:
        skipped, row = 0, ""
        for line in handle:
            if line.strip() and not (comment and line.startswith(comment)):
                row = line
                break
            skipped += 1
        if not row.strip():
            msg = f"{path} has no row; fetch it again"
            raise GraphError(msg)
        found = row.count("\t") + 1
        if found < width:
            msg = f"{path}: its first row has {found} columns separated by tabs, {width} are needed; it is another file"
            raise GraphError(msg)
        handle.seek(0)
        table: pd.DataFrame = pd.read_csv(
            handle,
            sep="\t",
            header=None,
            skiprows=skipped,
            usecols=list(columns),
            dtype=str,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
        ).rename(columns=dict(columns))
    lacking = table.isna() | (table == "")
    if lacking.to_numpy().any():
        at = int(lacking.any(axis=1).to_numpy().argmax())
        name = next(str(c) for c in table.columns if lacking[c].iloc[at])
        msg = f"{path}: row {skipped + at + 1} has no {name}; the file is cut off or damaged, fetch it again"
        raise GraphError(msg)
    return table
