"""Environments of external models: built once, found again, rebuilt where they are broken or killed halfway."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perturbfm_core.errors import DiskError, ExternalError
from perturbfm_core.external import environment_building as building
from perturbfm_core.external import environments
from perturbfm_core.external.environments import (
    ABSENT,
    BROKEN,
    BUILDING,
    BUILT,
    MARKER,
    OUTDATED,
    UNFINISHED,
    env_of,
    environment_digest,
    environment_folder,
    state_of,
)
from perturbfm_core.external.installers import Installer
from perturbfm_core.external.known_environments import (
    lock_hash,
)
from perturbfm_core.store.locks import file_lock
from tests.external.toy_environment import write_program, write_wheel
from tests.support.paths import REPO


def test_an_environment_is_built_once_and_found(store, create):
    assert state_of("toy", store).state == ABSENT
    with pytest.raises(ExternalError, match="is not built; run `perturbfm external env create toy`"):
        env_of("toy", store)
    lines = []
    made = create(tell=lines.append)
    assert made.state == BUILT
    assert made.folder == store.home / ".envs" / f"toy-{lock_hash('toy')}"
    assert any("toy-" in line for line in lines)
    done = subprocess.run(
        [env_of("toy", store), "-c", "import toy_model; print(toy_model.VERSION)"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1.0"
    built = (made.folder / MARKER).read_bytes()
    assert create().folder == made.folder
    assert (made.folder / MARKER).read_bytes() == built
    assert env_of("external-toy", store) == made.python
    assert len(environment_digest(made.python)) == 64


def test_the_folder_of_environments_may_be_named(store, create, tmp_path, monkeypatch):
    monkeypatch.setenv("PERTURBFM_ENVS", str(tmp_path / "kept"))
    assert create().folder.parent == tmp_path / "kept"


def test_a_half_built_one_is_not_taken_as_built_and_is_built_anew(store, create):
    made = create()
    (made.folder / MARKER).unlink()
    (made.folder / "rest").write_text("of an earlier build")
    assert state_of("toy", store).state == UNFINISHED
    with pytest.raises(ExternalError, match=r"unfinished .*interrupted.*env create toy"):
        env_of("toy", store)
    assert create().state == BUILT
    assert not (made.folder / "rest").exists()


def harm_python(made):
    (made.folder / "bin/python").unlink()


def harm_marker(made):
    (made.folder / MARKER).write_text("{")


def harm_place(made):
    marker = made.folder / MARKER
    marker.write_text(marker.read_text().replace(str(made.folder), "/elsewhere/toy"))


@pytest.mark.parametrize(
    ("harm", "why"), [(harm_python, "interpreter has gone"), (harm_marker, MARKER), (harm_place, "moved")]
)
def test_a_broken_one_is_said_to_be_and_is_built_anew(store, create, harm, why):
    harm(create())
    found = state_of("toy", store)
    assert (found.state, why in found.why) == (BROKEN, True)
    with pytest.raises(ExternalError, match=why):
        env_of("toy", store)
    assert create().state == BUILT


def test_a_new_lock_makes_the_old_environment_outdated(store, create, set_lock, wheels):
    old = create().folder
    write_wheel(wheels, version="2.0")
    set_lock("toy-model==2.0\n")
    assert state_of("toy", store).state == OUTDATED
    new = create().folder
    assert old.is_dir()
    assert new != old
    assert set(building.remove_environment("toy", store)) == {old, new}
    assert state_of("toy", store).state == ABSENT
    with pytest.raises(ExternalError, match="nothing was removed"):
        building.remove_environment("toy", store)


def test_a_longer_name_is_another_model(store, create):
    (store.home / ".envs/toy-other-0123456789ab").mkdir(parents=True)
    assert state_of("toy", store).state == ABSENT


@pytest.mark.parametrize("lock", ["toy-model==3.0\n", "toy-model==1.0\nabsent==1.0\n"])
def test_a_package_that_is_not_to_be_had_is_one_line_with_the_log(store, create, set_lock, lock):
    set_lock(lock)
    with pytest.raises(ExternalError, match="cannot be built: ") as error:
        create()
    assert "\n" not in str(error.value)
    log = re.search(r"all of it: ([^)]*)\)", str(error.value))
    assert log is not None
    assert Path(log[1]).read_text() != ""
    assert state_of("toy", store).state == UNFINISHED


def test_torch_that_is_not_to_be_had_names_the_option(store, create, set_lock):
    set_lock("toy-model==1.0\ntorch==9.9+cpu\n")
    with pytest.raises(ExternalError, match="--index takes an address or folder with CPU builds of torch"):
        create()


@pytest.mark.parametrize(
    ("lock", "modules", "why"),
    [
        ("toy-model==1.0\n", ("toy_model", "other"), "there is no module other"),
        ("toy-model==2.0\n", ("toy_model",), "toy-model is 1.0 in place of 2.0"),
        ("toy-model==1.0\nmore==1\n", ("toy_model",), "more is not installed"),
    ],
)
def test_an_installer_that_leaves_something_out_is_found(
    store, create, set_lock, monkeypatch, tmp_path, lock, modules, why
):
    real = tmp_path / "real.txt"
    real.write_text("toy-model==1.0\n")
    set_lock(lock, modules=modules)
    monkeypatch.setattr(building, "lock_path", lambda _: real)
    with pytest.raises(ExternalError, match=why):
        create()
    assert state_of("toy", store).state == UNFINISHED


def test_a_full_disk_is_found_before_anything_is_fetched(store, create, monkeypatch):
    monkeypatch.setattr(building, "free_space", lambda _: 9_999)
    with pytest.raises(DiskError, match=r"it needs 10.0 kB"):
        create()
    assert not environment_folder("toy", store).exists()


@pytest.mark.slow
def test_pip_builds_what_uv_would(store, create, monkeypatch):
    monkeypatch.setattr(building, "installer", lambda: Installer(""))
    made = create()
    assert '"installer": "pip"' in (made.folder / MARKER).read_text()
    assert environments.ask(
        made.python, "import json, toy_model; print(json.dumps([toy_model.VERSION]))"
    ) == ["1.0"]


KILLED = """
import sys
from pathlib import Path
from perturbfm_core.external import environment_building as building, known_environments
from perturbfm_core.external.installers import Installer
from perturbfm_core.store.artifacts import ArtifactStore
from tests.external.toy_environment import toy
known_environments.LOCKS = Path(sys.argv[1])
known_environments.KNOWN["toy"] = toy()
building.installer = lambda: Installer(sys.argv[2])
building.create_environment("toy", ArtifactStore())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_killed_takes_its_installer_along_and_goes_on(store, create, tmp_path, number):
    stub = write_program(
        tmp_path / "uv",
        '#!/bin/sh\n[ "$1" = venv ] && { for last; do :; done; mkdir -p "$last/bin"; exit 0; }\n'
        f"echo $$ > {tmp_path}/pid\nexec sleep 60\n",
    )
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "locks", stub],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip())
    assert state_of("toy", store).state == BUILDING
    with pytest.raises(ExternalError, match=f"being built .*process {child.pid} "):
        env_of("toy", store)
    with pytest.raises(ExternalError, match="being built or removed"):
        building.remove_environment("toy", store)
    child.send_signal(number)
    child.wait(20)
    installing = int((tmp_path / "pid").read_text())
    wait_for(
        lambda: (
            not Path(f"/proc/{installing}/cmdline").is_file()
            or b"sleep" not in Path(f"/proc/{installing}/cmdline").read_bytes()
        )
    )
    assert state_of("toy", store).state == UNFINISHED
    assert create().state == BUILT


def wait_for(ready, seconds=20.0):
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_who_is_building_is_named(store, set_lock):
    path = environments.building_lock("toy", store)
    with file_lock(path, what="the environment of toy"):
        assert state_of("toy", store).state == BUILDING
    assert state_of("toy", store).state == ABSENT
