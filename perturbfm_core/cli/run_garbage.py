"""``perturbfm runs gc``: runs beyond a number, and stored objects that no run needs."""

from __future__ import annotations

from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, store


def gc(
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep", min=1, help="Keep so many of the newest runs of each configuration (default: all)."
        ),
    ] = None,
    min_age: Annotated[
        float,
        typer.Option("--min-age", min=0.0, help="Hours: younger objects may be of a run being made."),
    ] = 24.0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it; without this, only say what would be.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which stored objects no run needs, and which fits of external models nobody goes on with; with --yes, remove them.

    Tagged runs are kept.
    """
    from perturbfm_core.store.run_removal import collect_garbage, find_garbage

    home = store()
    garbage = find_garbage(home, keep=keep, min_age_s=min_age * 3600)
    if yes:
        collect_garbage(home, garbage)
    emit(
        {
            "removed": yes,
            "runs": [p.name for p in garbage.runs],
            "objects": len(garbage.objects),
            "unfinished": len(garbage.unfinished),
            "bytes": garbage.n_bytes,
        },
        as_json,
    )
