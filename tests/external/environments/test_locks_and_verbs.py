"""Locks that ship, and the verbs that build environments: licences and sizes that are agreed to."""

from __future__ import annotations

import re
import shutil

import pytest

from perturbfm_core.errors import ExternalError
from perturbfm_core.external import environment_building as building
from perturbfm_core.external import installers
from perturbfm_core.external.environments import (
    env_of,
)
from perturbfm_core.external.known_environments import (
    KNOWN,
    licence_notice,
    lock_hash,
    lock_path,
    locked_versions,
)
from tests.external.toy_environment import PYTHON
from tests.support.command import attempt, perturbfm

MODELS = ("gears", "scgen", "state", "cpa")


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


def test_a_licence_and_a_size_that_are_agreed_to(store, wheels, set_lock, tmp_path):
    # `doctor` asks for the folder that is named.
    (tmp_path / "catalog").mkdir(exist_ok=True)
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
