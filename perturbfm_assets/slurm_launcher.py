"""A run launcher for Slurm: every Dagster run is one job, asset code unchanged."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from perturbfm_core.errors import ClusterError
from perturbfm_core.pipeline import slurm_queue
from perturbfm_core.pipeline.slurm_options import OF_RUNS, refused_word

JOB_TAG = "slurm/job_id"
# The run that the number is of: a retry has its parent's tags, until it has a job of its own.
OWNER_TAG = "slurm/run_id"
PARENT_TAG = "dagster/parent_run_id"
# Options of sbatch for one run, after those of the configuration: "--mem=16G --gpus=1".
OPTIONS_TAG = "slurm/sbatch"
NAME_PREFIX = "dagster-"
# Of these no process will say anything more.
ENDED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)
# As many fits of one host at once as its jobs want: Slurm has given each its share.
_SETUP = "export PERTURBFM_MAX_TRAIN=${PERTURBFM_MAX_TRAIN:-64}\nexport OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"


def job_of(run: dg.DagsterRun) -> str | None:
    """Return the number of a run's own job, None if it is not known: the tag may be its parent's, copied to a retry."""
    job = run.tags.get(JOB_TAG)
    owner = run.tags.get(OWNER_TAG)
    # Runs of before this tag have none; of a retry among them it cannot be said.
    own = owner == run.run_id if owner is not None else PARENT_TAG not in run.tags
    return job if job and own else None


class SlurmRunLauncher(RunLauncher, ConfigurableClass):
    """Launches each run by sbatch; run monitoring asks Slurm how it is.

    The compute nodes need the event storage (Postgres), the file system of the store, and the same environment.

    Parameters
    ----------
    log_dir
        Folder of what jobs print, on a shared file system.
    sbatch
        Options of sbatch for all runs; the run tag ``slurm/sbatch`` adds some for one.
    setup
        Lines of shell before a run, such as ``module load python``.
    inst_data
        What Dagster keeps of the configuration.
    """

    def __init__(
        self,
        log_dir: str,
        sbatch: list[str] | None = None,
        setup: str = "",
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self._inst_data = inst_data
        self.log_dir = Path(log_dir)
        self.sbatch = sbatch or []
        self.setup = setup
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Return what Dagster keeps of the configuration."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the configuration that ``dagster.yaml`` may hold."""
        return {
            "log_dir": dg.StringSource,
            "sbatch": dg.Field([str], is_required=False, default_value=[]),
            "setup": dg.Field(str, is_required=False, default_value=""),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Return the launcher of a configuration."""
        return cls(**config_value, inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit a run, and keep the number of its job as a tag.

        Raises
        ------
        ClusterError
            If Slurm refuses it, or an option or folder is one that it must not have.
        """
        run = context.dagster_run
        origin = context.job_code_origin
        if origin is None:
            message = (
                f"run {run.run_id} does not say where its job is defined; launch it from a code location"
            )
            raise ClusterError(message)
        args = ExecuteRunArgs(
            job_origin=origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        if "%" in str(self.log_dir):
            message = (
                f"log_dir {self.log_dir} has % in it, by which Slurm means numbers of jobs; choose another"
            )
            raise ClusterError(message)
        options = self._options(run)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        command = shlex.join([sys.executable, "-m", *args.get_command_args()])
        name = f"{NAME_PREFIX}{run.run_id}"
        # A run must not begin without what the setup is to provide; later lines decide for themselves.
        setup = f"set -e\n{self.setup}\nset +e\n" if self.setup.strip() else ""
        job = slurm_queue.command(
            "sbatch",
            "--parsable",
            # Dagster retries by a run of its own; the same run twice would be refused.
            "--no-requeue",
            f"--job-name={name}",
            f"--output={self.log_dir}/{run.run_id}.%j.out",
            *options,
            stdin=f"#!/bin/bash\n{setup}{_SETUP}\nexec {command}\n",
        )
        # On a federation the cluster follows.
        number = job.strip().partition(";")[0]
        if not (number.isascii() and number.isdecimal()):
            message = (
                f"sbatch printed {job.strip()[:80]!r} where the number of a job was to be; "
                f"a job that it made all the same is called {name}"
            )
            raise ClusterError(message)
        self._keep(run, number)
        self._instance.report_engine_event(f"Submitted as job {number} of Slurm", run, cls=self.__class__)

    def _options(self, run: dg.DagsterRun) -> list[str]:
        """Return the options of sbatch for a run: those of all runs, then its own."""
        text = run.tags.get(OPTIONS_TAG, "")
        try:
            own = shlex.split(text)
        except ValueError as error:
            message = f"tag {OPTIONS_TAG} of run {run.run_id} is {text!r}, no words of a shell ({error}); launch it with another"
            raise ClusterError(message) from error
        for source, words in (("sbatch of the run launcher", self.sbatch), (f"tag {OPTIONS_TAG}", own)):
            refused = refused_word(words, OF_RUNS)
            if refused is not None:
                message = f"{source} has {refused[0]}, which no run may set: {refused[1]}; leave it out"
                raise ClusterError(message)
        return [*self.sbatch, *own]

    def _keep(self, run: dg.DagsterRun, number: str) -> None:
        """Keep the number of a run's job."""
        self._instance.add_run_tags(run.run_id, {JOB_TAG: number, OWNER_TAG: run.run_id})

    def state(self, run: dg.DagsterRun) -> tuple[str, str]:
        """Return the state of a run's job, ``GONE`` if Slurm has forgotten it, and a line that says so.

        Raises
        ------
        ClusterError
            If Slurm cannot be asked.
        """
        job = job_of(run)
        if job is None:
            entry = self._unnumbered(run)
            if entry is None:
                return (
                    "GONE",
                    f"no number of a job is known, and Slurm has none called {NAME_PREFIX}{run.run_id}",
                )
            return entry.state, f"job {entry.job} of Slurm is {entry.state}"
        known = slurm_queue.job_state(job)
        state = known.get("JobState", "GONE")
        more = {"reason": known.get("Reason", "None"), "exit code": known.get("ExitCode", "0:0")}
        shown = [f"{key} {value}" for key, value in more.items() if value not in ("None", "0:0")]
        return state, f"job {job} of Slurm is {state}" + (f" ({', '.join(shown)})" if shown else "")

    def _unnumbered(self, run: dg.DagsterRun) -> slurm_queue.QueueEntry | None:
        """Return a run's job by its name, and keep its number: the daemon was killed before it could."""
        name = NAME_PREFIX + run.run_id
        entry = next((e for e in slurm_queue.own_queue() if e.name == name), None)
        if entry is not None:
            self._keep(run, entry.job)
        return entry

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return that runs are watched."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the job of a started run still runs; one that nobody can ask about does."""
        try:
            state, line = self.state(run)
        except ClusterError as error:
            # A controller that is down for a while must not fail what it runs.
            return CheckRunHealthResult(WorkerStatus.RUNNING, str(error))
        if state == "COMPLETED":
            return CheckRunHealthResult(WorkerStatus.SUCCESS, line)
        failed = state == "GONE" or state in ENDED
        return CheckRunHealthResult(WorkerStatus.FAILED if failed else WorkerStatus.RUNNING, line)

    def get_run_worker_debug_info(
        self, run: dg.DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """Return what Slurm says of a run's job."""
        try:
            return self.state(run)[1]
        except ClusterError as error:
            return str(error)

    def terminate(self, run_id: str) -> bool:
        """Cancel the job of a run; return whether there was one to cancel."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        try:
            state, _ = self.state(run)
            # The state of a job without a number gives it one.
            job = job_of(self._instance.get_run_by_id(run_id) or run)
            if job is None:
                return False
            self._instance.report_run_canceling(run)
            if state not in ENDED and state != "GONE":
                slurm_queue.cancel([job])
        except ClusterError as error:
            self._instance.report_engine_event(f"Not cancelled: {error}", run, cls=self.__class__)
            return False
        if state in ("PENDING", "CONFIGURING", "GONE") or state in ENDED:
            # No process will report it.
            self._instance.report_run_canceled(run)
        return True
