"""A Slurm whose daemons do not come up: the tests skip with the reason, and nothing is left running."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_node import open_folder, skip_unless_started, slurm_node, why_not

pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that other users reach, first on PATH, below which Slurm's own is made."""
    with open_folder() as made:
        monkeypatch.setattr(tempfile, "tempdir", str(made))
        monkeypatch.setenv("PATH", str(made), prepend=":")
        yield made


def processes(folder: Path) -> list[str]:
    """Return the processes whose command or environment names something in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            given = (process / "environ").read_bytes().split(b"\0")
            if any(b"=" + bytes(folder) + b"/" in word for word in (*words, *given)):
                found.append(words[0].decode())
    return found


@pytest.mark.parametrize("broken", ["munged", "slurmctld", "slurmd"])
def test_a_daemon_that_fails_is_a_reason_to_skip_and_the_others_are_ended(folder: Path, broken: str) -> None:
    stub = folder / broken
    stub.write_text("#!/bin/sh\nexit 3\n")
    stub.chmod(0o755)
    reason = f"Slurm does not start here.*{broken}.* 3"
    with pytest.raises(pytest.skip.Exception, match=reason), skip_unless_started(), slurm_node():
        pytest.fail("it started")
    assert processes(folder) == []


def test_a_whole_one_is_ended_with_its_block(folder: Path) -> None:
    with slurm_node():
        assert {Path(name).name for name in processes(folder)} >= {"munged", "slurmctld", "slurmd"}
    assert processes(folder) == []
