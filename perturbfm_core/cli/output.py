"""What verbs share: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from perturbfm_core.errors import ConfigError
from perturbfm_core.store import ArtifactStore
from perturbfm_core.training.progress import EpochReport, OnEpoch

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataOption = Annotated[Path, typer.Option("--data", help="Directory of the data set artifact.")]
SplitOption = Annotated[
    str, typer.Option("--split", help="Split: hash, prefix of at least 7 characters, or key.")
]


def store() -> ArtifactStore:
    """Return the store that the environment names."""
    return ArtifactStore()


def emit(result: dict[str, Any], as_json: bool) -> None:
    """Print one result: plain ``key=value`` lines, unwrapped, or JSON."""
    if as_json:
        print(dumps(result))
        return
    for key, value in result.items():
        text = dumps(value, indent=None) if isinstance(value, dict | list | tuple) else _plain(value)
        print(f"{key}={text}")


def emit_table(frame: pd.DataFrame, as_json: bool) -> None:
    """Print a table: columns aligned, one unwrapped line per row, or JSON records."""
    if as_json:
        print(dumps(frame.astype(object).where(frame.notna(), None).to_dict(orient="records")))
        return
    if frame.empty:
        print("(no rows)")
        return
    text = frame.astype(object).map(_cell)
    widths = {c: max([len(str(c)), *(len(x) for x in text[c])]) for c in text.columns}
    numeric = {c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c].dtype)}

    def line(cells: list[str]) -> str:
        pairs = zip(text.columns, cells, strict=True)
        return "  ".join(
            x.rjust(widths[c]) if c in numeric else x.ljust(widths[c]) for c, x in pairs
        ).rstrip()

    print(line([str(c) for c in text.columns]))
    for row in text.itertuples(index=False):
        print(line(list(row)))


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    text = str(value.tolist()) if isinstance(value, np.ndarray) else str(value)
    # A row is one line, whatever its values hold.
    return " ".join(text.splitlines())


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Display:
    """A progress display: called with the name of a stage, `epoch` told of every epoch of a training.

    With a total, every call that begins with ``done:`` advances the bar of stages.
    """

    epoch: OnEpoch | None

    def __init__(self, bar: Progress, total: int | None) -> None:
        self._bar = bar
        self._stage = bar.add_task("starting", total=total)
        self._training: TaskID | None = None
        # What nobody sees is not told.
        self.epoch = None if bar.disable else self._epoch

    def __call__(self, text: str) -> None:
        """Name the stage."""
        if self._training is not None:
            self._bar.remove_task(self._training)
            self._training = None
        if text.startswith("done:"):
            self._bar.advance(self._stage)
        else:
            self._bar.update(self._stage, description=text)

    def _epoch(self, report: EpochReport) -> None:
        told = f"{report.phase}: loss {report.loss:.4g}"
        if report.score is not None:
            told += f", validation {report.score:.4f}"
        if self._training is None:
            self._training = self._bar.add_task(told, total=report.epochs)
        self._bar.update(self._training, description=told, total=report.epochs, completed=report.epoch)


class _Counted(ProgressColumn):
    """A column that only tasks with a known end have."""

    def __init__(self, column: ProgressColumn) -> None:
        self._column = column
        super().__init__()

    def render(self, task: Task) -> RenderableType:
        return Text() if task.total is None else self._column(task)


def columns() -> list[ProgressColumn]:
    """Return the columns of a progress display."""
    return [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        _Counted(BarColumn()),
        _Counted(MofNCompleteColumn()),
        TimeElapsedColumn(),
    ]


@contextlib.contextmanager
def progress(total: int | None = None, *, silent: bool = False) -> Iterator[Display]:
    """Show stages and epochs on standard error, if it is a terminal; yields what is told of them.

    Parameters
    ----------
    total
        Number of stages that are counted.
    silent
        Show nothing, whatever standard error is.
    """
    console = Console(stderr=True)
    with Progress(
        *columns(),
        console=console,
        transient=True,
        disable=silent or not sys.stderr.isatty(),
    ) as bar:
        yield Display(bar, total)


def parse_pairs(items: list[str], option: str) -> dict[str, Any]:
    """Return {name: value} of repeated ``NAME=VALUE`` options, values read as YAML scalars."""
    import yaml

    out: dict[str, Any] = {}
    for item in items:
        name, sep, value = item.partition("=")
        if not sep or not name:
            msg = f"{option} takes NAME=VALUE, found {item!r}"
            raise ConfigError(msg)
        try:
            out[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            msg = f"{option} {item!r}: the value is not valid YAML ({' '.join(str(error).split())[:100]})"
            raise ConfigError(msg) from error
    return out


def dumps(value: Any, indent: int | None = 1) -> str:
    """Return JSON text for printing, NaN as null."""
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or value is pd.NaT or (isinstance(value, float) and not np.isfinite(value)):
        return None
    # SQL can yield dates, intervals and blobs: JSON has text for them.
    return value if isinstance(value, str | int | float | None) else str(value)
