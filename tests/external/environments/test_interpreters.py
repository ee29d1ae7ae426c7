"""Interpreters and installers that an environment is built with, and environments of the user's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perturbfm_core.errors import ExternalError
from perturbfm_core.external import installers, interpreters
from perturbfm_core.external.environments import (
    own_environment,
)
from perturbfm_core.external.installers import Installer
from perturbfm_core.external.interpreters import find_interpreter
from tests.external.toy_environment import PYTHON, write_program


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
