"""Arguments and options that the verbs of ``perturbfm suite`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SuiteArgument = Annotated[str, typer.Argument(help="A suite of the catalog (see `perturbfm suite list`).")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only", help="Only these cells: entry=..,split=..,dataset=..,seed=.. (repeatable: each adds cells)."
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of your own h5ad files, for a suite that reads some."),
]
