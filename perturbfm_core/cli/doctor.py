"""``perturbfm doctor``: whether this installation and this folder are fit for work."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import typer

from perturbfm_core import __version__
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.folders import missing_folders
from perturbfm_core.cli.output import JsonOption, emit, store
from perturbfm_core.errors import EXTRAS, PerturbFMError
from perturbfm_core.registry.members import plugin_digests
from perturbfm_core.store.disk import amount, existing_part
from perturbfm_core.store.machine import git_commit, library_versions, max_train, threads

if TYPE_CHECKING:
    from perturbfm_core.external.environments import EnvironmentState
    from perturbfm_core.store.artifacts import ArtifactStore


def doctor(as_json: JsonOption = False) -> None:
    """Check the installation, the folders and the catalog; exit 2 if anything is wrong."""
    from perturbfm_core.external.environments import all_states
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    counts, problems = _catalog()
    problems += [*_damaged_sources(home), *missing_folders()]
    try:
        max_train()
    except PerturbFMError as error:
        problems.append(str(error))
    for name, path in (("home", home.home), ("split folder", home.split_dir)):
        if not os.access(existing_part(path), os.W_OK):
            problems.append(f"{name} {path} is not writable")
    problems += _web_server()
    try:
        n_splits: Any = len(SplitFolder(home.split_dir).index().splits)
    except PerturbFMError as error:
        n_splits = None
        problems.append(str(error))
    emit(
        {
            "perturbfm": __version__,
            "python": sys.version.split()[0],
            "git_commit": git_commit(),
            "home": str(home.home.resolve()),
            "split_dir": str(home.split_dir.resolve()),
            "free_gb": round(shutil.disk_usage(home.home if home.home.exists() else ".").free / 1e9, 1),
            "cpus": os.cpu_count(),
            "threads": threads(),
            "datasets_at_hand": [p.name for p in home.datasets()],
            "splits": n_splits,
            "complete_runs": len(home.run_dirs()),
            "catalog": counts,
            "knowledge": _sources(),
            "plugins": plugin_digests(),
            "libraries": library_versions(),
            "extras": {name: _has(packages) for name, packages in EXTRAS.items()},
            "environments": {found.known.name: _environment(found) for found in all_states(home)},
            "problems": problems,
        },
        as_json,
    )
    if problems:
        raise typer.Exit(2)


def _catalog() -> tuple[dict[str, int], list[str]]:
    """Return how many entries of each kind the catalog has, and what is wrong with it."""
    from perturbfm_core.models.base import MODELS

    try:
        catalog = load_catalog()
    except PerturbFMError as error:
        return {}, [str(error)]
    counts = {
        "datasets": len(catalog.datasets),
        "models": len(catalog.models),
        "suites": len(catalog.suites),
        "graphs": len(catalog.graphs),
        "features": len(catalog.features),
    }
    unknown = [e for e in catalog.models.values() if e.model not in MODELS]
    return counts, [f"entry {e.name!r} names the unknown model {e.model!r}" for e in unknown]


def _web_server() -> list[str]:
    """Return what is wrong with Dagster's web server, if Dagster is installed."""
    dagster, server = _version("dagster"), _version("dagster-webserver")
    if dagster is None or server == dagster:
        return []
    if server is None:
        return ["dagster-webserver is not installed; pip install 'perturbfm[dagster]'"]
    return [f"dagster-webserver {server} does not fit dagster {dagster}; pin them equal"]


def _version(package: str) -> str | None:
    """Return the version of an installed package, None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _sources() -> dict[str, str]:
    """Return {name: source, version, organism and kinds} of every registered public source."""
    from perturbfm_core.pipeline.source_catalog import all_registered

    try:
        entries = [(e, e.origin) for e in all_registered() if e.origin is not None]
    except PerturbFMError:
        # A damaged catalog is among the problems.
        return {}
    out: dict[str, str] = {}
    for entry, origin in entries:
        what = f"{type(entry).__name__.removesuffix('Entry').lower()} {entry.sha256[:12]}"
        before = (
            f"{out[entry.name]}, "
            if entry.name in out
            else f"{origin.title} {origin.version}, {origin.organism}: "
        )
        out[entry.name] = before + what
    return out


def _damaged_sources(home: ArtifactStore) -> list[str]:
    """Return what is wrong with the files of the catalog's graphs and gene features, each in one line.

    Small files are read and compared with the hashes of the catalog; of large ones the directory of the archive is read.
    """
    from perturbfm_core.catalog.entries import FeaturesEntry, GraphEntry
    from perturbfm_core.pipeline.gene_graph import file_problem

    try:
        catalog = load_catalog()
    except PerturbFMError:
        # A damaged catalog is among the problems.
        return []
    entries: list[GraphEntry | FeaturesEntry] = [*catalog.graphs.values(), *catalog.features.values()]
    return [said for e in entries if (said := file_problem(home, e)) is not None]


def _environment(found: EnvironmentState) -> str:
    """Return state, size, licence and Python of the environment of an external model in one line."""
    known = found.known
    licence = known.licence + (", no commercial use" if known.non_commercial else "")
    state = f"{found.state} ({found.why})" if found.why else found.state
    return f"{state}; {amount(found.size)}; {licence}; Python {known.python}"


def _has(packages: tuple[str, ...]) -> bool:
    """Return whether the packages of an extra are installed."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in packages)
    except ModuleNotFoundError:
        return False


COMMANDS = {"doctor": (doctor, None)}
