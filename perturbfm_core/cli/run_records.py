"""``perturbfm runs``: the runs of the store, listed, shown, tagged and removed."""

from __future__ import annotations

import sys
from typing import Annotated, Any, get_args

import typer

from perturbfm_core import schema
from perturbfm_core.cli.output import JsonOption, emit, emit_rows, store
from perturbfm_core.cli.run_comparison import compare
from perturbfm_core.cli.run_garbage import gc
from perturbfm_core.errors import ConfigError
from perturbfm_core.leaderboard.headline import HEADLINE

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="List, show, compare, tag and remove runs.",
)

RunArgument = Annotated[str, typer.Argument(help="Run directory, id or prefix of the id.")]


@app.command("list")
def list_(
    entry: Annotated[str | None, typer.Option("--entry", help="Only runs of this entry.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Only splits whose hash begins with, or key contains, this.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.")] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="Only baseline, learned or external.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only runs with this tag.")] = None,
    current: Annotated[
        bool,
        typer.Option(
            "--current",
            help="Only the run of each configuration that was asked for last (a board counts those of one configuration).",
        ),
    ] = False,
    last: Annotated[int | None, typer.Option("--last", min=1, help="Only so many of the newest.")] = None,
    metric: Annotated[str, typer.Option("--metric", help="Score to show, as PANEL.METRIC.")] = HEADLINE,
    as_json: JsonOption = False,
) -> None:
    """List the runs, newest first, one per line."""
    from perturbfm_core.evaluation.metric import METRICS
    from perturbfm_core.leaderboard.run_list import RunFilter, list_runs
    from perturbfm_core.store.run_record import Family

    METRICS.get(metric)
    if family is not None and family not in get_args(Family):
        msg = f"family {family!r} is none; give one of {', '.join(get_args(Family))}"
        raise ConfigError(msg)
    home = store()
    runs, skipped = list_runs(home, RunFilter(entry, split, dataset, family, tag, current, last))
    name = metric.partition(".")[2]
    rows: list[dict[str, Any]] = [
        {
            "run_id": r.path.name,
            "created": r.record.created[:19],
            "dataset": r.record.dataset.name,
            "kind": r.record.split.kind,
            "entry": r.record.entry,
            "family": r.record.family,
            "seed": r.record.seed,
            name: r.value(metric),
            "current": r.is_current,
            "tags": ",".join(r.tags) or None,
        }
        for r in runs
    ]
    for broken in skipped:
        print(f"warning: run {broken} cannot be read; see `perturbfm leaderboard refresh`", file=sys.stderr)
    if not rows and not as_json:
        print(f"(no rows: no run in {home.runs} matches)")
        return
    emit_rows(
        rows,
        as_json,
        empty="no run passes; `perturbfm run` makes one, and `runs list` without filters has all",
    )


@app.command("show")
def show(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show what a run was made of, its headline scores, and its files."""
    from perturbfm_core.evaluation.panel import headlines
    from perturbfm_core.store.atomic import read_json
    from perturbfm_core.store.run_record import is_whole, read_run_record
    from perturbfm_core.store.run_removal import size_of
    from perturbfm_core.store.run_tags import run_tags

    home = store()
    path = home.find_run(run)
    r = read_run_record(path)
    made = r.submission
    emit(
        {
            "run_id": r.run_id,
            "run_dir": str(path),
            "created": r.created,
            "tags": list(run_tags(home).get(path.name, ())),
            "entry": r.entry,
            "model": r.model,
            "family": r.family,
            "seed": r.seed,
            "params": r.params,
            "uncertainty": r.uncertainty,
            "dataset": r.dataset.name,
            "data_hash": r.data_hash,
            "split_hash": r.split_hash,
            "split_key": r.split.key,
            "config_hash": r.config_hash,
            "parent_run": r.parent_run,
            **({} if made is None else made.model_dump()),
            **headlines(read_json(path / schema.METRICS_FILE)),
            **r.flags.model_dump(),
            "warnings": r.notes.get("warnings", []),
            "whole": is_whole(path, r),
            "bytes": size_of(path),
            "report": str(path / schema.REPORT_FILE),
        },
        as_json,
    )


@app.command("tag")
def tag(
    run: RunArgument,
    tags: Annotated[list[str] | None, typer.Argument(help="Tags to add.")] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="Tag to take away (repeatable).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tag a run: `runs list --tag` finds it, `runs rm` and `runs gc` keep it."""
    from perturbfm_core.store.run_removal import find_own_run
    from perturbfm_core.store.run_tags import tag_run

    if not tags and not remove:
        msg = "give tags to add, or --remove TAG"
        raise ConfigError(msg)
    home = store()
    path = find_own_run(home, run)
    emit({"run_id": path.name, "tags": list(tag_run(home, path.name, tags or (), remove or ()))}, as_json)


@app.command("rm")
def rm(
    runs: Annotated[list[str], typer.Argument(help="Ids of runs or prefixes of them.")],
    force: Annotated[bool, typer.Option("--force", help="Remove tagged runs, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove runs; all of them or, if one is not found or tagged, none."""
    from perturbfm_core.store.run_removal import find_own_run, remove_run, size_of
    from perturbfm_core.store.run_tags import run_tags

    home = store()
    paths = list(dict.fromkeys(find_own_run(home, name) for name in runs))
    tagged = [p.name for p in paths if p.name in run_tags(home)]
    if tagged and not force:
        msg = f"run {tagged[0]} is tagged {', '.join(run_tags(home)[tagged[0]])}; give --force to remove it"
        raise ConfigError(msg)
    size = sum(size_of(p) for p in paths)
    for path in [] if dry_run else paths:
        remove_run(home, path)
    emit({"removed": not dry_run, "runs": [p.name for p in paths], "bytes": size}, as_json)


app.command("compare")(compare)
app.command("gc")(gc)
