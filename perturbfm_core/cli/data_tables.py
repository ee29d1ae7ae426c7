"""``perturbfm data table`` and ``merge-tables``: the condition table of a data set, at once or from shards of its rows."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.cli.output import JsonOption, data_place, emit, progress
from perturbfm_core.errors import ConfigError

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.data.table import ConditionTable

DataArgument = Annotated[
    Path,
    typer.Argument(
        parser=data_place, metavar="DATA", help="Data set: name, directory, or beginning of the content hash."
    ),
]
FileOption = Annotated[
    Path, typer.Option("--out", help="File to write (npz); an earlier table or shard there is replaced.")
]
# Arrays by which the file of a table, and that of a shard, are known.
_ARRAYS = ({"key.npy", "delta_input.npy", "content_sha256.npy"}, {"head.npy", "groups.npy"})


def table(
    path: DataArgument,
    out: FileOption,
    rows: Annotated[
        str | None, typer.Option("--rows", help="A:B, to sum rows A to B (excluded) only, for merge-tables.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N, to sum the I-th of N equal shards (1/N to N/N) only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the condition table of a data set, or the exact sums of some of its rows."""
    from perturbfm_core.data.table import condition_table
    from perturbfm_core.data.table_shards import table_shard, write_shard
    from perturbfm_core.pipeline.dataset import open_dataset

    if rows is not None and shard is not None:
        msg = "--rows and --shard both name rows; give one"
        raise ConfigError(msg)
    _refuse_other(out)
    with progress() as tell:
        tell("reading")
        ds = open_dataset(path)
        if rows is None and shard is None:
            result = _written(ds, condition_table(ds), out)
        else:
            start, stop = _range(rows, ds.n_obs) if rows is not None else _part(str(shard), ds.n_obs)
            made = table_shard(ds, start, stop)
            write_shard(out, made)
            result = {"path": str(out), "rows": f"{start}:{stop}", "groups": len(made.groups)}
    emit(result, as_json)


def merge_tables(
    path: DataArgument,
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Files of data table --rows.")],
    out: FileOption,
    as_json: JsonOption = False,
) -> None:
    """Merge sums of row ranges to the condition table, the same to the last bit whatever the ranges."""
    from perturbfm_core.data.table_shards import merged_table
    from perturbfm_core.pipeline.dataset import open_dataset

    _refuse_other(out)
    with progress() as tell:
        tell("merging")
        ds = open_dataset(path)
        result = _written(ds, merged_table(ds, parts), out)
    emit(result, as_json)


def _refuse_other(out: Path) -> None:
    """Refuse to write over a file that is no earlier table or shard; those are, as the tasks of a job are repeated.

    Raises
    ------
    ConfigError
        If there is one.
    """
    if not out.is_file():
        return
    try:
        with zipfile.ZipFile(out) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        names = set()
    if not any(own <= names for own in _ARRAYS):
        msg = f"{out} already exists and is no table or shard of an earlier call; choose another --out"
        raise ConfigError(msg)


def _written(ds: PerturbDataset, made: ConditionTable, out: Path) -> dict[str, Any]:
    from perturbfm_core.data.table_file import table_digest, write_table

    write_table(out, made, ds.genes, ds.content_sha256)
    return {
        "path": str(out),
        "rows": f"0:{ds.n_obs}",
        "conditions": len(made),
        "genes": ds.n_genes,
        "table_sha256": table_digest(made),
    }


def _range(text: str, n_obs: int) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(first or 0), int(last or n_obs)
    except ValueError:
        msg = f"--rows {text!r} is no range of rows; give A:B, e.g. 0:100000"
        raise ConfigError(msg) from None


def _part(text: str, n_obs: int) -> tuple[int, int]:
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total) <= n_obs):
        msg = f"--shard {text!r} is none of at most {n_obs} shards; give I/N, from 1/N to N/N"
        raise ConfigError(msg)
    i, n = int(number), int(total)
    return (i - 1) * n_obs // n, i * n_obs // n
