"""A store with one small data set and one frozen split."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.simulate import simulate
from perturbfm_core.pipeline import experiment, metric_panel
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.few_panels import score_only
from tests.support.small_store import CONFIG

CONTEXT = SplitSpec(kind="context_ood", params={"holdout": ["C1"]})


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Make a store with one data set and one split, once."""
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    import_dataset(store, simulate(CONFIG)[0], storage="npz")
    ((split, _, _),) = freeze_split(store, open_dataset(store.dataset("small")), CONTEXT)
    return path, split.hash


@pytest.fixture
def store(template, own_home) -> ArtifactStore:
    """Return a private copy of that store, where the environment says it is."""
    shutil.copytree(template[0], own_home)
    shutil.copytree(own_home / "splits", own_home.parent / "splits")
    return ArtifactStore()


@pytest.fixture
def every_panel() -> None:
    """Ask for the scores of every panel."""


@pytest.fixture(autouse=True)
def few_panels(request, monkeypatch) -> None:
    """Score two panels, where a test does not ask for all."""
    if "every_panel" not in request.fixturenames:
        score_only(monkeypatch, "delta")


@pytest.fixture
def split(template, store):
    return SplitFolder(store.split_dir).load(template[1])


@pytest.fixture
def ds(store):
    return open_dataset(store.dataset("small"))


@pytest.fixture
def changed_code(monkeypatch):
    """Return a function that makes the code of modules whose name holds a text look changed."""
    plain = experiment.code_of

    def change(text):
        def changed(*modules):
            code = plain(*modules)
            marked = {m: d + ("!" if text in m else "") for m, d in code.modules.items()}
            return replace(code, modules=marked)

        for module in (experiment, metric_panel):
            monkeypatch.setattr(module, "code_of", changed)

    return change
