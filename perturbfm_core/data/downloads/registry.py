"""The registry of public files: address, size, hash, licence and citation of each."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field, field_validator, model_validator

from perturbfm_core.config import Frozen, parse
from perturbfm_core.data.space import ImportSpace
from perturbfm_core.errors import DownloadError

# Collections whose h5ad files have a preset, by the first part of their names.
PRESET_OF = {"scperturb": "scperturb", "perturbench": "perturbench", "replogle": "replogle"}
# Files of a collection in another's form: this is the file that PerturBench started from, as scPerturb has it.
_PRESET_OF_FILE = {"perturbench/norman19_source": "scperturb"}
# Files that hold another scale than their preset says.
_SPACE_OF_FILE: dict[str, ImportSpace] = {"replogle/k562_essential_normalized": "zscore"}
# Archives of a collection, by the file in them that its preset reads.
_MEMBERS = {"gears": "perturb_processed.h5ad"}
# Collections of other forms than h5ad, by the end of their files' names.
_OTHER_FORMS = {"tahoe": ".parquet"}
_NOT_CELLS = {
    (".pkl", ".ckpt"): "it is a pickle, which is never loaded",
    (".csv", "_splits.tar.gz", ".tsv", ".txt"): "it is a table without cells",
    (".h5mu",): "it holds several kinds of measurement",
}
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)+$")
_SHOWN = 6


class RemoteFile(Frozen):
    """One public file.

    Attributes
    ----------
    name
        ``collection/file``, unique.
    url
        Where it is fetched from, "" where no address is known.
    filename
        Its name on disk.
    size
        Bytes, None if unknown.
    md5, sha256
        Hash published with it, "" without one.
    licence, citation
        What its publishers ask for, "" where they say nothing.
    """

    name: str
    url: str = ""
    filename: str
    size: int | None = Field(None, gt=0)
    md5: str = Field("", pattern="^([0-9a-f]{32})?$")
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    licence: str = ""
    citation: str = ""

    @field_validator("size", mode="before")
    @classmethod
    def _no_size(cls, value: Any) -> Any:
        return value or None

    @model_validator(mode="after")
    def _safe_names(self) -> RemoteFile:
        if not _NAME.fullmatch(self.name) or ".." in self.name:
            msg = f"name {self.name!r} must be collection/file of letters, digits, '_', '-' and '.'"
            raise ValueError(msg)
        if PurePosixPath(self.filename).name != self.filename or self.filename in ("", ".", ".."):
            msg = f"file name {self.filename!r} must be a plain name"
            raise ValueError(msg)
        return self

    @property
    def collection(self) -> str:
        """Return the first part of the name."""
        return self.name.partition("/")[0]

    @property
    def preset(self) -> str | None:
        """Return the preset that imports it, None without one."""
        if self.member is not None or self.filename.endswith(_OTHER_FORMS.get(self.collection, "/")):
            return self.collection
        if not self.filename.endswith((".h5ad", ".h5ad.gz")):
            return None
        return _PRESET_OF_FILE.get(self.name) or PRESET_OF.get(self.collection)

    @property
    def member(self) -> str | None:
        """Return the file of its archive that its preset reads, None if it is no such archive."""
        return _MEMBERS.get(self.collection) if self.filename.endswith(".zip") else None

    @property
    def space(self) -> ImportSpace | None:
        """Return the scale of its values where that is another than its preset says."""
        return _SPACE_OF_FILE.get(self.name)

    @property
    def why_no_preset(self) -> str:
        """Return why no preset reads it."""
        if self.filename.endswith((".h5ad", ".h5ad.gz")):
            return "its columns are those of no known collection"
        known = (why for ends, why in _NOT_CELLS.items() if self.filename.endswith(ends))
        return next(known, "it is no file of cells")

    @property
    def known_hash(self) -> str | None:
        """Return the published hash as ``algorithm:digits``, the stronger one; None without any."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return f"md5:{self.md5}" if self.md5 else None


@cache
def registry() -> dict[str, RemoteFile]:
    """Return {name: file} of the registry that is part of the package.

    Raises
    ------
    ConfigError
        If a row is malformed.
    """
    text = files("perturbfm_core.data.downloads").joinpath("registry.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {row["name"]: parse(RemoteFile, dict(row), f"download {row['name']}") for row in rows}


def remote_file(name: str) -> RemoteFile:
    """Return a file of the registry.

    Raises
    ------
    DownloadError
        If there is none of that name, with those that are close.
    """
    known = registry()
    if name in known:
        return known[name]
    word = name.rpartition("/")[2].lower()
    close = [n for n in known if word in n.lower()] or [
        n for n in known if any(part and part in n.lower() for part in re.split(r"[^a-z0-9]+", word))
    ]
    shown = ", ".join(close[:_SHOWN]) + (", ..." if len(close) > _SHOWN else "")
    msg = f"no public file is called {name!r}; " + (
        f"close: {shown}" if close else "see `perturbfm data download list`"
    )
    raise DownloadError(msg)
