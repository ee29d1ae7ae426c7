"""`perturbfm serve` as a process: it says where it listens, warns of other addresses, and ends on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import attempt


@contextmanager
def served(home: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the verb on a free port; yields the process and the address that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbfm_core.cli.main", "serve", "--port", "0", *options],
        env={**os.environ, "PERTURBFM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_it_serves_until_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "20261127-000000_aaaaaaa_ridge_01234567"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("a report")
    with served(tmp_path) as (process, line):
        assert line.startswith("url=http://127.0.0.1:")
        address = f"{line.removeprefix('url=')}runs/{folder.name}/report.html"
        with urllib.request.urlopen(address, timeout=10) as response:
            assert response.read() == b"a report"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err == ""


def test_another_address_is_warned_of(tmp_path: Path) -> None:
    with served(tmp_path, "--host", "0.0.0.0") as (process, line):
        assert line.startswith("url=http://0.0.0.0:")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert err.startswith("warning: 0.0.0.0 is not this machine alone")


@pytest.mark.parametrize(
    "options", [("--port", "70000"), ("--port", "x"), ("--host", "no.such.host.invalid")]
)
def test_an_address_that_cannot_be_is_one_line(options: tuple[str, str]) -> None:
    answer = attempt("serve", *options)
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith("error: ")
