"""``perturbfm splits audit``: what would fool the reader of a split, or of a run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, SplitDataOption, emit, progress, store
from perturbfm_core.errors import SplitError


def audit(
    split: Annotated[str, typer.Argument(help="Hash, prefix of at least 7 characters, or key.")],
    data: SplitDataOption = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Directory of a run to audit too (audit.json, predictions.npz)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for every known leak of a split, and of a run on it; a blocking one exits with code 2."""
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.splits.audit.core import report
    from perturbfm_core.splits.audit.run import read_run
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    with progress() as tell:
        tell("auditing")
        ds = dataset_of(home, frozen_split, data)
        outcomes = report(ds, frozen_split, read_run(run) if run is not None else None)
    blocking = [f for o in outcomes for f in o.findings if f.severity == "blocking"]
    if as_json:
        payload = {
            "split_hash": frozen_split.hash,
            "ok": not blocking,
            "findings": [f.to_json() for o in outcomes for f in o.findings],
            "checks": [o.to_json() for o in outcomes],
        }
        emit(payload, True)
    else:
        for outcome in outcomes:
            text = outcome.reason or "; ".join(f.message for f in outcome.findings)
            print(f"{outcome.check} {outcome.status}" + (f": {text}" if text else ""))
        print(f"blocking={len(blocking)}")
    if blocking:
        names = ", ".join(dict.fromkeys(f.name for f in blocking))
        msg = f"split {frozen_split.hash[:12]} leaks: {names}; see the findings above"
        raise SplitError(msg)
