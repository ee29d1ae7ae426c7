"""Locks: who holds them is named to those who wait, and an ended process holds none."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.store import locks, owner
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.locks import file_lock, read_holder
from perturbfm_core.store.owner import has_ended, host_name, new_token, process_has_ended, this_boot
from tests.support.paths import REPO

SINCE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
HOLD = """
import sys
from perturbfm_core.store.artifacts import ArtifactStore
store = ArtifactStore(sys.argv[1], "splits")
with store.training_slot("run first"), store.lock("leaderboard", what="a refresh"), store.lock("plain"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(own_home) -> ArtifactStore:
    return ArtifactStore()


@pytest.fixture
def other(store):
    """Start a process that holds the training slot and two locks."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(store, take_one, heard):
    """Wait for a lock in a thread; return the thread and an event that says that it is held."""
    held = threading.Event()

    def work():
        with take_one(heard.append):
            held.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread, held


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("slot", "waiting for a training slot held by run first"),
        ("leaderboard", "waiting for a lock leaderboard held by a refresh"),
        ("plain", "waiting for a lock plain held by -c "),
    ],
)
def test_the_holder_is_named_and_its_death_frees_the_lock(store, other, name, line):
    heard = []
    kinds = {"slot": lambda tell: store.training_slot("run second", tell)}
    thread, held = take(store, kinds.get(name, lambda tell: store.lock(name, tell=tell)), heard)
    deadline = time.monotonic() + 30
    while not heard:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not held.is_set()
    where = rf"\(process {other.pid} on {re.escape(host_name())}\)"
    assert re.fullmatch(rf"{line}.* since {SINCE} {where}", heard[0])
    os.kill(other.pid, signal.SIGKILL)
    thread.join(30)
    assert held.is_set()
    assert len(heard) == 1


def test_a_short_wait_and_a_free_lock_say_nothing(store, capfd):
    with store.lock("a"), store.lock("b"), store.training_slot():
        pass
    with store.lock("a"):
        thread, held = take(store, lambda tell: store.lock("a"), [])
        time.sleep(0.2)
    thread.join(30)
    assert held.is_set()
    assert capfd.readouterr().err == ""


def test_a_long_wait_is_on_the_console(store, capfd, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.0)
    with store.lock("a", what="the first"):
        thread, held = take(store, lambda tell: store.lock("a"), [])
        time.sleep(0.3)
        assert not held.is_set()
    thread.join(30)
    assert re.fullmatch(rf"waiting for a lock a held by the first since {SINCE} .*\n", capfd.readouterr().err)


def test_a_new_holder_is_named_too(store):
    heard, second = [], store.training_slot("run second")
    with store.training_slot("run first"):
        thread, held = take(store, lambda tell: store.training_slot("run third", tell), heard)
        while not heard:
            time.sleep(0.02)
    # Whoever comes first; if it is the second, the third hears of it.
    with second:
        time.sleep(0.3)
    thread.join(30)
    assert held.is_set()
    assert "held by run first since" in heard[0]
    assert all("held by run second since" in line for line in heard[1:])


def test_every_holder_is_named_where_there_are_several_slots(store, monkeypatch):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", "2")
    heard = []
    with store.training_slot("run one"), store.training_slot("run two"):
        thread, _ = take(store, lambda tell: store.training_slot("run three", tell), heard)
        while not heard:
            time.sleep(0.02)
    thread.join(30)
    assert re.search(rf"held by run one since {SINCE} .* and by run two since {SINCE} ", heard[0])


def test_slots_are_those_of_a_host(store, monkeypatch):
    with store.training_slot("run here"):
        monkeypatch.setattr("perturbfm_core.store.artifacts.host_name", lambda: "elsewhere")
        with store.training_slot("run there") as slots:
            assert slots == 1
    assert sorted(p.name for p in store.locks.iterdir()) == sorted(
        [f"train-{host_name()}-0.lock", "train-elsewhere-0.lock"]
    )


def test_a_lock_names_nobody_once_it_is_free(store):
    path = store.locks / "a.lock"
    with store.lock("a", what="mine"):
        assert read_holder(path).what == "mine"
        with file_lock(path, wait=False) as held:
            assert not held
        # Asking leaves the name.
        assert read_holder(path).what == "mine"
    assert read_holder(path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"what": 1}', b"\xff\xfe", b'{"what":"a","host":"b","pid":"c","since":"d"}'])  # fmt: skip
def test_a_damaged_name_is_nobodys(tmp_path, content):
    (tmp_path / "a.lock").write_bytes(content)
    assert read_holder(tmp_path / "a.lock") is None
    with file_lock(tmp_path / "a.lock", wait=False) as held:
        assert held


def test_a_file_system_without_locks_is_named(store, monkeypatch):
    def refuse(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(
            StoreError, match=r"\.locks has no file locks \(No locks available\); put PERTURBFM_HOME on"
        ),
        store.lock("a"),
    ):
        pass


# ---- owners ------------------------------------------------------------------------------------------------------


def test_a_second_writer_leaves_a_live_ones_staging_where_locks_are_not_shared(store, other, monkeypatch):
    """As on NFSv3 with local locks: every host grants all locks, so only names tell who writes."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    host, boot, pid, started, _ = new_token().split("@")
    names = {
        "this process": new_token(),
        "another of this host": f"{host}@{boot}@{other.pid}@{owner._started(other.pid)}@aa",
        "another host": f"elsewhere@{boot}@{pid}@{started}@aa",
        "another host, ended": "elsewhere@00000000@999999999@1@aa",
        "another host of a longer name": f"{host}2@{boot}@999999999@1@aa",
        "a container of this host": f"{host}-4026532999@{boot}@999999999@1@aa",
    }
    dead = {
        "ended": f"{host}@{boot}@999999999@1@bb",
        "an earlier boot": f"{host}@00000000@{pid}@{started}@bb",
        "number given again": f"{host}@{boot}@{pid}@{int(started) + 1}@bb",
    }
    for name in (*names.values(), *dead.values()):
        (store.staging_root / name).mkdir(parents=True)
        (store.staging_root / name / "model.bin").write_text("half")
    with store.stage():
        pass
    assert {p.name for p in store.staging_root.iterdir()} == set(names.values())


def test_a_process_that_ended_but_was_not_asked_for_has_ended():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        host, boot, *_ = new_token().split("@")
        token = f"{host}@{boot}@{process.pid}@{owner._started(process.pid)}@aa"
        now = time.time()
        assert not has_ended(token)
        assert not process_has_ended(this_boot(), process.pid, now)
        process.kill()
        deadline = time.monotonic() + 10
        while not has_ended(token):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process_has_ended(this_boot(), process.pid, now)
        process.wait(10)
        assert has_ended(token)


def test_what_is_known_of_a_process_of_another_time_or_place():
    host, boot = this_boot().split("@")
    pid, now = os.getpid(), time.time()
    assert not process_has_ended(f"elsewhere@{boot}", 999999999, now)
    assert process_has_ended(f"{host}@00000000", pid, now)
    # This process started long after that: the number was another's.
    assert process_has_ended(f"{host}@{boot}", pid, now - 1e6)
    assert not process_has_ended(f"{host}@{boot}", pid, now)
