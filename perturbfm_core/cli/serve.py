"""``perturbfm serve``: the leaderboard, reports and scorecards in a browser, read-only."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from perturbfm_core.cli.output import store


def serve(
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for any that is free.")
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Any other than this machine's own lets others read every run."
        ),
    ] = "127.0.0.1",
) -> None:
    """Serve the leaderboard page, reports and scorecards on this machine, read-only, until Ctrl-C."""
    from perturbfm_core.pipeline.serving import LOOPBACK, PageServer
    from perturbfm_core.pipeline.serving import serve as run

    if host not in LOOPBACK:
        print(
            f"warning: {host} is not this machine alone: whoever reaches it can read every run",
            file=sys.stderr,
        )
    server = PageServer(store(), port, host, lambda line: print(line, file=sys.stderr, flush=True))
    run(server, lambda address: print(f"url={address}", flush=True))


COMMANDS = {"serve": (serve, None)}
