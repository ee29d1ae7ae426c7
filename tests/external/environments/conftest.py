"""A toy model with a lock of its own, and wheels to build its environment from."""

from __future__ import annotations

import shutil

import pytest

from perturbfm_core.external import environment_building as building
from perturbfm_core.external import installers, known_environments
from perturbfm_core.external.known_environments import (
    KNOWN,
)
from perturbfm_core.store.artifacts import ArtifactStore
from tests.external.toy_environment import toy, write_wheel


@pytest.fixture
def store(own_home, monkeypatch):
    monkeypatch.delenv("PERTURBFM_ENVS", raising=False)
    return ArtifactStore()


@pytest.fixture
def set_lock(tmp_path, monkeypatch):
    """Return a function that writes the lock of the toy and makes it known."""
    folder = tmp_path / "locks"
    shutil.copytree(known_environments.LOCKS, folder)
    monkeypatch.setattr(known_environments, "LOCKS", folder)

    def write(text="toy-model==1.0\n", **changes):
        (folder / "toy.txt").write_text(text)
        monkeypatch.setitem(KNOWN, "toy", toy(**changes))

    write()
    return write


@pytest.fixture
def wheels(tmp_path, set_lock, monkeypatch):
    """Return a folder of wheels, the only place where packages are looked for."""
    monkeypatch.setattr(installers, "pip_settings", lambda: {"no-index": ["1"]})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    write_wheel(tmp_path / "wheels")
    return tmp_path / "wheels"


@pytest.fixture
def create(store, wheels):
    def make(**options):
        return building.create_environment("toy", store, index=[str(wheels)], **options)

    return make
