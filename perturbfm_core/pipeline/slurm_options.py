"""Options of sbatch: which of them a user may add, and which the bookkeeping of jobs stands on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Set for every job, with the reason: another value, and what became of its job would not be known.
_KEPT = {
    "job-name": "jobs are found by their name",
    "array": "it numbers the tasks",
    "wrap": "the job has a script",
    "test-only": "it submits nothing; --dry-run shows the job",
    "parsable": "the number of the job is read from the usual line",
    "quiet": "the number of the job is read from the usual line",
    "wait": "the tasks are not waited for",
    "cluster": "squeue would not see the job; set SLURM_CLUSTERS, which it reads as well",
    "clusters": "squeue would not see the job; set SLURM_CLUSTERS, which it reads as well",
}
OF_SUITES = _KEPT | {
    "output": "suite logs reads that file",
    "error": "suite logs reads the file of the output",
    "open-mode": "a repeated task writes behind its text",
    "signal": "it lets a task end in order before its time limit",
    "chdir": "tasks begin where they are submitted",
    "workdir": "tasks begin where they are submitted",
}
# Of single jobs `sbatch --parsable` is asked for the number already, and nobody waits for a script's end.
OF_RUNS = {name: _KEPT[name] for name in _KEPT if name not in ("parsable", "wait")} | {
    "requeue": "Dagster retries by a run of its own"
}
# What `suite submit` has an option of its own for.
OWN = {
    "time": "--time",
    "mem": "--mem",
    "partition": "--partition",
    "cpus-per-task": "--cpus",
    "gpus-per-node": "--gpus",
    "dependency": "--dependency",
}
LETTERS = {
    "J": "job-name",
    "a": "array",
    "o": "output",
    "e": "error",
    "D": "chdir",
    "Q": "quiet",
    "W": "wait",
    "M": "clusters",
    "t": "time",
    "p": "partition",
    "c": "cpus-per-task",
    "d": "dependency",
}
# Options by themselves, though a longer one begins with them.
_WHOLE = ("gpus",)


def full_name(name: str, names: Iterable[str]) -> str | None:
    """Return which of some options sbatch would take a name for: a letter or the beginning of one will do for it.

    Parameters
    ----------
    name
        What was given, without leading dashes.
    names
        Options in full.
    """
    known = list(names)
    if not name:
        return None
    if len(name) == 1:
        return LETTERS[name] if LETTERS.get(name) in known else None
    if name in known or name in _WHOLE:
        return name if name in known else None
    return next((full for full in known if full.startswith(name)), None)


def refused_word(words: Iterable[str], names: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first word of a command line that sets one of some options, and the reason; None if none does.

    Parameters
    ----------
    words
        Such as ``--mem=8G`` and ``-J``.
    names
        Reasons by option.
    """
    for word in words:
        if word.startswith("--"):
            found = full_name(word[2:].partition("=")[0].replace("_", "-"), names) if word[2:] else None
        else:
            found = full_name(word[1:2], names) if word.startswith("-") else None
        if found is not None:
            return word, names[found]
    return None
