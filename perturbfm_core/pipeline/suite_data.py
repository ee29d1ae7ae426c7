"""Data sets of a suite: simulated or found by the catalog, or imported once from files of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SuiteEntry, SuiteFile, SuiteSplits
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.errors import ConfigError
from perturbfm_core.pipeline.dataset import ensure_dataset, import_dataset, open_dataset, register_dataset
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore


def is_at_hand(store: ArtifactStore, group: SuiteSplits) -> bool:
    """Return whether the data set of a group was made or imported before."""
    entry = load_catalog().datasets.get(group.dataset)
    if entry is None and group.file is not None:
        return (store.dataset(group.dataset) / schema.META_FILE).is_file()
    entry = load_catalog().dataset(group.dataset)
    path = store.dataset(entry.name) if entry.path is None else store.home / entry.path
    return (path / schema.META_FILE).is_file()


def require_files(store: ArtifactStore, suite: SuiteEntry, names: list[str], folder: Path | None) -> None:
    """Refuse a suite whose own files are not there, before anything is made.

    Parameters
    ----------
    store
        Where data sets lie; one that was imported before needs no file.
    suite
        The suite.
    names
        Data sets that are asked for.
    folder
        The folder of the files, None if none was given.

    Raises
    ------
    ConfigError
        With the files that the suite expects.
    """
    wanted = {
        group.dataset: group.file
        for group in suite.grid
        if group.file is not None and group.dataset in names and not is_at_hand(store, group)
    }
    if not wanted:
        return
    expects = "; ".join(f"{file.name} ({file.about})" for file in wanted.values())
    if folder is None:
        msg = f"suite {suite.name!r} reads files of your own; give --data-dir FOLDER with {expects}"
        raise ConfigError(msg)
    if not folder.is_dir():
        msg = f"--data-dir {folder} is no folder; suite {suite.name!r} expects one with {expects}"
        raise ConfigError(msg)
    lacking = {name: file for name, file in wanted.items() if not (folder / file.name).is_file()}
    if lacking:
        files = "; ".join(f"{file.name} ({file.about})" for file in lacking.values())
        others = [f"--only dataset={name}" for name in names if name not in lacking]
        msg = f"--data-dir {folder} lacks {files}; add {'it' if len(lacking) == 1 else 'them'}"
        raise ConfigError(msg + (f", or leave out what is missing: {' '.join(others)}" if others else ""))


def suite_dataset(
    store: ArtifactStore, group: SuiteSplits, folder: Path | None = None, tell: Progress = quiet
) -> PerturbDataset:
    """Return the data set of a group, made or imported if it is not there yet.

    Parameters
    ----------
    store
        Where data sets lie.
    group
        Data set and splits of a suite.
    folder
        Folder of the user's own files.
    tell
        Called with a line of text about progress.

    Raises
    ------
    ConfigError
        If the file of the group is needed and not there.
    DatasetError
        If it cannot be imported, or a data set of the catalog is missing.
    """
    if group.file is None or group.dataset in load_catalog().datasets:
        return open_dataset(ensure_dataset(store, load_catalog().dataset(group.dataset), tell))
    path = store.dataset(group.dataset)
    if not (path / schema.META_FILE).is_file():
        _import(store, group.dataset, group.file, folder, tell)
    return open_dataset(path)


def _import(store: ArtifactStore, name: str, file: SuiteFile, folder: Path | None, tell: Progress) -> None:
    source = None if folder is None else folder / file.name
    if source is None or not source.is_file():
        msg = f"data set {name!r} is made of {file.name} ({file.about}), which is not there; give its folder with --data-dir"
        raise ConfigError(msg)
    with store.lock(f"dataset-{name}", tell=tell):
        path = store.dataset(name)
        if (path / schema.META_FILE).is_file():
            return
        tell(f"importing {file.name}")
        columns: dict[str, Any] = file.mapping
        mapping = parse(ColumnMapping, columns, f"mapping of {file.name}")
        import_dataset(store, import_h5ad(source, mapping, name=name))
        # As `data import --register` does: the data set is then one of the catalog, and of the Dagster grid.
        register_dataset(name, path, file.about)
