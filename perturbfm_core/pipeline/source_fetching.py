"""Files of a public source: those that are given, else those of the registry, fetched and hashed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from perturbfm_core.catalog.entries import SourceFile
from perturbfm_core.config import parse, slug
from perturbfm_core.data.downloads.registry import RemoteFile, remote_file
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.conversion import MAIN, NAMES, ONTOLOGY, Options
from perturbfm_core.graphs.sources.known import OWN, KnownSource
from perturbfm_core.progress import Progress
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import file_digest

_DEFAULT_ORGANISM = "human"


@dataclass(frozen=True)
class Request:
    """A source to register.

    Attributes
    ----------
    source
        The source.
    options
        How its files are converted.
    name
        Name of graph and features, None for that of the source.
    places
        {role: path or web address} of files that are given; others are those of the registry.
    sha256
        Hash that the main file must have, "" if unknown.
    version, licence
        Of a file that is given, None where it is not said.
    force, repin
        Replace what is registered under the name; accept that a file without a published hash has changed.
    """

    source: KnownSource
    options: Options = field(default_factory=Options)
    name: str | None = None
    places: dict[str, str] = field(default_factory=dict)
    sha256: str = ""
    version: str | None = None
    licence: str | None = None
    force: bool = False
    repin: bool = False

    @property
    def entry_name(self) -> str:
        """Return the name of graph and features in the catalog."""
        if self.name is not None:
            return self.name
        stem = self.source.name
        if stem == OWN:
            stem = slug(PurePosixPath(urlsplit(self.places[MAIN]).path).name.partition(".")[0])
        return stem if self.options.organism == _DEFAULT_ORGANISM else f"{stem}-{self.options.organism}"


def fetch_files(
    store: ArtifactStore, request: Request, tell: Progress
) -> tuple[dict[str, Path], list[SourceFile]]:
    """Return ({role: file}, what is recorded of each), the main file first.

    Parameters
    ----------
    store
        Where artifacts lie.
    request
        What is registered.
    tell
        Called with a line of text about progress.

    Raises
    ------
    GraphError
        If a file that is given is none, or has another hash.
    DownloadError
        If a file cannot be fetched, or is not the one that is known.
    """
    files: dict[str, Path] = {}
    records: list[SourceFile] = []
    # Of a file that is given, the others are given as well: versions must fit.
    if MAIN in request.places:
        wanted = dict(request.places)
    else:
        wanted = {
            **request.source.files_of(request.options.organism, request.options.ids),
            **request.places,
        }
    for role in sorted(wanted, key=(MAIN, NAMES, ONTOLOGY).index):
        known = request.sha256 if role == MAIN else ""
        place = wanted[role]
        if role in request.places and not is_web(place):
            path = Path(place)
            if not path.is_file():
                msg = f"{path} is not a file; give the path or address of a file of {request.source.title}"
                raise GraphError(msg)
            digest = file_digest(path)
            if known and digest != known.lower():
                msg = f"{path} has the SHA-256 {digest[:12]}..., --sha256 says {known[:12]}...; it is another file"
                raise GraphError(msg)
            records.append(
                SourceFile(role=role, place=str(path.resolve()), sha256=digest, size=path.stat().st_size)
            )
        else:
            from perturbfm_core.data.downloads.fetching import fetch

            entry = (
                _of_address(request.source.name, place, known)
                if role in request.places
                else remote_file(place)
            )
            # An address that is given is the place, whatever mirror there is.
            got = fetch(
                entry,
                store.downloads,
                repin=request.repin,
                mirrored=role not in request.places,
                tell=tell,
            )
            path = got.path
            records.append(SourceFile(role=role, place=entry.url, sha256=got.sha256, size=got.size))
        files[role] = path
    return files, records


def is_web(place: str) -> bool:
    """Return whether a place is an address of the web."""
    return urlsplit(place).scheme in ("http", "https")


def _of_address(source: str, url: str, sha256: str) -> RemoteFile:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", PurePosixPath(urlsplit(url).path).name).lstrip(".") or "file"
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    given = {"name": f"{source}/{key}", "url": url, "filename": name, "sha256": sha256.lower()}
    return parse(RemoteFile, given, "--sha256")
