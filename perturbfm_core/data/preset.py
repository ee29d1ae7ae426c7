"""Registry of presets: column mappings for public collections whose files share one layout."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.config import check_key, parse
from perturbfm_core.data.imports.gene_names import indexed_where_ambiguous
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.errors import DatasetError, named_fault
from perturbfm_core.registry.members import Discovery, Registry
from perturbfm_core.schema import BoolArray

MappingFunction = Callable[[Path], ColumnMapping]
# From (what the user names, a folder to write into) to an h5ad file with the same cells.
ReaderFunction = Callable[[Path, Path], Path]


@dataclass(frozen=True)
class Preset:
    """Column mapping of one collection.

    Attributes
    ----------
    name
        Name in the command ``perturbfm data import-<name>``.
    mapping
        (file) -> meaning of its columns, and scale of its values.
    description
        What is read from such a file, in one line.
    licence
        Licence of the collection's files.
    reader
        What makes an h5ad file of the collection's own format, None where its files are h5ad. `mapping` reads that file.
    """

    name: str
    mapping: MappingFunction
    description: str
    licence: str = "unknown"
    reader: ReaderFunction | None = None

    def __post_init__(self) -> None:
        # So that what a plug-in raises or returns is refused under the name of the preset, whoever calls.
        object.__setattr__(self, "mapping", _checked_mapping(self.name, self.mapping))

    @contextlib.contextmanager
    def opened(self, path: Path, beside: Path | None = None) -> Iterator[Path]:
        """Give a collection's file as h5ad: itself, or one that `reader` makes and that is removed afterwards.

        Parameters
        ----------
        path
            The file, or the folder of a collection that comes in several.
        beside
            A path on whose disk the h5ad file is made (default: the folder for temporary files).

        Raises
        ------
        DatasetError
            If the reader of a plug-in fails or makes no file.
        """
        if self.reader is None:
            yield path
            return
        place = None if beside is None else beside.absolute().parent
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=place) as folder:
            with named_fault(f"preset {self.name!r}, reader", self.reader.__module__, DatasetError):
                made: Any = self.reader(path, Path(folder))
            if not isinstance(made, Path) or not made.exists():
                found = f"{made}, which does not exist" if isinstance(made, Path) else type(made).__name__
                msg = f"preset {self.name!r}: its reader must return the Path of the h5ad file it wrote, found {found}"
                raise DatasetError(msg)
            yield made


def _checked_mapping(name: str, function: MappingFunction) -> MappingFunction:
    """Return the mapping of a preset, which refuses under the preset's name what fails or is no mapping."""

    @wraps(function)
    def mapping(path: Path) -> ColumnMapping:
        with named_fault(f"preset {name!r}", function.__module__, DatasetError):
            found: Any = function(path)
        if not isinstance(found, ColumnMapping):
            msg = f"preset {name!r} must return a ColumnMapping, found {type(found).__name__}"
            raise DatasetError(msg)
        return found

    return mapping


PRESETS: Registry[Preset] = Registry(
    "preset", DatasetError, Discovery("perturbfm_core.data.presets", None, "perturbfm.presets")
)


def preset(
    name: str, description: str, licence: str = "unknown", *, reader: ReaderFunction | None = None
) -> Callable[[MappingFunction], MappingFunction]:
    """Register the decorated function as the mapping of a collection, with its own import command.

    Parameters
    ----------
    name
        Name in the command ``perturbfm data import-<name>``.
    description
        What is read from such a file, in one line.
    licence
        Licence of the collection's files.
    reader
        (file or folder, folder to write into) -> h5ad file, for a collection of another format, which `mapping` then reads.

    Raises
    ------
    ConfigError
        If the name is not a valid key, or taken.
    """

    def register(function: MappingFunction) -> MappingFunction:
        PRESETS.add(name, Preset(check_key(name, "name of a preset"), function, description, licence, reader))
        return function

    return register


def corrected(assumed: ColumnMapping, given: Mapping[str, Any]) -> ColumnMapping:
    """Return the mapping of a preset with fields that a user gives instead.

    Covariates are added to those of the preset, so that no condition is merged with another. One modality takes the place
    of a column of modalities, and separators part every label.

    Parameters
    ----------
    assumed
        Mapping of the preset.
    given
        {field: value}.

    Raises
    ------
    ConfigError
        If they make no mapping.
    """
    instead = dict(given)
    if instead.get("modality"):
        instead.setdefault("modality_col", None)
    if "separators" in instead:
        instead.setdefault("split_known_only", False)
    own = parse(ColumnMapping, {**assumed.model_dump(), **instead}, "import options")
    return own.model_copy(
        update={"covariate_cols": tuple(dict.fromkeys((*assumed.covariate_cols, *own.covariate_cols)))}
    )


# ---- helpers of the mappings -----------------------------------------------------------------------------


def filled_column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the first of `names` that is a column with any value, None if there is none.

    Whether its other values are missing is no matter of the choice: the import refuses an incomplete column, instead of
    another one that would be taken in its place.
    """
    return next((n for n in names if n in table and np.asarray(table[n].notna()).any()), None)


def needed_column(obs: pd.DataFrame, names: Sequence[str], what: str, collection: str) -> str:
    """Return the first of `names` that is a column with any value (see `filled_column`).

    Parameters
    ----------
    obs
        Row table of the file.
    names
        Possible names of the column, in order of preference.
    what
        Meaning of the column, for the message.
    collection
        Name of the collection, for the message.

    Raises
    ------
    DatasetError
        If there is no such column.
    """
    found = filled_column(obs, names)
    if found is None:
        msg = (
            f"no {what} column as {collection} files have it ({', '.join(names)}); columns with values: "
            f"{', '.join(c for c in obs.columns if filled_column(obs, [c])) or 'none'}; use `perturbfm data import` and name "
            "the columns"
        )
        raise DatasetError(msg)
    return found


def described_column(
    obs: pd.DataFrame, pert: str, controls: Collection[str], names: Sequence[str]
) -> str | None:
    """Return the first of `names` that is a column with any value in a treated row, None if there is none.

    Controls need no dose, time or perturbation type; treated rows without a value are refused by the import.

    Parameters
    ----------
    obs
        Row table of the file.
    pert
        Its column of perturbations.
    controls
        What controls are called in it.
    names
        Possible names of the column that describes the treatment, e.g. its dose, in order of preference.
    """
    return filled_column(obs[~obs[pert].isin(list(controls)).to_numpy()], names)


def matches_controls(obs: pd.DataFrame, columns: Sequence[str | None], treated: BoolArray) -> bool:
    """Return whether every treated row has controls with the same values, so that it can be matched to these.

    Parameters
    ----------
    obs
        Row table of the file.
    columns
        The columns that must agree, e.g. the context and a covariate; None stands for a column the file does not have.
    treated
        bool [N], rows that are no controls.
    """
    names = [c for c in columns if c is not None]
    table = obs[names].assign(_treated=treated).drop_duplicates()
    if table.isna().any(axis=None):
        return False
    keys = [tuple(map(str, row)) for row in table[names].itertuples(index=False)]
    with_controls = {key for key, is_treated in zip(keys, table["_treated"], strict=True) if not is_treated}
    return set(keys) == with_controls


def naming_column(var: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the first of `names` that is a column of names of genes, None if there is none.

    The few genes whose name is missing or that of several are named by the index, see `indexed_where_ambiguous`.
    """
    return next((n for n in names if n in var and indexed_where_ambiguous(var, n) is not None), None)
