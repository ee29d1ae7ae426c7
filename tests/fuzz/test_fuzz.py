"""Damaged files of every format: one line, exit 0 or 2, within limits, and nothing left (`make fuzz` runs many more)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.fuzz.targets import TARGETS
from tests.support.command import VARIABLES
from tests.support.paths import REPO

CASES = 76
SEED = 20


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.runner", "--cases", str(CASES), "--seed", str(SEED), "--json"],
        cwd=REPO,
        env={**{k: v for k, v in os.environ.items() if k not in VARIABLES}, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == CASES
    assert {o["target"] for o in outcomes} == set(TARGETS)
    assert [
        {k: o[k] for k in ("target", "damage", "line", "broken", "err")} for o in outcomes if o["broken"]
    ] == []
    # Damage that changes nothing that counts is read all the same; most is noticed.
    assert CASES / 3 < sum(o["code"] == 2 for o in outcomes) < CASES
