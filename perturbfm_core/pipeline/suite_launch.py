"""Command lines and surroundings of a submission's tasks, wherever they are started."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from perturbfm_core.pipeline.suite_jobs import Submission
from perturbfm_core.store.artifacts import ArtifactStore

# What decides which suites, models and metrics there are, and where environments of models lie.
_FOLDERS = ("PERTURBFM_CATALOG", "PERTURBFM_PLUGINS", "PERTURBFM_ENVS")


@dataclass(frozen=True)
class Resources:
    """What each task asks Slurm for; what is None is left to the partition.

    Attributes
    ----------
    partition, time, mem, gpus, cpus
        As sbatch has them: ``4:00:00`` or minutes, ``8G``, number of GPUs and cores of a task.
    parallel
        Largest number of tasks at once.
    setup
        Lines of shell before the task, such as ``module load python``.
    dependency
        What must come before the tasks, such as ``afterok:123``.
    options
        Further options of sbatch; True is one without a value.
    """

    partition: str | None = None
    time: str | None = None
    mem: str | None = None
    gpus: int | None = None
    cpus: int = 1
    parallel: int = 256
    setup: tuple[str, ...] = ()
    dependency: str | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)


def task_command(made: Submission, first: int, index: int | None = None) -> str:
    """Return the command line of a task: of one, or of a job array whose first task is `first`.

    Parameters
    ----------
    made
        The submission.
    first, index
        First task of the array, and the task, None where the array says which.
    """
    words = ["suite", "task", made.suite, made.id, "--first", str(first)]
    return python_command(*words, *([] if index is None else ["--index", str(index)]))


def python_command(*words: str) -> str:
    """Return the command line of a verb, by this interpreter."""
    return shlex.join([sys.executable, "-u", "-m", "perturbfm_core.cli.main", *words])


def surroundings(store: ArtifactStore) -> dict[str, str]:
    """Return the variables of a task: the same folders, wherever it runs."""
    found = {
        "PERTURBFM_HOME": str(store.home.absolute()),
        "PERTURBFM_SPLIT_DIR": str(store.split_dir.absolute()),
    }
    # Slurm passes all variables on, unless sbatch or the site says otherwise (--export=NONE).
    found |= {name: os.path.abspath(os.environ[name]) for name in _FOLDERS if os.environ.get(name)}
    if "PYTHONPATH" in os.environ:
        found["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return found
