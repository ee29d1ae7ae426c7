"""``perturbfm leaderboard page``: the page of the published leaderboard, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, progress, store


def page(
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write (default: runs/leaderboard.html).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the page of the published leaderboard: one file that needs nothing else."""
    from perturbfm_core.pipeline.leaderboard_page import write_page

    home = store()
    with progress() as tell:
        tell("page")
        file = write_page(home, out)
    emit({"page": str(file), "bytes": file.stat().st_size}, as_json)
