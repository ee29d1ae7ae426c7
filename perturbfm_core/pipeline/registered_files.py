"""Files behind the catalog's graphs and gene features: found, compared with their hash, and named with a remedy if damaged."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from perturbfm_core.catalog.entries import FeaturesEntry, GraphEntry, Origin
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.sources.conversion import MAIN, NAMES, ONTOLOGY, Options
from perturbfm_core.graphs.sources.identifiers import ENSEMBL
from perturbfm_core.graphs.sources.known import OWN
from perturbfm_core.store.artifacts import ArtifactStore

Entry = GraphEntry | FeaturesEntry
_Item = TypeVar("_Item", GeneGraph, GeneFeatures)
_ROLES = {MAIN: "--from", NAMES: "--names", ONTOLOGY: "--ontology"}


def artifact_of(store: ArtifactStore, entry: Entry) -> Path:
    """Return the file of an entry of the catalog.

    Raises
    ------
    GraphError
        If there is none.
    """
    path = store.home / entry.path
    if not path.is_file():
        msg = f"{called(entry)} is in the catalog, but {path} does not exist; {remedy(entry)}"
        raise GraphError(msg)
    return path


def check_content(entry: Entry, found: str) -> None:
    """Compare the hash of what a file holds with that of its entry.

    Raises
    ------
    GraphError
        If it is another one.
    """
    if entry.sha256 != found:
        msg = (
            f"{called(entry)}: {entry.path} has content {found[:12]}, the catalog states {entry.sha256[:12]}; "
            f"{remedy(entry)}"
        )
        raise GraphError(msg)


def whole(entry: Entry, read: Callable[[Path, str], _Item], path: Path) -> _Item:
    """Return what the file of an entry holds.

    Parameters
    ----------
    entry
        The entry.
    read
        Reads a file, given its path and the name of the entry.
    path
        The file.

    Raises
    ------
    GraphError
        If it cannot be read; the message names the entry and a remedy.
    """
    try:
        return read(path, entry.name)
    except GraphError as error:
        what = str(error).removesuffix("; make it again")
        msg = f"{called(entry)}: {what}; {remedy(entry)}"
        raise GraphError(msg) from error


def called(entry: Entry) -> str:
    """Return what an entry is called in messages."""
    kind = "graph" if isinstance(entry, GraphEntry) else "table of gene features"
    return f"{kind if entry.origin is None else 'registered source'} {entry.name!r}"


def remedy(entry: Entry) -> str:
    """Return by which commands a damaged or missing file is made again or forgotten."""
    if entry.origin is None:
        verb = "build" if isinstance(entry, GraphEntry) else "features"
        return f"build or register it again (`perturbfm graphs {verb} ... --name {entry.name} --force`)"
    line = " ".join(shlex.quote(word) for word in _words(entry, entry.origin))
    return f"make it again by `perturbfm knowledge add {line}`, or forget it by `perturbfm knowledge remove {entry.name}`"


def _words(entry: Entry, origin: Origin) -> list[str]:
    """Return the command line by which a source was registered."""
    words = [origin.source]
    for file in origin.files:
        words += [_ROLES[file.role], file.place] if file.role in _ROLES else []
    words += ["--name", entry.name]
    plain = Options()
    words += ["--organism", origin.organism] if origin.organism != plain.organism else []
    words += ["--ids", "ensembl"] if origin.identifiers == ENSEMBL else []
    for name, value in origin.options.items():
        if name == "directed":
            words.append("--directed" if value else "--undirected")
        elif value != getattr(plain, name, value):
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    words += ["--licence", entry.licence] if origin.source == OWN and entry.licence != "unknown" else []
    return [*words, "--force"]
