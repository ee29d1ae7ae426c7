"""``perturbfm inbox``: submissions that others leave in a folder."""

from __future__ import annotations

import typer

from perturbfm_core.cli.output import JsonOption, emit_rows, progress, store

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Publish the prediction files that lie in the inbox, each once.",
)


@app.callback()
def _group() -> None:
    """Publish the prediction files that lie in the inbox, each once."""


@app.command("scan")
def scan(as_json: JsonOption = False) -> None:
    """Publish every file of inbox/ that has a YAML file beside it; a bad one moves to inbox/rejected/."""
    from perturbfm_core.pipeline.inbox import scan_inbox

    with progress() as tell:
        outcomes = scan_inbox(store(), tell)
    rows = [{"file": o.name, "status": o.status, "run_id": o.run_id, "reason": o.reason} for o in outcomes]
    if not rows and not as_json:
        print("(no rows: inbox/ holds no submission)")
        return
    emit_rows(rows, as_json, empty="the inbox holds no file with a description beside it")
