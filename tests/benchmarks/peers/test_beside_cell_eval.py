"""The peer beside ours on the same cells; needs PEER_PYTHON, which `make bench-peers` sets."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.benchmarks.test_virtual_cell import large_cells

__all__ = ["large_cells"]


@pytest.mark.parametrize("profile", ["vcc", "full"])
def test_cell_eval(benchmark, large_cells, profile):
    python = os.environ.get("PEER_PYTHON")
    if not python:
        pytest.skip("PEER_PYTHON is not set; run `make bench-peers`")
    script = Path(__file__).with_name("time_cell_eval.py")
    found = []

    def run():
        done = subprocess.run(
            [python, script, large_cells, profile], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))

    benchmark.pedantic(run, rounds=1, iterations=1)
    benchmark.extra_info |= found[-1]
    print(f"\n{found[-1]}")
