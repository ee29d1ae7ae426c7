"""Loading of the catalog from YAML files.

The folder shipped with the package is read first, then the user's own (``PERTURBFM_CATALOG``, default
``<home>/.perturbfm/catalog``). A name that occurs twice is an error.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import yaml

from perturbfm_core.catalog.entries import DatasetEntry, FeaturesEntry, GraphEntry, ModelEntry, SuiteEntry
from perturbfm_core.config import Frozen, check_key, load_yaml, parse
from perturbfm_core.errors import ConfigError

E = TypeVar("E", DatasetEntry, ModelEntry, SuiteEntry, GraphEntry, FeaturesEntry)


@dataclass(frozen=True)
class Catalog:
    """All catalog entries by name.

    Attributes
    ----------
    datasets, models, suites, graphs, features
        Entries by name, in order of file name.
    """

    datasets: dict[str, DatasetEntry]
    models: dict[str, ModelEntry]
    suites: dict[str, SuiteEntry]
    graphs: dict[str, GraphEntry] = field(default_factory=dict)
    features: dict[str, FeaturesEntry] = field(default_factory=dict)

    def dataset(self, name: str) -> DatasetEntry:
        """Return the data set called `name`; an unknown name raises `ConfigError`."""
        return _find(self.datasets, name, "data set")

    def model(self, name: str) -> ModelEntry:
        """Return the model entry called `name`; an unknown name raises `ConfigError`."""
        return _find(self.models, name, "entry")

    def suite(self, name: str) -> SuiteEntry:
        """Return the suite called `name`; an unknown name raises `ConfigError`."""
        return _find(self.suites, name, "suite")

    def graph(self, name: str) -> GraphEntry:
        """Return the gene graph called `name`; an unknown name raises `ConfigError`."""
        return _find(self.graphs, name, "gene graph")

    def feature_table(self, name: str) -> FeaturesEntry:
        """Return the table of gene features called `name`; an unknown name raises `ConfigError`."""
        return _find(self.features, name, "table of gene features")


def _find(items: dict[str, E], name: str, what: str) -> E:
    try:
        return items[name]
    except KeyError:
        msg = f"unknown {what} {name!r}; known: {', '.join(items) or 'none'}"
        raise ConfigError(msg) from None


def packaged_folder() -> Path | None:
    """Return the catalog folder of ``perturbfm_assets``, found without importing it; None if missing."""
    spec = importlib.util.find_spec("perturbfm_assets")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "catalog"
    return folder if folder.is_dir() else None


def user_folder() -> Path:
    """Return the user's own catalog folder, which need not exist."""
    if named := os.environ.get("PERTURBFM_CATALOG"):
        return Path(named)
    return Path(os.environ.get("PERTURBFM_HOME", ".")) / ".perturbfm" / "catalog"


def suite_file(name: str) -> Path:
    """Return the file of a suite of the catalog."""
    own = user_folder() / "suites" / f"{name}.yaml"
    packaged = packaged_folder()
    return own if packaged is None or own.exists() else packaged / "suites" / own.name


def load_catalog(folders: Iterable[Path] | None = None) -> Catalog:
    """Read every YAML file of the catalog folders.

    Raises
    ------
    ConfigError
        If a file is invalid, its name is not that of its entry, or a name occurs twice.
    """
    if folders is None:
        folders = [f for f in (packaged_folder(), user_folder()) if f is not None]
    files = tuple(
        (kind, path, path.stat().st_mtime_ns)
        for folder in folders
        for kind in ("datasets", "models", "suites", "graphs", "features")
        for path in sorted((folder / kind).glob("*.yaml"))
    )
    return _load(files)


@lru_cache(maxsize=8)
def _load(files: tuple[tuple[str, Path, int], ...]) -> Catalog:
    catalog = Catalog({}, {}, {})
    for kind, path, _ in files:
        if kind == "datasets":
            _add(catalog.datasets, DatasetEntry, path)
        elif kind == "models":
            _add(catalog.models, ModelEntry, path)
        elif kind == "suites":
            _add(catalog.suites, SuiteEntry, path)
        elif kind == "graphs":
            _add(catalog.graphs, GraphEntry, path)
        else:
            _add(catalog.features, FeaturesEntry, path)
    return catalog


def _add(items: dict[str, E], kind: type[E], path: Path) -> None:
    entry = parse(kind, load_yaml(path), str(path))
    check_key(entry.name, f"name in {path}:")
    if entry.name != path.stem:
        msg = f"{path} names itself {entry.name!r}; file name and name must agree"
        raise ConfigError(msg)
    if entry.name in items:
        msg = f"{path} repeats the name {entry.name!r}, which the catalog already has; rename one"
        raise ConfigError(msg)
    items[entry.name] = entry


def to_yaml(entry: Frozen) -> str:
    """Return a catalog entry as YAML text, with fields in declared order and without defaults."""
    text: str = yaml.safe_dump(
        entry.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )
    return text
