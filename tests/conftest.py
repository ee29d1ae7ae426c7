"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from perturbfm_core.cli import main as command_line
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.simulate import SimulationConfig, SimulationTruth, simulate
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.kept_bounds import PLAIN, keep_bounds
from tests.support.paths import REPO, TESTS

# The same examples everywhere, none kept on disk, and no limit that a busy machine would break.
settings.register_profile("project", database=None, deadline=None, derandomize=True, max_examples=60)
settings.load_profile("project")


# Files whose tests take more than a few seconds: processes, servers, real data, whole fits.
SLOW = (
    "assets",
    "browser",
    "kill",
    "cli/test_full_disk.py",
    "real",
    "tuning",
    "models/perturbfm",
    "cli/test_killed.py",
    "cli/test_start.py",
    "cli/test_tune.py",
    "cli/test_workflow",
    "cli/test_models.py",
    "cli/predictions",
    "cli/test_submit.py",
    "cli/test_runs.py",
    "cli/test_suite_page.py",
    "cli/suite",
    "cli/test_rescore.py",
    "cli/test_crash.py",
    "cli/test_score_pair.py",
    "evaluation/panels/cell_eval2",
    "external/test_external",
    "fuzz",
    "pipeline/stages",
    "models/test_contract.py",
    "models/test_registration.py",
    "pipeline/test_calibration.py",
    "pipeline/test_code_keys.py",
    "pipeline/test_gene_graph.py",
    "pipeline/test_suite_workers.py",
    "uncertainty/test_goals.py",
    "test_extending.py",
    "test_python_api.py",
)


# Of these, the files whose lines are not traced: tracing costs a third more, and other tests execute the same lines.
UNTRACED = (
    "assets",
    "browser",
    "fuzz",
    "kill",
    "real",
    "cli/test_first_day.py",
    "cli/test_full_disk.py",
    "cli/test_killed.py",
    "cli/test_newcomer.py",
    "cli/predictions",
    "cli/test_submit.py",
    "cli/test_workflow",
    "cli/test_models.py",
    "evaluation/panels/cell_eval2/test_cell_eval2_parity.py",
    "evaluation/panels/perturbench/test_perturbench_parity.py",
    "pipeline/test_calibration.py",
    "pipeline/test_code_keys.py",
    "pipeline/stages",
    "splits/test_split_properties",
    "test_docs_commands.py",
    "test_extending.py",
    "uncertainty/test_goals.py",
)


# Files of minutes come first, so that no worker is left alone with one of them at the end.
FIRST = (
    "assets/test_external_models.py",
    "assets/test_server.py",
    "browser/test_dagster_ui.py",
    "cluster",
    "cli/test_killed.py",
    "models/perturbfm/test_inducing.py",
    "kill",
    "external/workers",
    "test_docs_commands.py",
    "tuning",
    "cli/test_workflow",
    "assets",
    "test_extending.py",
    "fuzz",
)


# Cases of one test whose lines are traced; further ones take the same way but for a few lines.
TRACED_CASES = 2


