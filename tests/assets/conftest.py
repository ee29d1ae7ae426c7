"""The code location over a private copy of the repository's splits, with the demo data made there."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.asset_runs import cell
from tests.support.paths import REPO

_DEMO = yaml.safe_load((REPO / "perturbfm_assets/catalog/suites/demo.yaml").read_text())["grid"][0]
SUITE = {
    "name": "small",
    "description": "One unseen context and two entries of the demo.",
    "grid": [{**_DEMO, "splits": [s for s in _DEMO["splits"] if s["kind"] == "context_ood"]}],
    "models": ["control_only", "global_mean"],
    "refresh_cron": "30 5 * * 1",
}


@dataclass(frozen=True)
class Location:
    """A folder that Dagster can be started in, and the environment that points at it."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that a process on this folder needs."""
        return {
            "PERTURBFM_HOME": str(self.path),
            "PERTURBFM_SPLIT_DIR": str(self.path / "splits"),
            "PERTURBFM_CATALOG": str(self.path / "catalog"),
        }

    def module(self, name: str) -> Any:
        """Return a module of the code location, loaded for this folder."""
        return importlib.import_module(f"perturbfm_assets.{name}")


def copy_location(path: Path) -> Location:
    """Fill `path` with what a checkout has, and a suite of the user's own."""
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPO / name, path / name)
    shutil.copytree(REPO / "splits", path / "splits")
    (path / "catalog/suites").mkdir(parents=True)
    (path / "catalog/suites/small.yaml").write_text(yaml.safe_dump(SUITE))
    return Location(path)


def forget() -> None:
    """Forget the code location, whose partitions are read when it is imported."""
    for name in [n for n in sys.modules if n.split(".")[0] == "perturbfm_assets"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the demo data set once and return its artifact."""
    from perturbfm_core.catalog.loading import load_catalog, packaged_folder
    from perturbfm_core.pipeline.dataset import ensure_dataset
    from perturbfm_core.store.artifacts import ArtifactStore

    folder = packaged_folder()
    assert folder is not None
    store = ArtifactStore(tmp_path_factory.mktemp("demo"))
    return ensure_dataset(store, load_catalog([folder]).dataset("demo"))


@pytest.fixture(scope="session")
def location(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    """Load the code location once, over its own copy of splits and demo data."""
    made = copy_location(tmp_path_factory.mktemp("location"))
    shutil.copytree(demo_data, made.path / "data/demo")
    forget()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        patch.chdir(made.path)
        made.module("definitions")
    yield made
    forget()


@pytest.fixture
def here(location: Location, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """Return the loaded code location, and point this test's environment at its folder."""
    for name, value in location.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(location.path)
    assert "DAGSTER_HOME" not in os.environ
    return location


@pytest.fixture
def pageless(monkeypatch):
    """Leave the page of reports unwritten, for tests that look at runs but not at it."""
    monkeypatch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")


@pytest.fixture(scope="module")
def additive(location: Location) -> Path:
    """Run one cell of `additive` in this process and return the run that it published."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in location.environment.items():
            patch.setenv(name, value)
        patch.chdir(location.path)
        patch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")
        before = set(ArtifactStore().run_dirs())
        # Asked for anew: tests of another file may have published the same cell here.
        assert cell(location, "additive", tags={"perturbfm/again": "true"}).success
        (run,) = set(ArtifactStore().run_dirs()) - before
    return run
