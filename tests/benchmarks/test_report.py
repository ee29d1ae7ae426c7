"""CPU time and size of the report of a run, on the demo's runs and on 1,000 conditions of 2,000 genes.

Goals: 0.3 CPU seconds beyond the numbers, which are there before; 5 MB. Run with ``-s`` for the figures.
"""

import subprocess
import sys
import time
from statistics import median

import pytest

from perturbfm_core.pipeline import report as stage
from perturbfm_core.reports.pages.run import run_report
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.report_case import report_case

GOAL_S, GOAL_BYTES = 0.3, 5_000_000
REPEATS = 7


def cpu_of(make):
    """Return the CPU seconds of a call after a first one, and what it returned: the least of some, for others only add."""
    text, seconds = make(), []
    for _ in range(REPEATS):
        start = time.process_time()
        text = make()
        seconds.append(time.process_time() - start)
    return min(seconds), text


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Return the store of the demo with its 24 runs."""
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(tmp_path / "splits"))
    argv = [sys.executable, "-m", "perturbfm_core.cli.main", "demo"]
    subprocess.run(argv, check=True, cwd=tmp_path, capture_output=True)
    return ArtifactStore(tmp_path, tmp_path / "splits")


def test_reports_of_the_demo(demo, monkeypatch):
    given = []
    monkeypatch.setattr(stage, "run_report", lambda *values: given.append(values) or "")
    runs = demo.run_dirs()
    for path in runs:
        stage.report_again(demo, path.name)
    found = [cpu_of(lambda values=values: run_report(*values)) for values in given]
    seconds, sizes = [s for s, _ in found], [len(text.encode()) for _, text in found]
    print(
        f"\n{len(runs)} runs: {median(seconds):.3f} CPU s (largest {max(seconds):.3f}), {max(sizes) / 1e3:.0f} kB"
    )
    assert max(seconds) <= GOAL_S
    assert max(sizes) <= GOAL_BYTES


@pytest.mark.parametrize("baselines", [0, 3])
def test_a_report_of_a_thousand_conditions(tmp_path, baselines):
    case = report_case(1000, 2000, tmp_path, baselines=baselines, wide=True)
    seconds, text = cpu_of(case.page)
    size = len(text.encode())
    print(f"\n{len(case.table)} scores, {baselines} baselines: {seconds:.3f} CPU s, {size / 1e6:.2f} MB")
    assert seconds <= GOAL_S
    assert size <= GOAL_BYTES


def test_the_size_is_bounded_beyond_that(tmp_path):
    case = report_case(1500, 3000, tmp_path)
    seconds, text = cpu_of(case.page)
    print(f"\n1,500 conditions of 3,000 genes: {seconds:.3f} CPU s, {len(text.encode()) / 1e6:.2f} MB")
    assert len(text.encode()) <= GOAL_BYTES
