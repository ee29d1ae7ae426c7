"""Dagster's runs as jobs of Slurm, by stand-ins of its commands: launched, asked about, cancelled, reconciled."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import WorkerStatus

from perturbfm_assets import slurm_launcher, slurm_sensor
from perturbfm_assets.slurm_launcher import JOB_TAG, OPTIONS_TAG, OWNER_TAG, SlurmRunLauncher
from perturbfm_assets.slurm_sensor import reconcile_slurm
from tests.support.fake_slurm import FakeSlurm
from tests.support.paths import REPO


@pytest.fixture(autouse=True)
def these_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Dagster find the classes that this file imports, though other files load the code location anew."""
    for module in (slurm_launcher, slurm_sensor):
        monkeypatch.setitem(sys.modules, module.__name__, module)


UNREACHABLE = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
FORGOTTEN = "slurm_load_jobs error: Invalid job id specified"
CONFIG = {
    "run_launcher": {
        "module": "perturbfm_assets.slurm_launcher",
        "class": "SlurmRunLauncher",
        "config": {"log_dir": "LOGS", "sbatch": ["--mem=2G", "--time=30"], "setup": "module load python"},
    },
    "telemetry": {"enabled": False},
}


@dg.op
def nothing() -> None:
    """Do nothing."""


@dg.job
def empty() -> None:
    """Do nothing."""
    nothing()


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    """Put the stand-ins on PATH."""
    return FakeSlurm(tmp_path / "fake", monkeypatch)


@pytest.fixture
def instance(tmp_path, slurm) -> Iterator[dg.DagsterInstance]:
    """Return an instance whose runs are launched by Slurm."""
    text = yaml.safe_dump(CONFIG).replace("LOGS", str(tmp_path / "logs"))
    (tmp_path / "dagster.yaml").write_text(text)
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def new_run(instance, **tags: str):
    origin = dg.reconstructable(empty).get_python_origin()
    return instance.create_run_for_job(
        empty, job_code_origin=origin, tags=tags, status=dg.DagsterRunStatus.STARTING
    )


def launched(instance, **tags: str):
    """Return a run that is submitted and has not begun."""
    run = new_run(instance, **tags)
    instance.report_engine_event("launched", run)
    instance.run_launcher.launch_run(LaunchRunContext(run, None))
    return instance.get_run_by_id(run.run_id)


def begin(instance, run):
    """Let a run write that it has begun."""
    instance.report_dagster_event(
        dg.DagsterEvent(event_type_value="PIPELINE_START", job_name=run.job_name), run.run_id
    )
    return instance.get_run_by_id(run.run_id)


def test_a_run_is_one_job_that_executes_it(instance, slurm, tmp_path):
    run = launched(instance, **{OPTIONS_TAG: "--mem=16G --gpus=1"})
    assert run.tags[JOB_TAG] == "41"
    script, words = slurm.scripts["41"], slurm.arguments("41").split()
    # What the setup cannot provide no run is to miss.
    assert script.splitlines()[:4] == ["#!/bin/bash", "set -e", "module load python", "set +e"]
    assert "export PERTURBFM_MAX_TRAIN=${PERTURBFM_MAX_TRAIN:-64}" in script
    assert "-m dagster api execute_run" in script.splitlines()[-1]
    assert run.run_id in script
    assert {"--parsable", "--no-requeue", f"--job-name=dagster-{run.run_id}", "--time=30"} <= set(words)
    # What a run asks for stands behind what all ask for, and so wins.
    assert words.index("--mem=2G") < words.index("--mem=16G") < words.index("--gpus=1")
    assert f"--output={tmp_path}/logs/{run.run_id}.%j.out" in words


def test_a_refused_submission_is_raised_and_nothing_is_tagged(instance, slurm):
    slurm.fails("sbatch", "sbatch: error: invalid partition specified: gpuu")
    run = new_run(instance)
    with pytest.raises(Exception, match=r"sbatch failed: .*invalid partition specified: gpuu"):
        instance.run_launcher.launch_run(LaunchRunContext(run, None))
    assert JOB_TAG not in instance.get_run_by_id(run.run_id).tags


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (
            '--mem="8G',
            r"tag slurm/sbatch of run \S+ is '--mem=\"8G', no words of a shell \(No closing quotation\)",
        ),
        ("--comment='a", r"tag slurm/sbatch of run \S+ is .*No closing quotation"),
        ("--mem=8G \\", r"tag slurm/sbatch of run \S+ is .*No escaped character"),
        ("--job-name=mine", "tag slurm/sbatch has --job-name=mine, .*: jobs are found by their name"),
        ("--mem=2G -Jmine", "tag slurm/sbatch has -Jmine, "),
        ("--arr=0-5", "tag slurm/sbatch has --arr=0-5, "),
        ("--requeue", "tag slurm/sbatch has --requeue, "),
    ],
)
def test_options_of_a_run_that_cannot_be_are_named(instance, slurm, tag, message):
    run = new_run(instance, **{OPTIONS_TAG: tag})
    with pytest.raises(Exception, match=message) as caught:
        instance.run_launcher.launch_run(LaunchRunContext(run, None))
    assert type(caught.value).__name__ == "ClusterError"
    assert slurm.scripts == {}


