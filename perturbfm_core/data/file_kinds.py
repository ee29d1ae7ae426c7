"""Kinds of files and folders that are no AnnData, by what they hold, and the way to make one of each."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.errors import DatasetError
from perturbfm_core.parsing import open_regular

_WRITE = "and write that with write_h5ad"
_MAKE = f"make an AnnData of it {_WRITE}"
_TENX = f"read it with scanpy, add the perturbation of each cell to obs {_WRITE}"
# First bytes of an R object: in binary or text form, and the files of `save`.
_R_MARKS = (b"X\n", b"A\n", b"RDX", b"RDA")
# First bytes of other compressed files (bzip2, xz, zstandard, 7-Zip), and of NumPy arrays and pickles.
_PACKED = (b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
_SAVED = (b"\x93NUMPY", *(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5)))


def kind_of(path: Path, error: str = "") -> tuple[str, str]:
    """Return (what a file that cannot be read as h5ad is by its first bytes and the error, what to do)."""
    with open_regular(path, DatasetError) as file:
        head = file.read(512)
    if head[:4] == b"\x89HDF" and re.search("plugin|filter", error):
        return "compressed by a method that HDF5 lacks here", (
            "write it again with write_h5ad(..., compression='gzip') where it can be read, e.g. after `pip install hdf5plugin` "
            "and `import hdf5plugin`"
        )
    if head[:4] == b"PAR1":
        return "Parquet, not HDF5", (
            f"{_MAKE}; shards of Tahoe-100M are read by `perturbfm data import-tahoe`, tables of predictions by "
            "`perturbfm submit`"
        )
    if head[:2] == b"\x1f\x8b" and _unpacked(head).startswith(_R_MARKS):
        return "an R object, not HDF5", "convert it in R, e.g. with zellkonverter or anndataR, to h5ad"
    if head[:2] == b"PK" and b"[Content_Types].xml" in head:
        return "a spreadsheet, not HDF5", _MAKE
    if head.startswith(_SAVED) or (head[:2] == b"PK" and b".npy" in head[:64]):
        return "an object that Python saved, not HDF5", f"read it as it was saved, {_MAKE}"
    if head[:2] in (b"\x1f\x8b", b"PK") or head.startswith(_PACKED):
        return "compressed, not HDF5", "unpack it first"
    if head[257:262] == b"ustar":
        return "an archive, not HDF5", "unpack it first"
    if head.startswith((b"ARROW1", b"FEA1")):
        return "Arrow or Feather, not HDF5", _MAKE
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file", "fetch it with `git lfs pull`"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, not HDF5", "fetch the file itself, by the address of its download"
    if head.startswith(b"%%MatrixMarket"):
        return "a Matrix Market file, not HDF5", _TENX
    if head and b"\x00" not in head and head[:4] != b"\x89HDF":
        return "text such as CSV, not HDF5", _MAKE
    if head[:4] == b"\x89HDF" and "can't open file" in error:
        return (
            "HDF5 with links to other files, of which one is not there",
            "fetch these as well, or write all in one file",
        )
    return "truncated or not HDF5", "fetch it again"


def _unpacked(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, 16)
    except zlib.error:
        return b""


def kind_of_hdf5(file: Any) -> str:
    """Return what an HDF5 file without obs or var is, and what to do, for the end of a message; empty if not known."""
    if "matrix" in file and "row_attrs" in file:
        return f"; it is Loom: read it with anndata.io.read_loom {_WRITE}"
    if any("barcodes" in file[name] for name in file if hasattr(file[name], "keys")):
        return f"; it is of 10x Genomics: {_TENX}"
    if "assays" in file and "meta.data" in file:
        return "; it is h5Seurat: convert it, e.g. with Convert of SeuratDisk"
    return ""


def refuse_folder(path: Path) -> None:
    """Refuse a folder of Matrix Market files, and the folder of a data set that was imported already.

    Raises
    ------
    DatasetError
        If the path is such a folder.
    """
    if (path / schema.META_FILE).is_file():
        msg = (
            f"{path} is a data set of perturbfm, imported already: verbs take it as --data, and from Python "
            "perturbfm_core.data.artifact.load_dataset opens it"
        )
        raise DatasetError(msg)
    if path.is_dir() and any(path.glob("*matrix.mtx*")):
        msg = f"{path} is a folder of Matrix Market files, not an h5ad file; {_TENX}"
        raise DatasetError(msg)
