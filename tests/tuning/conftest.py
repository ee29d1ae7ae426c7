"""Stores, splits and quick stand-ins that tests of searches share."""

from __future__ import annotations

import shutil

import pytest
from optuna.storages._rdb import storage as optuna_storage

from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning import search
from perturbfm_core.tuning.validation import FoldScore, Validation
from tests.support.tuning_screen import FOLD, INNER, small_screen


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Make a store with one data set and two splits, once."""
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    import_dataset(store, small_screen(), storage="npz")
    ds = open_dataset(store.dataset("small"))
    hashes = {}
    for spec in (FOLD, INNER):
        ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
        hashes[spec.validation] = split.hash
    return path, hashes


@pytest.fixture
def store(template, own_home) -> ArtifactStore:
    """Return a private copy of that store, where the environment says it is."""
    shutil.copytree(template[0], own_home)
    shutil.copytree(own_home / "splits", own_home.parent / "splits")
    return ArtifactStore()


@pytest.fixture
def ds(store):
    return open_dataset(store.dataset("small"))


@pytest.fixture
def splits(template, store):
    return {policy: SplitFolder(store.split_dir).load(h) for policy, h in template[1].items()}


@pytest.fixture
def pages() -> None:
    """Ask for real pages, which take longer than a search here."""


@pytest.fixture(autouse=True)
def quick_pages(request, monkeypatch) -> None:
    """Write an empty page where no test looks at it."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr(search, "study_page", lambda study: "")


@pytest.fixture(scope="module", autouse=True)
def migrations_read_once():
    """Read optuna's migrations once: they are files of the package, which it reads whenever a study is opened."""
    read = []
    plain = optuna_storage._VersionManager._create_alembic_script

    def once(self):
        if not read:
            read.append(plain(self))
        return read[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna_storage._VersionManager, "_create_alembic_script", once)
        yield


@pytest.fixture
def scored(monkeypatch):
    """Replace the fits by a function of (parameters, fold); returns the list of calls, to be changed by `by`."""

    class Scored:
        by = staticmethod(lambda params, fold: params.get("penalty", 0.1))

        def __init__(self) -> None:
            self.calls = []

        def score(self, params, fold):
            self.calls.append((params, fold))
            value = self.by(params, fold)
            return FoldScore((value, value), (1.0, 1.0), 2, 0)

    made = Scored()
    monkeypatch.setattr(Validation, "score", lambda self, params, fold: made.score(params, fold))
    return made
