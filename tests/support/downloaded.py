"""One small public file on a host of this machine, and what a download leaves, for tests of downloads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.downloads.fetching import Fetched, fetch
from perturbfm_core.data.downloads.registry import RemoteFile
from tests.support.http_host import Host

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
NAME = "lab/screen"


def entry_of(host: Host, **fields: Any) -> RemoteFile:
    known: dict[str, Any] = {"sha256": SHA256, "size": len(CONTENT)}
    return RemoteFile(
        **{"name": NAME, "url": f"{host.url}/screen.h5ad", "filename": "screen.h5ad", **known, **fields}
    )


def got(host: Host, folder: Path, **fields: Any) -> Fetched:
    return fetch(entry_of(host, **fields), folder, wait=0.001)


def left(folder: Path) -> list[str]:
    """Return the files of a folder of downloads but for its locks."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts
    )


HASHES: list[dict[str, Any]] = [{}, {"sha256": "", "md5": MD5}, {"sha256": "", "size": None}]
