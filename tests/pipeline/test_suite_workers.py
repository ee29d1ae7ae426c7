"""Worker processes of a suite: what each cell's end becomes, and that none outlives the caller."""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path

import pytest

from perturbfm_core.errors import DiskError, StoreError
from perturbfm_core.pipeline import suite_failures, suite_run, suite_workers
from perturbfm_core.pipeline.suite import SuiteCell, SuiteSplit
from perturbfm_core.pipeline.suite_run import run_cells
from perturbfm_core.pipeline.suite_status import CellStatus
from perturbfm_core.pipeline.suite_workers import run_in_processes
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.suite_cells import pretend

SPLIT = SuiteSplit(
    "d", "iid", "d.iid.0123456789ab", "d.iid.0123456789ab", "0123456789ab" * 5 + "0123", None, True
)


def cells(*entries):
    return [SuiteCell(SPLIT, entry, 0, None) for entry in entries]


@pytest.fixture
def pretended(monkeypatch):
    """Let workers pretend, and entries be in no catalog."""
    monkeypatch.delenv("PERTURBFM_MAX_TRAIN", raising=False)
    monkeypatch.setattr(suite_run, "run_in_processes", partial(run_in_processes, work=pretend))
    monkeypatch.setattr(
        suite_run, "suite_status", lambda _, asked: [CellStatus(cell, "missing") for cell in asked]
    )
    monkeypatch.setattr(suite_failures, "run_name", lambda cell: cell.entry)


def test_one_failing_cell_stops_no_other(pretended):
    said, seen = [], []
    asked = cells("raises", "fine", "dies", "faulty", "fine2", "fine3")
    found = run_cells(
        ArtifactStore(), asked, jobs=2, again=True, tell=said.append, each=lambda o: seen.append(o.cell.entry)
    )
    assert [o.cell for o in found] == asked
    assert {o.cell.entry: o.state for o in found} == {
        "raises": "failed",
        "fine": "made",
        "dies": "failed",
        "faulty": "failed",
        "fine2": "made",
        "fine3": "made",
    }
    reasons = {o.cell.entry: o.reason for o in found}
    assert reasons["raises"] == "nothing to fit on"
    assert reasons["faulty"] == "ZeroDivisionError: a fault"
    assert reasons["dies"] == (
        "its process was ended from outside (signal 9; out of memory?); run it with fewer --jobs"
    )
    assert sorted(seen) == sorted(reasons)
    assert {"doing raises", "doing fine3"} <= set(said)
    # As many trainings at once as processes, and the option to publish again, reach the worker.
    assert found[1].run == ArtifactStore().runs / "fine-2-True"
    assert sorted(p.stem for p in ArtifactStore().failures.iterdir()) == ["dies", "faulty", "raises"]
    assert multiprocessing.active_children() == []


def test_a_limit_of_trainings_that_is_set_stays(pretended, monkeypatch):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", "1")
    found = run_cells(ArtifactStore(), cells("a", "b"), jobs=5)
    assert [Path(str(o.run)).name for o in found] == ["a-1-False", "b-1-False"]


def test_a_limit_that_is_no_number_is_refused_once_and_is_no_failure_of_each_cell(pretended, monkeypatch):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", "two")
    with pytest.raises(StoreError, match="PERTURBFM_MAX_TRAIN is 'two'"):
        run_cells(ArtifactStore(), cells("a", "b"), each=pytest.fail)
    assert not ArtifactStore().failures.exists()


def test_a_full_disk_ends_the_run_and_the_processes(pretended):
    with pytest.raises(DiskError, match="no space left"):
        run_cells(ArtifactStore(), cells("full", "sleeps"), jobs=2)
    assert multiprocessing.active_children() == []


def test_an_interrupt_ends_the_processes_and_is_no_failure(pretended, monkeypatch):
    def interrupted(_connections):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite_workers, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cells(ArtifactStore(), cells("sleeps", "sleeps2"), jobs=2)
    assert multiprocessing.active_children() == []
    assert not ArtifactStore().failures.exists()
