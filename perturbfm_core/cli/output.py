"""Options and output of all verbs: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.errors import ConfigError
from perturbfm_core.parsing import parse_yaml
from perturbfm_core.schema import META_FILE
from perturbfm_core.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    import pandas as pd

    from perturbfm_core.cli.display import Display

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def data_place(given: str) -> Path:
    """Return the directory of a data set that is named on the command line."""
    if (Path(given) / META_FILE).is_file():
        # What a folder holds is read where it is needed.
        return Path(given)
    from perturbfm_core.pipeline.dataset_names import dataset_place

    return dataset_place(store(), given)


_NAMED = "name, directory, or beginning of the content hash"
DataOption = Annotated[
    Path, typer.Option("--data", parser=data_place, metavar="DATA", help=f"Data set: {_NAMED}.")
]
# Where a split is named as well, which knows its data.
SplitDataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", parser=data_place, metavar="DATA", help=f"Data set: {_NAMED} (default: that of the split)."
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", help="Split: hash, prefix of at least 7 characters, or key.")
]


def store() -> ArtifactStore:
    """Return the store that the environment names."""
    return ArtifactStore()


def require_html(out: Path) -> None:
    """Refuse an ``--out`` that is not called like a web page: a slip would write one over another file.

    Raises
    ------
    ConfigError
        If it is not.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        msg = f"--out {out} is no web page; give a name that ends in .html"
        raise ConfigError(msg)


def emit(result: dict[str, Any], as_json: bool) -> None:
    """Print one result: plain ``key=value`` lines, unwrapped, or JSON."""
    if as_json:
        print(dumps(result))
        return
    for key, value in result.items():
        text = (
            dumps(_rounded(value), indent=None) if isinstance(value, dict | list | tuple) else _plain(value)
        )
        print(f"{key}={text}")


def emit_table(frame: pd.DataFrame, as_json: bool, *, empty: str = "") -> None:
    """Print a data frame as `emit_rows` prints rows; whole numbers stay whole, whatever is missing beside them.

    Parameters
    ----------
    frame
        The table.
    as_json
        Whether to print JSON.
    empty
        Why there may be no rows.
    """
    import pandas as pd

    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    numeric = {str(c) for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c].dtype)}
    emit_rows([{str(k): v for k, v in row.items()} for row in rows], as_json, numeric, empty=empty)


def emit_rows(
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    numeric: Collection[str] | None = None,
    *,
    empty: str = "",
) -> None:
    """Print rows with the same keys: columns aligned, one unwrapped line per row, or JSON records.

    Parameters
    ----------
    rows
        {column: value} per row.
    as_json
        Whether to print JSON.
    numeric
        Columns that are aligned to the right; by default those that hold numbers only.
    empty
        Why there may be no rows, and what to do about it.
    """
    if as_json:
        print(dumps(list(rows)))
        return
    if not rows:
        print(f"(no rows: {empty})" if empty else "(no rows)")
        return
    columns = list(rows[0])
    right = numeric if numeric is not None else {c for c in columns if _is_numeric(r[c] for r in rows)}
    text = [{c: _cell(row[c]) for c in columns} for row in rows]
    widths = {c: max(len(c), *(len(row[c]) for row in text)) for c in columns}
    for row in ({c: c for c in columns}, *text):
        cells = (row[c].rjust(widths[c]) if c in right else row[c].ljust(widths[c]) for c in columns)
        print("  ".join(cells).rstrip())


WIDTH = 100


def shortened(rows: Sequence[Mapping[str, Any]], column: str, width: int = WIDTH) -> list[dict[str, Any]]:
    """Return rows whose text in one column is cut so that `emit_rows` prints lines of at most `width` characters.

    Parameters
    ----------
    rows
        {column: value} per row.
    column
        The column whose text is cut, to no fewer than 20 characters.
    width
        Characters in a line.
    """
    others = [c for c in (rows[0] if rows else {}) if c != column]
    taken = sum(max(len(c), *(len(_cell(row[c])) for row in rows)) + 2 for c in others)
    room = max(width - taken, 20)
    return [{**row, column: cut(_cell(row[column]), room)} for row in rows]


def cut(text: str, room: int) -> str:
    """Return a text of at most `room` characters, its end replaced by dots where it is longer."""
    return text if len(text) <= room else text[: room - 3].rstrip(" ,;:") + "..."


def emit_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as CSV, numbers in full; no row gives nothing."""
    import csv
    import sys

    if rows:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows(["" if v is None else v for v in row.values()] for row in rows)


def _is_numeric(values: Iterable[Any]) -> bool:
    known = [v for v in values if v is not None]
    return bool(known) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return number(value)
    text = str(value.tolist()) if hasattr(value, "tolist") else str(value)
    # A row is one line, whatever its values hold.
    return " ".join(text.splitlines())


def number(value: float) -> str:
    """Return a number with four digits after the point, one that has none of them in powers of ten."""
    return (
        f"{value:.4f}"
        if value == 0 or 5e-5 <= abs(value) < 1e8 or not math.isfinite(value)
        else f"{value:.3e}"
    )


def _rounded(value: Any) -> Any:
    """Return a value with the numbers in it as `number` shows them; JSON has them in full."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(number(value)) if isinstance(value, float) and math.isfinite(value) else value


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(_rounded(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextlib.contextmanager
def progress(total: int | None = None, *, silent: bool = False) -> Iterator[Display]:
    """Show stages and epochs on standard error, if it is a terminal; yields what reports them.

    Parameters
    ----------
    total
        Number of stages that are counted.
    silent
        Show nothing, whatever standard error is.
    """
    from perturbfm_core.cli.display import display

    with display(total, silent=silent) as shown:
        yield shown


def parse_pairs(items: list[str], option: str) -> dict[str, Any]:
    """Return {name: value} of repeated ``NAME=VALUE`` options, values read as YAML scalars.

    Raises
    ------
    ConfigError
        If an item has no name or its value is not YAML.
    """
    out: dict[str, Any] = {}
    for item in items:
        name, sep, value = item.partition("=")
        if not sep or not name:
            msg = f"{option} takes NAME=VALUE, found {item!r}"
            raise ConfigError(msg)
        if name in out:
            msg = f"{option} gives {name!r} twice; give it once"
            raise ConfigError(msg)
        out[name] = parse_yaml(value, f"{option} {item[:200]!r}: the value")
    return out


def dumps(value: Any, indent: int | None = 1) -> str:
    """Return JSON text for printing, NaN as null."""
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        # Arrays and numbers of numpy.
        return _jsonable(value.tolist())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    # SQL can yield dates, intervals and blobs: JSON has text for them; what is missing is null.
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)
