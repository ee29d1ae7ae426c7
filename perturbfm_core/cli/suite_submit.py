"""``perturbfm suite submit``: a suite's cells as tasks of Slurm or of this host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.output import JsonOption, emit, progress, store
from perturbfm_core.cli.suite_options import DataDirOption, OnlyOption, SuiteArgument
from perturbfm_core.errors import ConfigError

if TYPE_CHECKING:
    from perturbfm_core.pipeline.suite_launch import Resources

_NAME = re.compile(r"[a-z][a-z0-9-]+")


def submit(
    name: SuiteArgument,
    on: Annotated[str, typer.Option("--on", help="slurm or local (processes of this host).")],
    chunk: Annotated[
        int | None,
        typer.Option("--chunk", min=1, help="Cells per task (default: 10; locally one task per core)."),
    ] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="Slurm partition.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Time limit of a task: minutes, or H:MM:SS.")
    ] = None,
    mem: Annotated[str | None, typer.Option("--mem", help="Memory of a task, such as 8G.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs of a task.")] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", min=1, help="Cores of a task (default: 1).")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Most tasks at once (default: 256).")
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            "--setup", help='Line of shell before the task, such as "module load ..." (repeatable).'
        ),
    ] = None,
    dependency: Annotated[
        str | None, typer.Option("--dependency", help="What must end before, such as afterok:123.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", help="Further option of sbatch, such as account=lab or exclusive (repeatable)."
        ),
    ] = None,
    only: OnlyOption = None,
    data_dir: DataDirOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be submitted, and make nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit the cells of a suite that have no run as tasks, and a job behind them that ranks.

    What is done, queued or running is left out: the same command submits what was cancelled, failed or lost. With nothing
    left to submit it ranks at once.
    """
    from perturbfm_core.pipeline.suite_launch import Resources

    slurm_only = {
        "--partition": partition,
        "--time": time,
        "--mem": mem,
        "--gpus": gpus,
        "--cpus": cpus,
        "--parallel": parallel,
        "--dependency": dependency,
        "--option": option,
    }
    _check(on, slurm_only)
    resources = Resources(
        partition=partition,
        time=time,
        mem=mem,
        gpus=gpus,
        cpus=cpus or 1,
        parallel=parallel or 256,
        setup=tuple(setup or ()),
        dependency=dependency,
        options=_options(option or ()),
    )
    _submit(name, on, chunk, resources, only or [], data_dir, dry_run=dry_run, as_json=as_json)


def _check(on: str, slurm_only: Mapping[str, object]) -> None:
    if on not in ("slurm", "local"):
        msg = f"--on {on!r} is none of: slurm, local"
        raise ConfigError(msg)
    given = [flag for flag, value in slurm_only.items() if value]
    if on == "local" and given:
        msg = f"{', '.join(given)} is for Slurm to decide about; leave it out with --on local"
        raise ConfigError(msg)


def _options(given: Sequence[str]) -> dict[str, str | bool]:
    """Return further options of sbatch by name; one without a value is True."""
    from perturbfm_core.pipeline.slurm_options import LETTERS, OF_SUITES, OWN, full_name

    out: dict[str, str | bool] = {}
    for text in given:
        key, sep, value = text.lstrip("-").partition("=")
        name = key if len(key) == 1 else key.strip().replace("_", "-")
        full = full_name(name, [*OWN, *OF_SUITES])
        if full in OWN:
            msg = f"--option {text!r} is {OWN[full]} of this verb; give that"
            raise ConfigError(msg)
        if full is not None:
            msg = f"--option {text!r} cannot be given: perturbfm sets {full}, as {OF_SUITES[full]}"
            raise ConfigError(msg)
        if not _NAME.fullmatch(name) or (sep and not value) or "\n" in value:
            hint = " in full" if name in LETTERS or len(name) == 1 else ""
            msg = f"--option takes NAME=VALUE or NAME{hint} as sbatch has it, found {text!r}; e.g. --option account=lab"
            raise ConfigError(msg)
        if name in out:
            msg = f"--option {name} is given twice; give it once"
            raise ConfigError(msg)
        out[name] = value if sep else True
    return out


def _submit(
    name: str,
    on: str,
    chunk: int | None,
    resources: Resources,
    only: list[str],
    data_dir: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from perturbfm_core.cli.suite_running import refresh as rank
    from perturbfm_core.pipeline.suite import plan_suite
    from perturbfm_core.pipeline.suite_filter import parse_only
    from perturbfm_core.pipeline.suite_slurm import require_plain, require_slurm, sbatch_text
    from perturbfm_core.pipeline.suite_submit import chunks_of, missing_cells, submit_tasks
    from perturbfm_core.store.run_requests import note_request

    home, suite = store(), load_catalog().suite(name)
    if on == "slurm":
        # Before hours are spent on data.
        (require_plain if dry_run else require_slurm)(home)
    with progress(silent=as_json) as tell:
        plan = plan_suite(
            home, suite, make=not dry_run, only=parse_only(only, suite), data_dir=data_dir, tell=tell
        )
    # Two submissions at once would both find the same cells missing; a dry run makes nothing, not even the lock.
    turn = nullcontext() if dry_run else home.lock(f"submit-{name}", what=f"submission of suite {name}")
    with turn:
        found = missing_cells(home, name, plan.cells)
        chunks = chunks_of(found.cells, on, chunk)
        counts = {"cells": len(plan.cells), "done": len(found.done), "queued_or_running": found.live}
        result: dict[str, Any] = {
            "suite": name,
            **counts,
            "not_applicable": found.not_applicable,
            "submitted": len(found.cells),
            "tasks": len(chunks),
        }
        if dry_run:
            if plan.unmade:
                result["data_not_made"] = list(plan.unmade)
            if on == "slurm" and chunks:
                result["sbatch"] = sbatch_text(home, name, chunks, resources)
        else:
            # What is there already is asked for again, as by `suite run`.
            for run in found.done:
                note_request(home, run)
            if chunks:
                made = submit_tasks(home, name, on, chunks, resources)
                jobs = [job for job, _, _ in made.jobs]
                result |= {"submission": made.id, "jobs": jobs, "refresh": made.refresh}
            elif found.done and not found.live:
                # No task is left that a ranking could follow.
                with progress(silent=as_json) as tell:
                    files = rank(home, suite, tell)
                result |= {"leaderboard": str(home.leaderboard), **{k: str(v) for k, v in files.items()}}
    if as_json:
        emit(result, True)
        return
    text = result.pop("sbatch", None)
    emit(result, False)
    if text is not None:
        print(text, end="")
