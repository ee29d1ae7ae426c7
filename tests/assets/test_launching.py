"""Where runs are executed, and what they say of it and of what they wait for."""

from __future__ import annotations

import logging
import shutil

import dagster as dg
import pytest

from perturbfm_assets.launcher import HOST_TAG
from perturbfm_core.progress import WAITING
from perturbfm_core.store.owner import this_boot
from tests.support.asset_runs import CONTEXT


def launched(here, instance, tags=None):
    """Run a cell in this process and return the id of its run, whatever became of it."""
    job = here.module("definitions").defs.resolve_job_def("benchmark")
    result = job.execute_in_process(
        instance=instance,
        partition_key=here.module("partitions").grid_key("control_only", CONTEXT["key"]),
        run_config=here.module("jobs").quiet_logs("CRITICAL"),
        raise_on_error=False,
        tags=tags,
    )
    return result.run_id


@pytest.mark.parametrize("job", ["benchmark", "__ASSET_JOB"])
def test_a_cell_is_one_process_wherever_it_was_launched(here, job):
    """A process per step would train on when its run is killed."""
    found = here.module("definitions").defs.get_repository_def().get_job(job)
    assert found.executor_def.name == "in_process"


@pytest.mark.parametrize("what", ["no database", "no folder"])
def test_demo_says_in_one_line_that_the_storage_cannot_be_used(here, tmp_path, monkeypatch, capsys, what):
    storage = tmp_path / ".dagster/storage"
    if what == "no folder":
        storage.parent.mkdir()
        storage.write_text("")
    else:
        (storage / "history").mkdir(parents=True)
        (storage / "history/runs.db").write_bytes(b"no database" * 100)
    shutil.copy(here.path / "dagster.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        here.module("demo").main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the storage of Dagster that ./dagster.yaml names cannot be used: ")
    assert {"no folder": ".dagster/storage", "no database": "file is not a database"}[what] in line


def test_a_cell_that_no_launcher_started_says_where_it_runs(here):
    """Run monitoring knows by it that the process of `dg launch` was killed."""
    for tags in ({}, {HOST_TAG: "elsewhere@0"}):
        with dg.DagsterInstance.ephemeral() as instance:
            run = instance.get_run_by_id(launched(here, instance, tags))
        assert run.tags[HOST_TAG] == tags.get(HOST_TAG, this_boot())


def test_what_a_scan_of_the_inbox_waits_for_is_in_its_log(here, monkeypatch):
    line = f"{WAITING} a scan of the inbox held by run other"
    monkeypatch.setattr(here.module("jobs"), "scan_inbox", lambda _, tell: tell(line) or [])
    job = here.module("definitions").defs.resolve_job_def("publish_submissions")
    quiet = here.module("jobs").quiet_logs("CRITICAL")
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = job.execute_in_process(instance=instance, run_config=quiet).run_id
        found = [e for e in instance.all_logs(run_id) if e.user_message == line]
    assert [logging.getLevelName(e.level) for e in found] == ["WARNING"]


def test_what_a_cell_waits_for_while_it_is_opened_is_in_its_log(here, monkeypatch):
    """Its graph, or its encoder, waits for the training slot as a fit does."""
    module = here.module("assets.experiments")
    line = f"{WAITING} a training slot held by run other"

    def opened(*_, tell):
        tell(line)
        raise ValueError("any failure")

    monkeypatch.setattr(module, "open_experiments", opened)
    with dg.DagsterInstance.ephemeral() as instance:
        found = [e for e in instance.all_logs(launched(here, instance)) if e.user_message == line]
    assert [logging.getLevelName(e.level) for e in found] == ["WARNING"]


@pytest.mark.parametrize(
    ("asset", "start"),
    [("dataset", "demo"), ("split", CONTEXT["key"]), ("report", f"ridge|{CONTEXT['key']}"), ("report", None)],
)
def test_a_run_of_no_single_partition_says_how_to_launch_several(here, asset, start):
    """The dialog of the UI offers ranges in a single run too."""
    ends = {f"dagster/asset_partition_range_{end}": start for end in ("start", "end") if start}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [getattr(here.module(f"assets.{asset}"), asset)],
            instance=instance,
            resources={"store": here.module("resources").StoreResource()},
            run_config=here.module("jobs").quiet_logs("CRITICAL"),
            raise_on_error=False,
            tags=ends,
        )
        (failed,) = [e for e in result.all_events if e.is_step_failure]
    found = "a range of partitions" if start else "no partition"
    said = failed.step_failure_data.error.message
    assert (
        f"the run was launched for {found}, and makes one; launch it for one (tag dagster/partition)" in said
    )
