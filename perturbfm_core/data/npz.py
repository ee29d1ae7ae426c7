"""Npz files: plain arrays only; written whole or not at all, any damage reported in one line."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from perturbfm_core.data.structure import check_size
from perturbfm_core.errors import DatasetError
from perturbfm_core.parsing import open_regular
from perturbfm_core.store.atomic import publish_file

_PLAIN = "biufcSUMm"
# First bytes of other formats, and what they are.
_OTHERS = {
    b"\x93NUMPY": "a single array without a name (.npy)",
    b"\x89HDF\r\n": "HDF5 (h5ad, h5)",
    b"PAR1": "parquet",
}


def publish_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays to a file, uncompressed, which appears whole."""

    def fill(made: Path) -> None:
        with made.open("wb") as file:
            np.savez(file, **arrays)

    publish_file(path, fill)


def read_npz(path: Path, error: type[Exception] = DatasetError) -> dict[str, Any]:
    """Read all arrays of an npz file, in the byte order of this machine; pickled objects are never loaded.

    Raises
    ------
    error
        With a message of one line, if the file is missing, damaged or holds anything but plain arrays.
    """
    path = Path(path)
    with open_regular(path, error) as file:
        head = file.read(8)
        other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
        if other is not None:
            msg = f"{path} is {other}, not an npz file; save named arrays, as by numpy.savez"
            raise error(msg)
        file.seek(0)
        try:
            return _arrays(file, path, error)
        except error:
            raise
        except Exception as exc:
            # Damaged archives and headers raise nearly everything: BadZipFile, zlib.error, struct.error, OSError,
            # EOFError, KeyError, ValueError, SyntaxError, RuntimeError, NotImplementedError, MemoryError.
            detail = " ".join(str(exc).split())[:160] or type(exc).__name__
            msg = f"{path} is damaged or not an npz file ({detail}); make it again"
            raise error(msg) from exc


def _arrays(file: BinaryIO, path: Path, error: type[Exception]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in out:
                msg = f"{path} holds the array {name!r} twice; make it again"
                raise error(msg)
            with archive.open(entry) as stream:
                out[name] = _array(stream, entry.file_size, f"array {name!r} in {path}", error)
    return out


def _array(stream: Any, size: int, what: str, error: type[Exception]) -> Any:
    """Return one array; its header must declare as many bytes as the archive has of it."""
    major, _ = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    if major not in (1, 2):
        msg = f"{what} is of version {major} of the format; make it again"
        raise error(msg)
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        msg = f"{what} holds pickled objects, which are never loaded; save names by .astype(str), numbers by .astype(float)"
        raise error(msg)
    if dtype.kind not in _PLAIN:
        msg = f"{what} holds records ({dtype}), which are not read; save plain arrays"
        raise error(msg)
    if any(n < 0 for n in shape):
        msg = f"{what} declares the shape {shape}; make it again"
        raise error(msg)
    count = math.prod(shape)
    check_size(count * dtype.itemsize, what, error)
    if count * dtype.itemsize != size - stream.tell():
        msg = f"{what} declares {dtype} {shape}, which is not what is there; make it again"
        raise error(msg)
    # Allocated once, and filled piece by piece.
    flat = np.empty(count, dtype=dtype)
    view: Any = flat.view(np.uint8).data if flat.nbytes else b""
    filled = 0
    while filled < len(view):
        piece = stream.read(min(len(view) - filled, 1 << 22))
        if not piece:
            msg = f"{what} ends early; make it again"
            raise error(msg)
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    # To the end, where the checksum is compared.
    stream.read(1)
    out = flat.reshape(shape[::-1]).transpose() if fortran else flat.reshape(shape)
    return out if dtype.isnative else out.astype(dtype.newbyteorder("="))
