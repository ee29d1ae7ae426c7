"""Options of the verbs that make data sets, and the writing of what they made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core import schema
from perturbfm_core.cli.output import emit, store
from perturbfm_core.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from perturbfm_core.data.dataset import PerturbDataset

OutOption = Annotated[Path, typer.Option("--out", help="Directory to make.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing data set.")]
StorageOption = Annotated[
    str, typer.Option("--storage", help="npz (dense interchange form) or zarr (sparse).")
]
RegisterOption = Annotated[
    bool,
    typer.Option("--register", help="Add the data set to the user's catalog, so that it joins the grid."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the data set (default: from the output directory).")
]


def checked_storage(text: str) -> Any:
    """Return the name of a storage.

    Raises
    ------
    ConfigError
        If it is not npz or zarr.
    """
    if text not in ("npz", "zarr"):
        msg = f"unknown storage {text!r}; known: npz, zarr"
        raise ConfigError(msg)
    return text


def save(
    ds: PerturbDataset,
    out: Path,
    storage: str,
    force: bool,
    register: bool,
    as_json: bool,
    tell: Callable[[str], None],
    truth: dict[str, Any] | None = None,
) -> None:
    """Write a data set, register it if asked, and print what it holds.

    Parameters
    ----------
    ds
        The data set.
    out
        Directory to make.
    storage
        ``npz`` or ``zarr``.
    force
        Replace an existing data set.
    register
        Add it to the user's catalog.
    as_json
        Print JSON.
    tell
        Called with the name of each stage.
    truth
        Arrays of a simulation's truth, kept beside it.
    """
    from perturbfm_core.data.summary import summary
    from perturbfm_core.pipeline.dataset import import_dataset, open_dataset, register_dataset

    tell("writing")
    import_dataset(store(), ds, out, storage=checked_storage(storage), truth=truth, overwrite=force)
    saved = open_dataset(out)
    result = summary(saved, out)
    if register:
        entry = register_dataset(saved.name, out, f"Imported from {saved.metadata.source}")
        result["registered"] = str(entry)
        result["note"] = "reload the Dagster code location to see it in the grid"
    emit(result, as_json)


def must_be_free(out: Path, force: bool, source: Path | None = None) -> None:
    """Refuse a place that is taken, unless it is a data set that is to be replaced.

    Parameters
    ----------
    out
        Directory to make.
    force
        Replace an existing data set.
    source
        What is read, which must not be replaced.

    Raises
    ------
    DatasetError
        If something is there that is not to be replaced: anything without `force`, and with it a file, a directory that
        holds other things than a data set does, or one that holds the source.
    """
    if not out.exists():
        return
    if not force:
        msg = f"{out} already exists; choose another --out, or give --force to replace it"
        raise DatasetError(msg)
    if source is not None and source.resolve().is_relative_to(out.resolve()):
        msg = f"--force would remove {source}, which is to be read, with all of {out}; choose another --out"
        raise DatasetError(msg)
    other = _no_part_of_a_data_set(out)
    if other is not None:
        msg = f"--force replaces a data set, but {other}; choose another --out, or move it away"
        raise DatasetError(msg)


def _no_part_of_a_data_set(out: Path) -> str | None:
    """Return what of an existing path belongs to no data set, None if it is a data set or an empty directory."""
    from perturbfm_core.data.halves import HALVES_FILE

    if not out.is_dir():
        return f"{out} is a file"
    parts = {schema.META_FILE, schema.NPZ_FILE, schema.ZARR_FILE, schema.COUNTS_FILE, schema.TRUTH_FILE}
    # The file manager of macOS leaves one in every folder that it shows.
    parts |= {HALVES_FILE, ".DS_Store"}
    others = sorted(p.name for p in out.iterdir() if p.name not in parts)
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{out} holds {others[0]!r}{more}, which is no part of one" if others else None