def _turn(item: pytest.Item) -> int:
    """Return the place of an item's file in `FIRST`, or one behind it."""
    place = item.path.relative_to(TESTS).as_posix()
    return next((i for i, first in enumerate(FIRST) if place.startswith(first)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, which `make test-fast` leaves out, and those whose lines are not traced."""
    items.sort(key=_turn)
    cases: Counter[str] = Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        cases[test] += 1
        if cases[test] > TRACED_CASES:
            item.add_marker(pytest.mark.no_cover)
        place = item.path.relative_to(TESTS).as_posix()
        if place.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if place.startswith(UNTRACED):
            item.add_marker(pytest.mark.no_cover)


CONNECT = sqlite3.connect


def _unflushed(*args: Any, **options: Any) -> sqlite3.Connection:
    """Open a database, of Dagster or Optuna, that does not wait for the disk."""
    made = CONNECT(*args, **options)
    # Of a file that is locked or damaged, the test's own first statement is to find out.
    with contextlib.suppress(sqlite3.Error):
        made.execute("PRAGMA synchronous=OFF")
    return made


@pytest.fixture(autouse=True, scope="session")
def spared() -> Iterator[None]:
    """Spare what a process does once, or no test looks at: bounds of a known split, a verb's parser, waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        keep_bounds(patch)
        patch.setattr(command_line, "verb", cache(command_line.verb))
        # A killed process loses nothing that it wrote; only a machine without power does.
        patch.setattr(os, "fsync", lambda fd: None)
        for module in (sqlite3, sqlite3.dbapi2):
            patch.setattr(module, "connect", _unflushed)
        yield


@pytest.fixture
def bounds_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this test's stores compute every bound and scale, for tests of how they come about."""
    monkeypatch.setattr(ArtifactStore, "put_object", PLAIN)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's artifacts, splits and catalog in its own directory, and run it there."""
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(tmp_path / "splits"))
    monkeypatch.setenv("PERTURBFM_CATALOG", str(tmp_path / "catalog"))
    # Of the shell that the tests were started from.
    for name in ("PERTURBFM_MAX_TRAIN", "PERTURBFM_ENVS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of real files beside the repository, or skip."""
    path = REPO.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"no real files: {path} is absent")
    return path


@pytest.fixture(scope="session")
def synth_pair() -> tuple[PerturbDataset, SimulationTruth]:
    """Return a small simulated screen of cells with its truth: 3 contexts, 8 singles, 4 pairs, 2 batches."""
    return simulate(
        SimulationConfig(n_obs=1500, n_genes=60, n_contexts=3, n_perts=8, n_combos=4, n_batches=2)
    )


@pytest.fixture(scope="session")
def synth(synth_pair: tuple[PerturbDataset, SimulationTruth]) -> PerturbDataset:
    """Return the small simulated screen."""
    return synth_pair[0]


@pytest.fixture(scope="session")
def synth_truth(synth_pair: tuple[PerturbDataset, SimulationTruth]) -> SimulationTruth:
    """Return the truth of the small simulated screen."""
    return synth_pair[1]


@pytest.fixture(scope="session")
def synth_large() -> PerturbDataset:
    """Return a screen with 300 controls in each of 3 contexts, so that no context shares its controls."""
    return simulate(
        SimulationConfig(
            name="synth-large", n_obs=3600, n_genes=80, n_contexts=3, n_perts=10, n_batches=3, seed=5
        )
    )[0]


@pytest.fixture(scope="session")
def synth_shared() -> PerturbDataset:
    """Return a screen with 60 controls per context, so that both roles share them."""
    return simulate(SimulationConfig(name="synth-shared", n_obs=480, n_genes=40, n_contexts=2, n_perts=6))[0]


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., PerturbDataset]:
    """Return a function that makes a data set in memory from a matrix and columns of labels."""

    def make(
        X: Any,
        pert_id: Sequence[str],
        *,
        genes: Sequence[str] | None = None,
        row_ids: Sequence[str] | None = None,
        values: Values | None = None,
        metadata: dict[str, Any] | None = None,
        **columns: Sequence[Any],
    ) -> PerturbDataset:
        n, g = X.shape
        ids = [f"r{i}" for i in range(n)] if row_ids is None else list(row_ids)
        return PerturbDataset(
            make_obs({"pert_id": pert_id, **columns}, ids),
            [f"g{j}" for j in range(g)] if genes is None else list(genes),
            Values(expression=X) if values is None else values,
            DatasetMetadata(**{"name": "made", **(metadata or {})}),
        )

    return make


@pytest.fixture
def write_h5ad(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an AnnData h5ad file under the test's directory."""

    def write(
        X: Any,
        obs: dict[str, Any],
        *,
        var: pd.DataFrame | None = None,
        layers: dict[str, Any] | None = None,
        row_ids: Sequence[str] | None = None,
        name: str = "file.h5ad",
    ) -> Path:
        n, g = X.shape
        index = [f"r{i}" for i in range(n)] if row_ids is None else list(row_ids)
        table = pd.DataFrame(index=pd.Index([f"g{j}" for j in range(g)])) if var is None else var
        path = tmp_path / name
        anndata.AnnData(X=X, obs=pd.DataFrame(obs, index=index), var=table, layers=layers or {}).write_h5ad(
            path
        )
        return path

    return write


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded generator."""
    return np.random.default_rng(0)
