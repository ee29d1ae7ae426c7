"""``perturbfm runs compare``: two runs or entries, paired by condition."""

from __future__ import annotations

from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, emit_table, store


def compare(
    a: Annotated[str, typer.Argument(help="A run (directory, id or prefix of the id), or an entry.")],
    b: Annotated[str, typer.Argument(help="What it is compared with, likewise.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="PANEL.METRIC (repeatable; default: the headline metric of each panel)."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every metric.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs or entries: differences with intervals over units, and what their configurations differ in."""
    from perturbfm_core.evaluation.metric import METRICS
    from perturbfm_core.evaluation.panel import PANELS
    from perturbfm_core.leaderboard.paired import compare_pair

    for name in metric or ():
        METRICS.get(name)
    shown = metric or [f"{name}.{panel.headline}" for name, panel in PANELS.items()]
    found = compare_pair(store(), a, b, None if every else shown)
    runs = {"a": found.runs[0], "b": found.runs[1]}
    if as_json:
        table = found.table.astype(object).where(found.table.notna(), None)
        emit({"runs": runs, "differs": found.differs, "metrics": table.to_dict(orient="records")}, True)
        return
    emit_table(found.table, False, empty="the two have no metric in common that both have a value of")
    emit({f"run_{side}": ",".join(ids) for side, ids in runs.items()}, False)
    emit({f"differs_{name}": list(pair) for name, pair in found.differs.items()}, False)
