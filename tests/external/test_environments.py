"""Environments of external models: built from their locks, never taken as built by halves, refused in one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perturbfm_core.errors import DiskError, ExternalError
from perturbfm_core.external import environment_building as building
from perturbfm_core.external import environments, installers, interpreters, known_environments
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
    own_environment,
    state_of,
)
from perturbfm_core.external.installers import Installer
from perturbfm_core.external.interpreters import find_interpreter
from perturbfm_core.external.known_environments import (
    KNOWN,
    licence_notice,
    lock_hash,
    lock_path,
    locked_versions,
)
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.locks import file_lock
from tests.external.toy_environment import PYTHON, toy, write_program, write_wheel
from tests.support.command import attempt, perturbfm
from tests.support.paths import REPO

MODELS = ("gears", "scgen", "state", "cpa")


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


# ---- what ships --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_lock_holds_names_and_versions_only(name):
    lines = lock_path(name).read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][a-z0-9.+]*", line) for line in lines)
    names = [line.partition("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert not any(n.startswith("nvidia-") for n in names)
    assert names == sorted(names)
    known = KNOWN[name]
    assert known.package in names
    # What the lock leaves out is named by what is in it, or there is no need of it.
    assert known.dependencies or "+cpu" in locked_versions(name)["torch"]


def test_the_table_says_what_must_be_agreed_to():
    assert {n for n in MODELS if KNOWN[n].non_commercial} == {"state"}
    assert {n for n in MODELS if KNOWN[n].big} == {"cpa"}
    assert "CC BY-NC-SA 4.0" in (licence_notice("state") or "")
    assert [licence_notice(n) for n in ("gears", "scgen", "cpa")] == [None] * 3
    assert all(k.licence and k.licence_source and k.size > 10**9 for k in KNOWN.values())


def test_the_hash_follows_the_lock_and_nothing_else(set_lock):
    set_lock("a==1\nb==2\n")
    first = lock_hash("toy")
    set_lock("# note\nb==2\na==1\n\n", size=5, licence="other")
    assert lock_hash("toy") == first
    set_lock("a==1\nb==3\n")
    assert lock_hash("toy") != first
    set_lock("a==1\nb==2\n", python="3.9")
    assert lock_hash("toy") != first


@pytest.mark.parametrize(
    ("name", "hint"), [("gaers", "'gears'"), ("external-staet", "'state'"), ("scgpt", "--env PATH|scgen")]
)
def test_an_unknown_name_is_refused_with_the_known_ones(store, name, hint):
    with pytest.raises(ExternalError, match=hint) as error:
        env_of(name, store)
    assert "cpa, gears, scgen, state" in str(error.value)
    assert "\n" not in str(error.value)


# ---- building ----------------------------------------------------------------------------------------------------


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


# ---- interpreters and installers ---------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Leave no interpreter to be found but this one."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


def fake_python(path, version, has_pip="true"):
    return write_program(path, f"#!/bin/sh\necho '[\"{version}\", {has_pip}]'\n")


def test_an_interpreter_is_found_on_path_and_under_pyenv(nowhere):
    with pytest.raises(ExternalError, match=r"no Python 3.7 is found .*--python PATH"):
        find_interpreter("3.7")
    under = fake_python(nowhere / "pyenv/versions/3.7.2/bin/python", "3.7")
    assert find_interpreter("3.7") == under
    on_path = fake_python(nowhere / "bin/python3.7", "3.7")
    assert find_interpreter("3.7") == on_path
    # A shim that is there and does not run.
    write_program(on_path, "#!/bin/sh\nexit 127\n")
    assert find_interpreter("3.7") == under
    fake_python(under, "3.7", "false")
    assert find_interpreter("3.7") == under
    with pytest.raises(ExternalError, match=r"no Python 3.7"):
        find_interpreter("3.7", with_pip=True)


def test_this_interpreter_is_taken_where_it_fits(nowhere):
    assert interpreters.version_of(find_interpreter(PYTHON)) == (PYTHON, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/bin/sh\necho '[\"3.6\", true]'\n", "is Python 3.6; the lock of this model needs Python 3.7"),
        ("#!/bin/sh\necho hello\n", "is not a Python interpreter that runs"),
        ("#!/bin/sh\nexit 3\n", "is not a Python interpreter that runs"),
        (None, "is not a Python interpreter that runs"),
        ("#!/bin/sh\necho '[\"3.7\", false]'\n", "has no ensurepip"),
    ],
)
def test_a_named_interpreter_that_does_not_fit_is_refused(tmp_path, text, why):
    path = tmp_path / "python"
    if text is not None:
        write_program(path, text)
    with pytest.raises(ExternalError, match=why) as error:
        find_interpreter("3.7", path, with_pip=True)
    assert "\n" not in str(error.value)


def test_uv_looks_where_pip_is_set_up_to_look(monkeypatch):
    for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    settings = {"index-url": ["A"], "extra-index-url": ["B", "C"], "find-links": ["/w"], "no-index": ["0"]}
    monkeypatch.setattr(installers, "pip_settings", lambda: settings)
    joined = " ".join(installers.uv_settings())
    assert joined.startswith("--default-index A --extra-index-url B --extra-index-url C --find-links /w ")
    assert "--no-index" not in joined
    settings["no-index"] = ["true"]
    assert "--no-index" in installers.uv_settings()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "D")
    assert installers.uv_settings() == []


def test_settings_of_pip_are_read_in_the_order_in_which_they_count(monkeypatch):
    text = "global.index-url='A'\n:env:.index-url='E'\ninstall.index-url='I'\nglobal.find-links='\\n/a\\n/b c'\nother\n"
    monkeypatch.setattr(
        installers.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=text)
    )
    assert installers.pip_settings() == {"index-url": ["E"], "find-links": ["/a", "/b", "c"]}


def test_dependencies_are_left_to_the_lock_unless_it_leaves_some_out(tmp_path):
    lock = tmp_path / "x.txt"
    for tool in (Installer(""), Installer("/bin/uv")):
        plain = tool.fill(tmp_path, lock, dependencies=False, index=[str(tmp_path), "place"])
        assert "--no-deps" in plain
        assert plain[-6:-2] == ["--find-links", str(tmp_path), "--extra-index-url", "place"]
        assert "--no-deps" not in tool.fill(tmp_path, lock, dependencies=True)


# ---- the user's own ----------------------------------------------------------------------------------------------


def test_an_environment_of_ones_own_is_looked_into(tmp_path, set_lock, store, create):
    made = create()
    assert own_environment("toy", made.folder) == made.python
    assert own_environment("external-toy", made.python) == made.python
    with pytest.raises(
        ExternalError, match=r"lacks the modules gears, .*install cell-gears .*env create gears"
    ):
        own_environment("gears", made.folder)
    with pytest.raises(ExternalError, match="lacks the modules numpy; install numpy there"):
        own_environment("mine", made.folder)
    assert own_environment("mine", Path(sys.executable)) == Path(sys.executable).absolute()


def test_what_is_no_environment_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    write_program(tmp_path / "bad/bin/python", "#!/bin/sh\nexit 1\n")
    fake_python(tmp_path / "old/bin/python", "3.7")
    for place, why in (
        ("absent", "has no bin/python|has no"),
        ("folder", "has no bin/python"),
        ("bad", "does not run|not a Python interpreter that runs"),
        ("old", "workers need 3.8 or newer"),
    ):
        with pytest.raises(ExternalError, match=why) as error:
            own_environment("gears", tmp_path / place)
        assert "\n" not in str(error.value)


# ---- the verbs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("create state", "arc-state forbids commercial use: CC BY-NC-SA 4.0"),
        ("create state --yes", "repeat with --accept-licence"),
        ("create cpa", "takes about 5.9 GB of disk; repeat with --yes"),
        ("create cpa --accept-licence", "repeat with --yes"),
        (
            "create gears --python /nowhere/python",
            "--python /nowhere/python is not a Python interpreter that runs",
        ),
        ("create nope", "no environment is known as 'nope'"),
        ("remove gears", "there is no environment of gears"),
    ],
)
def test_what_is_not_agreed_to_or_not_there_is_one_line(store, line, why):
    answer = attempt("external", "env", *line.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert why in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not list(store.home.glob(".envs/*-*"))


def test_a_licence_and_a_size_that_are_agreed_to(store, wheels, set_lock):
    set_lock(non_commercial=True, big=True)
    line = ("external", "env", "create", "toy", "--index", wheels)
    assert "--accept-licence" in attempt(*line).err
    assert "--yes" in attempt(*line, "--accept-licence").err
    done = attempt(*line, "--accept-licence", "--yes", "--json")
    assert done.code == 0, done.err
    assert (done.json["state"], done.json["commercial"]) == ("built", "forbidden")
    assert done.err.count("licence of toy-model: MIT") == 1
    # What is built needs no second word, and is shown with its licence as well.
    again = attempt(*line)
    assert (again.code, again.err) == (0, "licence of toy-model: MIT\n")
    rows = {row["name"]: row for row in perturbfm("external", "env", "list", "--json").json}
    assert rows["toy"]["state"] == "built"
    assert rows["gears"] == {
        "name": "gears",
        "state": "not built",
        "size": "about 1.4 GB",
        "licence": "MIT",
        "commercial": "allowed",
        "python": "3.11",
    }
    shown = perturbfm("doctor", "--json").json["environments"]
    assert re.fullmatch(r"built; .*; MIT, no commercial use; Python " + PYTHON, shown["toy"])
    assert shown["cpa"] == "not built; 5.9 GB; BSD-3-Clause; Python 3.10"
    assert len(perturbfm("external", "env", "remove", "toy", "--json").json["removed"]) == 1


def test_the_licence_is_shown_before_anything_is_installed(store, wheels, set_lock, monkeypatch):
    set_lock()
    said: list[str] = []
    monkeypatch.setattr(building, "to_console", said.append)

    def stop(*_) -> None:
        raise ExternalError("stopped " + " ".join(said))

    monkeypatch.setattr(building, "_install", stop)
    with pytest.raises(ExternalError, match="stopped licence of toy-model: MIT"):
        building.create_environment("toy", store)


@pytest.mark.skipif(
    shutil.which("uv") is None and not installers.installer().uv, reason="uv is not installed"
)
def test_uv_is_preferred():
    assert str(installers.installer()) == "uv"
