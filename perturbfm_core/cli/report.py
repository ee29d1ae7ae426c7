"""``perturbfm report``: the report of a run, found or made anew, and opened in a browser."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core import schema
from perturbfm_core.cli.output import JsonOption, data_place, emit, require_html, store
from perturbfm_core.errors import ConfigError, StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import file_digest, write_atomic


def report(
    run: Annotated[str, typer.Argument(help="Run directory, id or prefix of the id.")],
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Make the report anew, beside the baselines that there are now, and write it here."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            parser=data_place,
            metavar="DATA",
            help="With --out: data set, by name, directory or content hash (default: the run's, looked for).",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find the report of a run, or make it anew with --out; --open shows it in a browser."""
    from perturbfm_core.store.run_record import read_run_record

    home = store()
    folder = home.find_run(run)
    record = read_run_record(folder)
    if out is None:
        if data is not None or force:
            msg = "--data and --force belong to --out FILE, which makes the report anew; give it as well"
            raise ConfigError(msg)
        page = _published(folder, record.files.get(schema.REPORT_FILE))
    else:
        page = _made(home, run, out, data, force=force)
    shown = open_ and webbrowser.open(page.resolve().as_uri())
    if open_ and not shown:
        print(f"warning: no browser could be started; open {page.resolve()} in one", file=sys.stderr)
    emit({"run_id": record.run_id, "report": str(page), "made": out is not None, "opened": shown}, as_json)


def _published(folder: Path, digest: str | None) -> Path:
    """Return the report that a run was published with.

    Raises
    ------
    StoreError
        If it is gone.
    """
    page = folder / schema.REPORT_FILE
    if not page.is_file():
        msg = f"{folder} has no {schema.REPORT_FILE}; make it anew with --out FILE"
        raise StoreError(msg)
    if digest is not None and file_digest(page) != digest:
        print(f"warning: {page} is not as it was published; make it anew with --out FILE", file=sys.stderr)
    return page


def _made(home: ArtifactStore, run: str, out: Path, data: Path | None, *, force: bool) -> Path:
    """Make the report of a run anew and return its file.

    Raises
    ------
    ConfigError
        If `out` is not to be written.
    """
    from perturbfm_core.pipeline.report import report_again

    require_html(out)
    if out.exists() and not force:
        msg = f"{out} already exists; choose another --out, or give --force to replace it"
        raise ConfigError(msg)
    folder = home.find_run(run).resolve()
    if folder == out.resolve().parent:
        msg = f"{out} lies in the run itself, which never changes; choose an --out elsewhere"
        raise ConfigError(msg)
    write_atomic(out, report_again(home, run, data))
    return out


COMMANDS = {"report": (report, None)}
