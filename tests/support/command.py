"""The command line in this process: what it prints, and its exit code."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbfm_core.cli.main import main

VARIABLES = ("PERTURBFM_HOME", "PERTURBFM_SPLIT_DIR", "PERTURBFM_CATALOG", "PERTURBFM_MAX_TRAIN")


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def values(self) -> dict[str, str]:
        """Return the ``key=value`` lines."""
        return dict(line.split("=", 1) for line in self.out.splitlines() if "=" in line)

    @property
    def json(self) -> Any:
        """Return standard output as JSON, which must be all there is on it."""
        return json.loads(self.out)


def attempt(*argv: object) -> Answer:
    """Run one command line, which may fail; an exception that is not an exit is raised."""
    out, err = io.StringIO(), io.StringIO()
    code: object = "no exit"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(a) for a in argv])
        except SystemExit as exit_:
            code = exit_.code
    assert isinstance(code, int), code
    return Answer(code, out.getvalue(), err.getvalue())


def perturbfm(*argv: object, warns: bool = False) -> Answer:
    """Run one command line that must succeed and print nothing but warnings, if it may, on standard error."""
    answer = attempt(*argv)
    assert answer.code == 0, answer.err
    assert warns or answer.err == ""
    assert all(line.startswith("warning: ") for line in answer.err.splitlines()), answer.err
    return answer


@dataclass(frozen=True)
class Work:
    """A folder with data set ``D``, a split of it, one run, and a leaderboard."""

    path: Path
    split: str
    run: str
