"""Where data sets are found, made on first use, opened once, and registered."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.catalog import Catalog, load_catalog, to_yaml, user_folder
from perturbfm_core.config import DatasetEntry, check_key, parse
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import ConfigError, DatasetError
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store import ArtifactStore, read_json, write_atomic

Progress = Callable[[str], None]


def quiet(_: str) -> None:
    """Ignore progress."""


def catalog_file(name: str) -> Path:
    """Return the file that registers a data set called `name`, or raise if the name is unfit or taken."""
    check_key(name, "data set name")
    target = user_folder() / "datasets" / f"{name}.yaml"
    if name in load_catalog().datasets and not target.exists():
        msg = f"the catalog already has a data set {name!r}; give another --name"
        raise ConfigError(msg)
    return target


def register_dataset(store: ArtifactStore, name: str, path: Path, description: str) -> Path:
    """Write a catalog entry for a data set artifact and return the file."""
    target = catalog_file(name)
    entry = DatasetEntry(
        name=name,
        description=description,
        source="artifact",
        path=str(path.resolve()),
        content_sha256=_metadata(path)["content_sha256"],
    )
    write_atomic(target, to_yaml(entry))
    return target


def open_dataset(path: Path | str) -> PerturbDataset:
    """Open a data set artifact; the same unchanged one is opened once per process."""
    path = Path(path)
    meta = path / schema.META_FILE
    stamp = meta.stat().st_mtime_ns if meta.is_file() else 0
    return _open(path.resolve() if meta.is_file() else path, stamp)


@lru_cache(maxsize=4)
def _open(path: Path, _stamp: int) -> PerturbDataset:
    return load_dataset(path)


def ensure_dataset(store: ArtifactStore, entry: DatasetEntry, progress: Progress = quiet) -> Path:
    """Return the artifact of a catalog data set, simulating it on first use.

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
        with store.lock(f"dataset-{entry.name}"):
            if not (path / schema.META_FILE).is_file():
                progress(f"simulating {entry.name}")
                config = parse(
                    SimulationConfig, {**entry.synth, "name": entry.name}, f"synth of {entry.name!r}"
                )
                ds, truth = simulate(config)
                _check_content(entry, ds.computed_sha256)
                write_dataset(ds, path, entry.storage, truth=truth.arrays())
    _check_content(entry, str(_metadata(path)["content_sha256"]))
    return path


def _check_content(entry: DatasetEntry, found: str) -> None:
    if entry.content_sha256 and found != entry.content_sha256:
        msg = (
            f"data set {entry.name!r} has content {found[:12]}, the catalog states {entry.content_sha256[:12]}; "
            "its splits and results do not hold for it"
        )
        raise DatasetError(msg)


def _metadata(path: Path) -> dict[str, Any]:
    meta: dict[str, Any] = read_json(path / schema.META_FILE, DatasetError)["metadata"]
    return meta


def find_dataset(store: ArtifactStore, frozen: FrozenSplit, catalog: Catalog | None = None) -> Path | None:
    """Return the artifact with a split's content: from the catalog or under ``data/``, else None."""
    catalog = catalog or load_catalog()
    wanted = frozen.split.dataset.content_sha256
    entry = catalog.datasets.get(frozen.split.dataset.name)
    places = [store.home / e.path for e in catalog.datasets.values() if e.path]
    for path in [store.dataset(frozen.split.dataset.name), *places, *store.datasets()]:
        if (path / schema.META_FILE).is_file() and _metadata(path).get("content_sha256") == wanted:
            return path
    if entry is not None and entry.source == "synth" and entry.content_sha256 == wanted:
        return ensure_dataset(store, entry)
    return None


def dataset_of(store: ArtifactStore, frozen: FrozenSplit, path: Path | None = None) -> PerturbDataset:
    """Open the data set of a split, at `path` or wherever the store has it.

    Raises
    ------
    DatasetError
        If it is not at hand.
    """
    found = path or find_dataset(store, frozen)
    if found is None:
        ref = frozen.split.dataset
        msg = f"data set {ref.name!r} ({ref.content_sha256[:12]}) of split {frozen.hash[:12]} is not at hand; give --data DIR"
        raise DatasetError(msg)
    return open_dataset(found)
