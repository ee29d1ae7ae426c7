"""Stage `dataset`: data set artifacts imported, made on first use, found by content, opened once, registered."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.catalog import registering
from perturbfm_core.catalog.entries import DatasetEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import check_key, parse
from perturbfm_core.data.artifact import Storage, load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import DatasetError
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json

_Stamp = tuple[tuple[str, int, int, int], ...]


def import_dataset(
    store: ArtifactStore,
    ds: PerturbDataset,
    path: Path | None = None,
    *,
    storage: Storage = "zarr",
    truth: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a data set's artifact (default ``data/<name>``) and return its directory.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    path
        Directory to make (default ``data/<name>``).
    storage
        ``zarr`` or ``npz``.
    truth
        Arrays of a simulation's truth, stored beside it.
    overwrite
        Whether an existing artifact is replaced.
    """
    path = path or store.dataset(check_key(ds.name, "data set name"))
    write_dataset(ds, path, storage, truth=truth, overwrite=overwrite)
    return path


def register_dataset(name: str, path: Path, description: str) -> Path:
    """Write the catalog entry of a data set artifact and return the file.

    Parameters
    ----------
    name
        Name of the entry.
    path
        Directory of the artifact.
    description
        What the data are.
    """
    return registering.register(
        DatasetEntry(
            name=name,
            description=description,
            source="artifact",
            path=str(path.resolve()),
            content_sha256=metadata_of(path)["content_sha256"],
        )
    )


def open_dataset(path: Path | str) -> PerturbDataset:
    """Open a data set artifact; the same unchanged one is opened once per process."""
    path = Path(path)
    return _open(path.resolve() if (path / schema.META_FILE).is_file() else path, _stamp(path))


@lru_cache(maxsize=4)
def _open(path: Path, _stamp: _Stamp) -> PerturbDataset:
    return load_dataset(path)


def _stamp(path: Path) -> _Stamp:
    """Return (file, size, time of change, inode) of the files that an artifact is opened from."""
    files = [path / name for name in (schema.META_FILE, schema.NPZ_FILE, schema.COUNTS_FILE)]
    files += [Path(root) / name for root, _, names in os.walk(path / schema.ZARR_FILE) for name in names]
    out = []
    for file in sorted(files):
        # One of the storages has it, or it is being replaced.
        with suppress(FileNotFoundError, NotADirectoryError):
            found = file.stat()
            out.append((str(file), found.st_size, found.st_mtime_ns, found.st_ino))
    return tuple(out)


def ensure_dataset(store: ArtifactStore, entry: DatasetEntry, progress: Progress = quiet) -> Path:
    """Return the artifact of a catalog data set, simulating it on first use.

    Parameters
    ----------
    store
        Where artifacts lie.
    entry
        The catalog entry.
    progress
        Called with a line of text about progress.

    Raises
    ------
    DatasetError
        If an artifact is missing, or its content is not what the catalog states.
    """
    path = store.dataset(entry.name) if entry.path is None else store.home / entry.path
    if not (path / schema.META_FILE).is_file():
        if entry.source != "synth":
            msg = f"data set {entry.name!r} is not at {path}; import it with `perturbfm data import`"
            raise DatasetError(msg)
        with store.lock(f"dataset-{entry.name}", tell=progress):
            if not (path / schema.META_FILE).is_file():
                progress(f"simulating {entry.name}")
                config = parse(
                    SimulationConfig, {**entry.synth, "name": entry.name}, f"synth of {entry.name!r}"
                )
                ds, truth = simulate(config)
                _check_content(entry, ds.computed_sha256)
                write_dataset(ds, path, entry.storage, truth=truth.arrays())
    _check_content(entry, str(metadata_of(path)["content_sha256"]))
    return path


def _check_content(entry: DatasetEntry, found: str) -> None:
    if entry.content_sha256 and found != entry.content_sha256:
        msg = (
            f"data set {entry.name!r} has content {found[:12]}, the catalog states {entry.content_sha256[:12]}; "
            "its splits and results do not hold for it"
        )
        raise DatasetError(msg)


def metadata_of(path: Path) -> dict[str, Any]:
    """Return the metadata of a data set artifact without reading its expression."""
    meta: dict[str, Any] = read_json(path / schema.META_FILE, DatasetError)["metadata"]
    return meta


def find_dataset(store: ArtifactStore, split: FrozenSplit) -> Path | None:
    """Return the artifact with a split's content: from the catalog or under ``data/``, else None."""
    catalog = load_catalog()
    wanted = split.definition.dataset.content_sha256
    entry = catalog.datasets.get(split.definition.dataset.name)
    places = [store.home / e.path for e in catalog.datasets.values() if e.path]
    for path in [store.dataset(split.definition.dataset.name), *places, *store.datasets()]:
        if (path / schema.META_FILE).is_file() and metadata_of(path).get("content_sha256") == wanted:
            return path
    if entry is not None and entry.source == "synth" and entry.content_sha256 == wanted:
        return ensure_dataset(store, entry)
    return None


def dataset_of(store: ArtifactStore, split: FrozenSplit, path: Path | None = None) -> PerturbDataset:
    """Open the data set of a split, at `path` or wherever the store has it.

    Parameters
    ----------
    store
        Where artifacts lie.
    split
        The split.
    path
        Directory of the artifact (default: looked for, or made of the name).

    Raises
    ------
    DatasetError
        If it is not at hand.
    """
    found = path or find_dataset(store, split)
    if found is None:
        ref = split.definition.dataset
        msg = f"data set {ref.name!r} ({ref.content_sha256[:12]}) of split {split.hash[:12]} is not at hand; give --data DIR"
        raise DatasetError(msg)
    return open_dataset(found)
