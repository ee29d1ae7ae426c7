"""Data sets as people name them: a folder, a name, or the beginning of a content hash."""

from __future__ import annotations

import difflib
from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import DatasetError
from perturbfm_core.pipeline.dataset import ensure_dataset, metadata_of
from perturbfm_core.splits.folder import MIN_PREFIX
from perturbfm_core.store.artifacts import ArtifactStore

_HEX = set("0123456789abcdef")


def dataset_place(store: ArtifactStore, given: str | Path) -> Path:
    """Return the directory of a data set artifact; one of the catalog is simulated on first use.

    Parameters
    ----------
    store
        Where artifacts lie.
    given
        A directory; a name of the catalog or below ``data/``; or the first 7 or more characters of the content hash.

    Raises
    ------
    DatasetError
        If nothing is called that, or several contents begin so.
    """
    path, name = Path(given), str(given)
    if (path / schema.META_FILE).is_file():
        return path
    entry = load_catalog().datasets.get(name)
    if entry is not None:
        return ensure_dataset(store, entry)
    known = _known(store)
    own = store.dataset(name) if _is_word(name) else None
    if own is not None and (own / schema.META_FILE).is_file():
        return own
    by_name = [p for p in known if p.name == name or metadata_of(p).get("name") == name]
    if by_name:
        return by_name[0]
    if len(name) >= MIN_PREFIX and set(name) <= _HEX:
        contents = {p: str(metadata_of(p).get("content_sha256", "")) for p in known}
        found = {sha: p for p, sha in reversed(contents.items()) if sha.startswith(name)}
        if len(found) > 1:
            msg = f"data set id {name!r} is the beginning of {len(found)} contents; give more characters"
            raise DatasetError(msg)
        if found:
            return next(iter(found.values()))
    if path.exists() or not _is_word(name):
        # What is wrong with it is said by whoever opens it.
        return path
    names = sorted({*load_catalog().datasets, *(p.name for p in known)})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    msg = f"no data set {name!r}{hint}: it is no directory of a data set artifact; known names: {', '.join(names)}"
    raise DatasetError(msg)


def _known(store: ArtifactStore) -> list[Path]:
    """Return the artifacts of the store and those that the catalog names, that are there."""
    places = [store.home / e.path for e in load_catalog().datasets.values() if e.path]
    return [p for p in [*store.datasets(), *places] if (p / schema.META_FILE).is_file()]


def _is_word(name: str) -> bool:
    """Return whether a text may be a name: no path, and nothing that leaves a folder."""
    return bool(name) and Path(name).name == name and name not in (".", "..")
