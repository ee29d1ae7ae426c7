"""``perturbfm site``: the leaderboard with its reports and scorecards as a folder of static pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, progress, store

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Build a folder of static pages.",
)


@app.callback()
def _root() -> None:
    """Build a folder of static pages."""


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; any web server can give it out.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a site that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the leaderboard page with the reports of all runs that count and the scorecards of all suites."""
    from perturbfm_core.cli.leaderboard import warn_if_older
    from perturbfm_core.pipeline.site import INDEX, build_site

    home = store()
    with progress() as tell:
        tell("site")
        site = build_site(home, out, overwrite=force)
    warn_if_older(home)
    for run in site.missing:
        print(f"warning: run {run} has no report", file=sys.stderr)
    emit({"site": str(site.folder / INDEX), "reports": site.reports, "scorecards": site.scorecards}, as_json)
