"""``perturbfm rescore``: old runs brought up to new metrics and panels, without a fit."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, emit_rows, progress, store
from perturbfm_core.errors import ConfigError


def rescore(
    run: Annotated[
        list[str] | None, typer.Option("--run", help="Run directory, id or prefix of the id (repeatable).")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="The newest run of every configuration.")] = False,
    panel: Annotated[
        list[str] | None,
        typer.Option("--panel", help="Score only this panel anew, and keep the others (repeatable)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score runs again by the metrics that there are now, without a fit; each is published as a new run.

    The old run stays, and the new one names it (`rescored_from`). A run whose scores are up to date is left alone.
    """
    from perturbfm_core.evaluation.panel import PANELS
    from perturbfm_core.pipeline.rescoring import rescore as rescore_run
    from perturbfm_core.pipeline.rescoring import runs_to_rescore

    if bool(run) == all_:
        msg = "rescore takes --run ID (one or more) or --all; see `perturbfm runs list`"
        raise ConfigError(msg)
    for name in panel or []:
        PANELS.get(name)
    home = store()
    chosen = runs_to_rescore(home, run or None)
    outcomes = []
    with progress(len(chosen), silent=as_json) as tell:
        for listed in chosen:
            outcomes.append(rescore_run(home, listed.path, panel or None, tell))
            tell("done:")
    rows = [
        {"run": o.run, "state": o.state, "new": None if o.new is None else o.new.name, "reason": o.reason}
        for o in outcomes
    ]
    counts = Counter(o.state for o in outcomes)
    result = {
        "runs": len(outcomes),
        **{k.replace(" ", "_"): counts[k] for k in ("rescored", "up to date", "refused")},
    }
    if as_json:
        emit({**result, "rows": rows}, True)
    else:
        emit_rows(rows, False, empty="there is no complete run; make one first")
        emit(result, False)
    if counts["refused"]:
        raise typer.Exit(1)


COMMANDS = {"rescore": (rescore, None)}
