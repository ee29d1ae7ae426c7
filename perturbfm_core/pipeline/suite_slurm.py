"""The tasks of a submission as job arrays of Slurm, through submitit."""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perturbfm_core.errors import ClusterError
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.pipeline.suite_jobs import Submission, keep_started, new_submission
from perturbfm_core.pipeline.suite_launch import Resources, python_command, surroundings, task_command
from perturbfm_core.store.artifacts import ArtifactStore

# Slurm's default MaxArraySize is 1001.
ARRAY_LIMIT = 1000


def sbatch_text(
    store: ArtifactStore, suite: str, chunks: Sequence[Sequence[SuiteCell]], resources: Resources
) -> str:
    """Return the file that sbatch would be given; nothing is written.

    Parameters
    ----------
    store, suite, chunks, resources
        Those of `submit_tasks`.

    Raises
    ------
    ClusterError
        If Slurm would rewrite the path of the store.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    require_plain(store)
    made = new_submission(store, suite, "slurm", chunks, write=False)
    n = min(len(chunks), ARRAY_LIMIT)
    options = _parameters(store, made, resources, made.job_name, resources.dependency)
    text: str = _make_sbatch_string(task_command(made, 0), made.folder, map_count=n, **options)
    return text


def to_slurm(store: ArtifactStore, made: Submission, resources: Resources) -> None:
    """Submit one job array per thousand tasks, and the refresh behind them.

    submitit writes the sbatch file and reads the answer. It is given a command line: its own way, to pickle a
    function and load that in the job, is not used.

    Parameters
    ----------
    store, made, resources
        Where runs go, the submission, and what each task asks for.

    Raises
    ------
    ClusterError
        If sbatch is not there or refuses; what it took before stays queued, and the refresh is behind that.
    """
    from submitit import SlurmExecutor

    require_slurm(store)

    def send(command: str, name: str, dependency: str | None, n: int | None) -> str:
        try:
            executor = SlurmExecutor(folder=made.folder)
            executor.update_parameters(**_parameters(store, made, resources, name, dependency))
            if n is not None:
                executor.parameters["map_count"] = n
            # What sbatch says is in the error as well.
            with contextlib.redirect_stderr(io.StringIO()):
                return str(executor._submit_command(command).job_id)
        except RuntimeError as error:
            said = " ".join(str(error).split()).removeprefix("sbatch: error: ") or "no message"
            msg = f"sbatch refused the job: {said[:300]}"
            raise ClusterError(msg) from error

    jobs: list[tuple[str, int, int]] = []
    refused: ClusterError | None = None
    for first in range(0, len(made.tasks), ARRAY_LIMIT):
        n = min(ARRAY_LIMIT, len(made.tasks) - first)
        try:
            job = send(task_command(made, first), made.job_name, resources.dependency, n)
        except ClusterError as error:
            if not jobs:
                raise
            refused = error
            break
        jobs.append((job, first, n))
        # At once: what is queued must be known if the next is refused.
        keep_started(made, jobs, None)
    after = "afterany:" + ":".join(job for job, _, _ in jobs)
    refresh = None
    try:
        refresh = send(
            python_command("suite", "refresh", made.suite), f"{made.job_name}-refresh", after, None
        )
        keep_started(made, jobs, refresh)
    except ClusterError as error:
        refused = refused or error
    if refused is not None:
        raise ClusterError(_partly(made, jobs, refresh, refused)) from refused


def _partly(
    made: Submission, jobs: Sequence[tuple[str, int, int]], refresh: str | None, refused: ClusterError
) -> str:
    """Return the message of a submission of which sbatch took only a part.

    Parameters
    ----------
    made
        The submission.
    jobs, refresh
        The jobs that are queued.
    refused
        What sbatch said of the first that it did not take.
    """
    queued = sum(n for _, _, n in jobs)
    left = len(made.tasks) - queued
    said = [f"{refused}; job(s) {', '.join(job for job, _, _ in jobs)} with {queued} tasks are queued"]
    if refresh is None:
        said.append(f"run `perturbfm suite refresh {made.suite}` when they end")
    else:
        said.append(f"job {refresh} refreshes the leaderboard when they end")
    if left:
        said.append(f"{left} tasks are not: repeat the command for them when there is room")
    return "; ".join(said)


def require_slurm(store: ArtifactStore) -> None:
    """Refuse to submit where Slurm's commands are missing, or from a store whose path Slurm would rewrite.

    Raises
    ------
    ClusterError
        If it is so.
    """
    require_plain(store)
    for name in ("sbatch", "srun"):
        if shutil.which(name) is None:
            msg = f"{name} is not on PATH; submit from a host of the Slurm cluster, or with --on local"
            raise ClusterError(msg)


def require_plain(store: ArtifactStore) -> None:
    """Refuse a store whose path Slurm would rewrite in the names of its files.

    Raises
    ------
    ClusterError
        If it holds a percent sign.
    """
    if "%" in str(store.jobs.absolute()):
        msg = f"{store.home.absolute()} has % in its path, by which Slurm means numbers of jobs; choose another PERTURBFM_HOME"
        raise ClusterError(msg)


def _parameters(
    store: ArtifactStore, made: Submission, resources: Resources, name: str, dependency: str | None
) -> dict[str, Any]:
    """Return the parameters of submitit's executor."""
    exports = [f"export {key}={shlex.quote(value)}" for key, value in surroundings(store).items()]
    return {
        "job_name": name,
        "partition": resources.partition,
        # submitit's own default would be five minutes; None leaves it to the partition.
        "time": resources.time,
        "mem": resources.mem,
        "gpus_per_node": resources.gpus,
        "cpus_per_task": resources.cpus,
        "array_parallelism": resources.parallel,
        "dependency": dependency,
        # Cores of the node are not cores of the job where Slurm does not bind tasks.
        "setup": [
            # As on this host: what the setup cannot provide, no task is to miss. Later lines decide for themselves.
            *(["set -e", *resources.setup, "set +e"] if resources.setup else []),
            *exports,
            f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{resources.cpus}}}",
        ],
        "stderr_to_stdout": True,
        "wckey": None,
        # srun takes the cores of the job only if it is given them, since Slurm 22.05.
        "srun_args": [f"--cpus-per-task={resources.cpus}"],
        "additional_parameters": {"chdir": str(Path.cwd()), **resources.options},
    }
