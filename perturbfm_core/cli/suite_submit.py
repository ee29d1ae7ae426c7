"""``perturbfm suite submit``: a suite's cells as tasks of Slurm or of this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.output import JsonOption, emit, progress, store
from perturbfm_core.cli.suite_options import DataDirOption, OnlyOption, SuiteArgument
from perturbfm_core.errors import ConfigError

if TYPE_CHECKING:
    from perturbfm_core.pipeline.suite_launch import Resources


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
        typer.Option("--option", help="Further option of sbatch, such as account=lab (repeatable)."),
    ] = None,
    only: OnlyOption = None,
    data_dir: DataDirOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be submitted, and make nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit the cells of a suite that have no run as tasks, and a job behind them that ranks.

    What is done, queued or running is left out: the same command submits what was cancelled, failed or lost.
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
        options=dict(_pair(text) for text in option or ()),
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


def _pair(text: str) -> tuple[str, str]:
    key, sep, value = text.removeprefix("--").partition("=")
    if not key or not sep or not value:
        msg = f"--option takes NAME=VALUE as sbatch has it, found {text!r}; e.g. --option account=lab"
        raise ConfigError(msg)
    return key, value


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
    from perturbfm_core.pipeline.suite import plan_suite
    from perturbfm_core.pipeline.suite_filter import parse_only
    from perturbfm_core.pipeline.suite_slurm import sbatch_text
    from perturbfm_core.pipeline.suite_submit import chunks_of, missing_cells, submit_tasks

    home, suite = store(), load_catalog().suite(name)
    with progress(silent=as_json) as tell:
        plan = plan_suite(
            home, suite, make=not dry_run, only=parse_only(only, suite), data_dir=data_dir, tell=tell
        )
    # Two submissions at once would both find the same cells missing.
    with home.lock(f"submit-{name}", what=f"submission of suite {name}"):
        found = missing_cells(home, name, plan.cells)
        chunks = chunks_of(found.cells, on, chunk)
        counts = {"cells": len(plan.cells), "done": found.done, "queued_or_running": found.live}
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
        elif chunks:
            made = submit_tasks(home, name, on, chunks, resources)
            jobs = [job for job, _, _ in made.jobs]
            result |= {"submission": made.id, "jobs": jobs, "refresh": made.refresh}
    if as_json:
        emit(result, True)
        return
    text = result.pop("sbatch", None)
    emit(result, False)
    if text is not None:
        print(text, end="")