@pytest.mark.parametrize("printed", ["", "  ", "Submitted", ";cluster"])
def test_an_answer_without_a_number_is_refused(instance, slurm, printed):
    (slurm.root / "bin/sbatch").write_text(f"#!/bin/sh\ncat > /dev/null\necho '{printed}'\n")
    run = new_run(instance)
    with pytest.raises(
        Exception, match=rf"sbatch printed '.*' where the number .* called dagster-{run.run_id}"
    ):
        instance.run_launcher.launch_run(LaunchRunContext(run, None))
    assert JOB_TAG not in instance.get_run_by_id(run.run_id).tags


def test_a_folder_of_logs_that_slurm_would_rewrite_is_refused(instance, slurm, tmp_path):
    launcher = instance.run_launcher
    launcher.log_dir = tmp_path / "a%j"
    with pytest.raises(Exception, match="has % in it"):
        launcher.launch_run(LaunchRunContext(new_run(instance), None))
    assert not launcher.log_dir.exists()


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMEOUT"])
@pytest.mark.parametrize("owner", [True, False])
def test_a_retry_is_not_judged_by_the_job_of_its_parent(instance, slurm, state, owner):
    first = launched(instance)
    # What Dagster's retry copies; runs of before had no owner.
    tags = {JOB_TAG: first.tags[JOB_TAG]} | ({OWNER_TAG: first.tags[OWNER_TAG]} if owner else {})
    retry = new_run(instance, **tags, **{"dagster/parent_run_id": first.run_id})
    instance.report_run_failed(first)
    slurm.prints("scontrol", f"JobId=41 JobState={state} Reason=None")
    # sbatch is under way.
    assert reconcile(instance) == "0 jobs; 0 runs failed, 0 jobs cancelled"
    assert not instance.run_launcher.terminate(retry.run_id)
    assert not [call for call in slurm.calls if call.startswith("scancel")]
    assert "job 41" not in instance.run_launcher.get_run_worker_debug_info(retry)
    instance.run_launcher.launch_run(LaunchRunContext(retry, None))
    retry = instance.get_run_by_id(retry.run_id)
    assert retry.tags[JOB_TAG] == "42"
    slurm.prints("scontrol", f"JobId=42 JobState={state} Reason=None")
    assert instance.run_launcher.state(retry) == (state, f"job 42 of Slurm is {state}")
    assert reconcile(instance) == "0 jobs; 1 runs failed, 0 jobs cancelled"


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "PENDING"])
def test_a_started_run_without_a_number_is_found_by_its_name(instance, slurm, state):
    run = begin(instance, new_run(instance))
    slurm.prints("squeue", "9|RUNNING|None|dagster-another", f"57|{state}|None|dagster-{run.run_id}")
    found = instance.run_launcher.check_run_worker_health(run)
    assert (found.status, found.msg) == (WorkerStatus.RUNNING, f"job 57 of Slurm is {state}")
    kept = instance.get_run_by_id(run.run_id)
    assert kept.tags[JOB_TAG] == "57"
    slurm.prints("squeue")
    slurm.prints("scontrol", "JobId=57 JobState=RUNNING Reason=None")
    assert instance.run_launcher.check_run_worker_health(kept).status == WorkerStatus.RUNNING


def test_a_run_that_slurm_does_not_know_at_all_has_failed(instance, slurm):
    run = begin(instance, new_run(instance))
    slurm.prints("squeue", "9|RUNNING|None|dagster-another")
    found = instance.run_launcher.check_run_worker_health(run)
    assert (found.status, "Slurm has none called dagster-" in found.msg) == (WorkerStatus.FAILED, True)
    slurm.fails("squeue", UNREACHABLE)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING


def test_a_run_without_a_number_is_cancelled_by_its_name(instance, slurm):
    run = begin(instance, new_run(instance))
    slurm.prints("squeue", f"57|RUNNING|None|dagster-{run.run_id}")
    assert instance.run_launcher.terminate(run.run_id)
    assert slurm.calls[-1] == "scancel 57"


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("JobId=41 JobState=RUNNING Reason=None ExitCode=0:0", WorkerStatus.RUNNING),
        ("JobId=41 JobState=PENDING Reason=Resources ExitCode=0:0", WorkerStatus.RUNNING),
        ("JobId=41 JobState=COMPLETING Reason=None", WorkerStatus.RUNNING),
        ("JobId=41 JobState=SUSPENDED Reason=None", WorkerStatus.RUNNING),
        ("JobId=41 JobState=COMPLETED Reason=None ExitCode=0:0", WorkerStatus.SUCCESS),
        ("JobId=41 JobState=FAILED Reason=NonZeroExitCode ExitCode=1:0", WorkerStatus.FAILED),
        ("JobId=41 JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125", WorkerStatus.FAILED),
        ("JobId=41 JobState=NODE_FAIL Reason=NodeDown", WorkerStatus.FAILED),
        ("JobId=41 JobState=TIMEOUT Reason=TimeLimit", WorkerStatus.FAILED),
    ],
)
def test_the_health_of_a_run_is_that_of_its_job(instance, slurm, shown, status):
    run = launched(instance)
    slurm.prints("scontrol", shown)
    found = instance.run_launcher.check_run_worker_health(run)
    assert found.status == status
    assert found.msg.startswith("job 41 of Slurm is ")


