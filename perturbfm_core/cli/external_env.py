"""``perturbfm external env``: building, listing and removing the environments of external models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.cli.output import JsonOption, emit, emit_rows, progress, store

if TYPE_CHECKING:
    from perturbfm_core.external.environments import EnvironmentState

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Build, list and remove the environments that external models run in.",
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Model: gears, scgen, state or cpa.")]


@app.command("create")
def create(
    name: _Name,
    python: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Interpreter to use (default: one of the needed version is found)."
        ),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(metavar="PLACE", help="Further package index: an address, or a folder of wheels."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Build an environment that takes much disk.")] = False,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept a licence that forbids commercial use.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the environment of a model from its lock, with uv or else pip; one that is built stays.

    A build that was interrupted goes on when it is repeated. Environments lie under .envs of PERTURBFM_HOME, or in
    the folder that PERTURBFM_ENVS names.
    """
    from perturbfm_core.external.environment_building import check_consent, create_environment
    from perturbfm_core.external.environments import BUILT, state_of

    home = store()
    found = state_of(name, home)
    if found.state == BUILT:
        # Before a build, the build itself says it.
        print(f"licence of {found.known.package}: {found.known.licence}", file=sys.stderr)
    else:
        check_consent(name, size=yes, licence=accept_licence)
    with progress() as tell:
        made = create_environment(name, home, python=python, index=index or (), tell=tell)
    emit({**_row(made), "path": str(made.folder)}, as_json)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the models with the state, size, licence and Python of their environments."""
    from perturbfm_core.external.environments import all_states

    emit_rows([_row(found) for found in all_states(store())], as_json)


@app.command("remove")
def remove(name: _Name, as_json: JsonOption = False) -> None:
    """Remove the environment of a model, and what older locks left of it."""
    from perturbfm_core.external.environment_building import remove_environment

    emit({"removed": [str(folder) for folder in remove_environment(name, store())]}, as_json)


def _row(found: EnvironmentState) -> dict[str, Any]:
    from perturbfm_core.external.environments import BROKEN, BUILT
    from perturbfm_core.store.disk import amount

    about = "" if found.state in (BUILT, BROKEN) else "about "
    return {
        "name": found.known.name,
        "state": f"{found.state} ({found.why})" if found.why else found.state,
        "size": about + amount(found.size),
        "licence": found.known.licence,
        "commercial": "forbidden" if found.known.non_commercial else "allowed",
        "python": found.known.python,
    }
