"""Entries of public sources in the user's catalog: what is registered, and its removal."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.catalog.entries import FeaturesEntry, GraphEntry
from perturbfm_core.catalog.loading import load_catalog, user_folder
from perturbfm_core.errors import GraphError
from perturbfm_core.store.artifacts import ArtifactStore

Registered = GraphEntry | FeaturesEntry
_FOLDERS: dict[str, type[Registered]] = {"graphs": GraphEntry, "features": FeaturesEntry}


def all_registered() -> list[Registered]:
    """Return the entries of the catalog that are of public sources, graphs first."""
    catalog = load_catalog()
    every: list[Registered] = [*catalog.graphs.values(), *catalog.features.values()]
    return [e for e in every if e.origin is not None]


def registered(name: str) -> list[Registered]:
    """Return the entries of a registered source, of its graph and of its features; none if there is no such name."""
    return [e for e in all_registered() if e.name == name]


def remove_source(store: ArtifactStore, name: str) -> list[Path]:
    """Remove graph and features of a registered source, and return the files; fetched files stay.

    Parameters
    ----------
    store
        Where artifacts lie.
    name
        Name in the catalog.

    Raises
    ------
    GraphError
        If no source is registered under the name.
    """
    entries = registered(name)
    if not entries:
        known = sorted({e.name for e in all_registered()})
        msg = f"no source is registered as {name!r}; registered: {', '.join(known) or 'none'}"
        raise GraphError(msg)
    removed = [entry_file(entry) for entry in entries]
    for file in removed:
        file.unlink(missing_ok=True)
    return [*removed, *sweep(store, entries)]


def entry_file(entry: Registered) -> Path:
    """Return the file of an entry in the user's catalog."""
    folder = next(name for name, kind in _FOLDERS.items() if isinstance(entry, kind))
    return user_folder() / folder / f"{entry.name}.yaml"


def sweep(store: ArtifactStore, entries: list[Registered]) -> list[Path]:
    """Remove the files of entries that are gone, where they lie in the store and no other entry names them."""
    named = {Path(e.path) for e in all_registered()}
    own = (store.data / "graphs").resolve(), (store.data / "features").resolve()
    paths = [Path(e.path) for e in entries if Path(e.path) not in named and Path(e.path).parent in own]
    gone = [p for p in paths if p.is_file()]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