def test_a_forgotten_job_has_failed_and_a_silent_controller_fails_nothing(instance, slurm):
    run = launched(instance)
    slurm.fails("scontrol", FORGOTTEN)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
    slurm.fails("scontrol", UNREACHABLE)
    found = instance.run_launcher.check_run_worker_health(run)
    assert found.status == WorkerStatus.RUNNING
    assert "Unable to contact" in found.msg
    assert "Unable to contact" in instance.run_launcher.get_run_worker_debug_info(run)


@pytest.mark.parametrize(
    ("state", "status"), [("PENDING", "CANCELED"), ("RUNNING", "CANCELING"), ("TIMEOUT", "CANCELED")]
)
def test_a_cancelled_run_is_cancelled_in_slurm_as_well(instance, slurm, state, status):
    run = launched(instance)
    slurm.prints("scontrol", f"JobId=41 JobState={state} Reason=None")
    assert instance.run_launcher.terminate(run.run_id)
    assert instance.get_run_by_id(run.run_id).status.value == status
    assert ("scancel 41" in slurm.calls) == (state != "TIMEOUT")


def test_what_cannot_be_cancelled_says_so(instance, slurm):
    run = launched(instance)
    slurm.fails("scontrol", UNREACHABLE)
    assert not instance.run_launcher.terminate(run.run_id)
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTING
    slurm.fails("scontrol", None)
    instance.report_run_failed(run)
    assert not instance.run_launcher.terminate(run.run_id)
    assert not instance.run_launcher.terminate("00000000-0000-0000-0000-000000000000")


def reconcile(instance) -> str:
    with dg.build_sensor_context(instance=instance) as context:
        return str(reconcile_slurm(context).skip_message)


def test_a_job_that_ended_before_it_began_fails_its_run(instance, slurm):
    waits, gone, begun = launched(instance), launched(instance), launched(instance)
    begin(instance, begun)
    slurm.prints("squeue", f"41|PENDING|Priority|dagster-{waits.run_id}", "9|RUNNING|None|someone-elses")
    slurm.prints("scontrol", "JobId=42 JobState=CANCELLED Reason=None ExitCode=0:15")
    assert reconcile(instance) == "1 jobs; 1 runs failed, 0 jobs cancelled"
    status = {r.run_id: instance.get_run_by_id(r.run_id).status.value for r in (waits, gone, begun)}
    assert list(status.values()) == ["STARTING", "FAILURE", "STARTED"]
    assert reconcile(instance) == "1 jobs; 0 runs failed, 0 jobs cancelled"


def test_a_job_whose_run_is_over_is_cancelled(instance, slurm):
    marked, running = launched(instance), launched(instance)
    for run in (marked, running):
        instance.report_run_canceled(run)
    slurm.prints(
        "squeue",
        f"41|PENDING|Resources|dagster-{marked.run_id}",
        # Its process may still be closing its files.
        f"42|RUNNING|None|dagster-{running.run_id}",
    )
    assert reconcile(instance) == "2 jobs; 0 runs failed, 1 jobs cancelled"
    assert slurm.calls[-1] == "scancel 41"


def test_where_slurm_is_silent_or_not_used_nothing_is_done(instance, slurm):
    launched(instance)
    slurm.fails("squeue", UNREACHABLE)
    assert reconcile(instance).startswith("squeue failed: ")
    with dg.DagsterInstance.ephemeral() as other:
        assert reconcile(other) == "runs are not launched by Slurm here"


def test_the_launcher_is_configured_by_dagster_yaml(instance):
    launcher = instance.run_launcher
    assert isinstance(launcher, SlurmRunLauncher)
    assert launcher.sbatch == ["--mem=2G", "--time=30"]
    assert launcher.supports_check_run_worker_health


def test_the_shipped_configuration_is_read_by_dagster(tmp_path, monkeypatch):
    pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed")
    monkeypatch.setenv("DAGSTER_PG_URL", "postgresql+psycopg2://dagster@127.0.0.1:1/dagster")
    monkeypatch.setenv("PERTURBFM_SLURM_LOGS", str(tmp_path / "logs"))
    (tmp_path / "dagster.yaml").write_text((REPO / "docs/deploy/slurm/dagster.yaml").read_text())
    ref = InstanceRef.from_dir(str(tmp_path))
    launcher = ref.run_launcher
    # By name: other tests import the code location anew.
    assert type(launcher).__name__ == "SlurmRunLauncher"
    assert launcher.log_dir == tmp_path / "logs"
    assert ref.settings["run_monitoring"]["start_timeout_seconds"] == 86400
