"""What verbs share: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from perturbfm_core.errors import ConfigError
from perturbfm_core.store import ArtifactStore

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


@contextlib.contextmanager
def progress(total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Show a spinner (or a bar over `total` steps) on standard error; yields what tells it the stage.

    With a total, every call that begins with ``done:`` advances the bar.
    """
    console = Console(stderr=True)
    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    if total is not None:
        columns += [BarColumn(), MofNCompleteColumn()]
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("starting", total=total)

        def tell(text: str) -> None:
            if text.startswith("done:"):
                bar.advance(task)
            else:
                bar.update(task, description=text)

        yield tell


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
