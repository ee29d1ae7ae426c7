"""``perturbfm leaderboard export``: the published leaderboard as files for readers elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, progress, store


def export(
    parquet: Annotated[
        Path, typer.Option("--parquet", help="Folder to make, with a Parquet file per table.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the folder if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the published leaderboard to Parquet files: tables, views, and the scores of the current runs."""
    from perturbfm_core.cli.leaderboard import warn_if_older
    from perturbfm_core.leaderboard.parquet_export import export_parquet

    home = store()
    with progress() as tell:
        tell("exporting")
        counts = export_parquet(home, parquet, overwrite=force)
    warn_if_older(home)
    emit({"folder": str(parquet), **counts}, as_json)
