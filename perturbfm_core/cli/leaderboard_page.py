"""``perturbfm leaderboard page``: the page of the published leaderboard, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, progress, require_html, store


def page(
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write (default: runs/leaderboard.html).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the page of the published leaderboard: one file that needs nothing else."""
    if out is not None:
        require_html(out)
    from perturbfm_core.cli.leaderboard import warn_if_older
    from perturbfm_core.pipeline.leaderboard_page import write_page

    home = store()
    with progress() as tell:
        tell("page")
        file = write_page(home, out)
    warn_if_older(home)
    emit({"page": str(file), "bytes": file.stat().st_size}, as_json)
