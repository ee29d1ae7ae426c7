"""Parquet shards of Tahoe-100M, one row a cell with its gene tokens and counts, as one h5ad file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core.data.csr_file import CsrFile
from perturbfm_core.data.tahoe_tables import (
    GENES_FILE,
    SAMPLES_FILE,
    TokenGenes,
    genes_by_token,
    line_names,
    treatments,
)
from perturbfm_core.errors import DatasetError
from perturbfm_core.parsing import open_regular
from perturbfm_core.schema import IntArray

# Column of a shard that names its cells, and those that are kept of every cell.
_CELL, _KEPT = "BARCODE_SUB_LIB_ID", ("drug", "sample", "cell_line_id", "plate")
# Cells of a row group that are decoded at a time.
_CELLS = 2048


def tahoe_h5ad(path: Path, folder: Path) -> Path:
    """Write the cells of Tahoe's shards as an h5ad file, some thousand cells at a time, and return it.

    Parameters
    ----------
    path
        A shard, or the folder of shards or of the whole repository (``data/``, ``metadata/``).
    folder
        Where the h5ad file is written.

    Raises
    ------
    DatasetError
        If there is no shard, a table beside the shards is missing, or one of them is damaged or of another form.
    """
    shards = _shards(path)
    genes, treated = genes_by_token(path), treatments(path)
    cells = _Cells()
    out = folder / f"{path.absolute().stem}.h5ad"
    with CsrFile(out, len(genes.table)) as file:
        for shard in shards:
            for batch in _batches(shard):
                file.append(_counts(batch, genes, shard))
                cells.append(batch)
        file.finish(cells.table(treated, line_names(path)), genes.table)
    return out


def _shards(path: Path) -> list[Path]:
    if path.is_file():
        with open_regular(path, DatasetError) as file:
            if file.read(4) == b"\x89HDF":
                msg = (
                    f"{path} is HDF5, not Parquet; read an h5ad file by `perturbfm data import`, with --pert-col drug "
                    "--dose-col drugname_drugconc --context-col cell_line --batch-col plate --control-label DMSO_TF "
                    "--separator '' --modality drug --space counts if it is of Tahoe-100M"
                )
                raise DatasetError(msg)
        return [path]
    for place in (path / "data", path):
        found = sorted(p for p in place.glob("*.parquet") if not p.name.endswith("_metadata.parquet"))
        if found:
            return found
    msg = f"{path} is no Parquet shard and no folder of some; give a shard of Tahoe-100M, or the folder that has data/ and metadata/"
    raise DatasetError(msg)


def _batches(shard: Path) -> Iterator[Any]:
    """Give the cells of a shard as record batches; any damage is reported in one line."""
    import pyarrow.parquet as pq

    needed = ["genes", "expressions", _CELL, *_KEPT]
    with open_regular(shard, DatasetError) as handle:
        try:
            with pq.ParquetFile(handle) as file:
                if missing := [n for n in needed if n not in file.schema_arrow.names]:
                    msg = f"{shard} is no shard of Tahoe-100M: it lacks {', '.join(missing)}; columns: {', '.join(file.schema_arrow.names)}"
                    raise DatasetError(msg)
                yield from file.iter_batches(batch_size=_CELLS, columns=needed)
        except DatasetError:
            raise
        except Exception as error:
            detail = " ".join(str(error).split())[:160] or type(error).__name__
            msg = f"{shard} cannot be read as Parquet ({detail}); download it again"
            raise DatasetError(msg) from error


def _counts(batch: Any, genes: TokenGenes, shard: Path) -> sp.csr_array:
    """Return the counts of a batch [n, G]; the marker that opens a cell's lists, of negative expression, is left out."""
    token, value = (_flat(batch.column(name), name, shard) for name in ("genes", "expressions"))
    if not np.array_equal(token[1], value[1]):
        msg = f"{shard}: genes and expressions of a cell are not of the same length; download it again"
        raise DatasetError(msg)
    lengths = token[1]
    row = np.repeat(np.arange(len(lengths)), lengths)
    starts = (np.cumsum(lengths) - lengths)[lengths > 0]
    marker = np.zeros(len(row), dtype=np.bool_)
    marker[starts] = value[0][starts] < 0
    row, tokens, counts = row[~marker], token[0][~marker], value[0][~marker]
    place = np.searchsorted(genes.token, tokens)
    known = genes.token[np.minimum(place, len(genes.token) - 1)] == tokens
    if not known.all():
        msg = f"{shard}: gene token {int(tokens[~known][0])} is not in {GENES_FILE}; take both from one revision"
        raise DatasetError(msg)
    made = sp.csr_array(
        (counts.astype(np.float32), (row, place)), shape=(len(lengths), len(genes.token)), dtype=np.float32
    )
    # Making it adds up what is there twice.
    if made.nnz != len(counts):
        msg = f"{shard}: a cell has a gene twice; download it again"
        raise DatasetError(msg)
    return made


def _flat(column: Any, name: str, shard: Path) -> tuple[Any, IntArray]:
    """Return (all values, number of each row) of a column of lists."""
    import pyarrow.compute as pc

    if column.null_count or not hasattr(column, "flatten"):
        msg = f"{shard}: {name} must be a list of numbers in every row"
        raise DatasetError(msg)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten().to_numpy(zero_copy_only=False), lengths


@dataclass
class _Cells:
    """What is kept of every cell beside its counts, batch after batch."""

    names: list[Any] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=lambda: {c: [] for c in _KEPT})

    def append(self, batch: Any) -> None:
        """Add a batch."""
        self.names.append(batch.column(_CELL).to_numpy(zero_copy_only=False))
        for name, parts in self.columns.items():
            parts.append(pd.Categorical(batch.column(name).to_pandas()))

    def table(self, treated: pd.DataFrame, lines: dict[str, str]) -> pd.DataFrame:
        """Return the obs table: drug, sample, cell line, plate, dose and its unit.

        Raises
        ------
        DatasetError
            If there is no cell, or a sample has no treatment.
        """
        if not sum(map(len, self.names)):
            msg = "the shards have no cells; give others"
            raise DatasetError(msg)
        obs = pd.DataFrame({c: pd.api.types.union_categoricals(p) for c, p in self.columns.items()})
        unknown = sorted({str(s) for s in obs["sample"].cat.categories} - set(treated.index))
        if unknown or obs["sample"].isna().any():
            msg = f"{len(unknown)} samples are not in {SAMPLES_FILE}, e.g. {unknown[:3]}; take both from one revision"
            raise DatasetError(msg)
        for name in treated:
            obs[name] = obs["sample"].astype(str).map(treated[name]).to_numpy()
        obs["cell_line"] = obs["cell_line_id"].astype(str).map(lambda i: lines.get(i, i)).astype("category")
        names = pd.Series(np.concatenate(self.names).astype(str))
        # A barcode may return on another plate.
        twice = names.duplicated(keep=False).to_numpy()
        names[twice] = names[twice] + "@" + obs["plate"].astype(str)[twice]
        obs.index = pd.Index(names.to_numpy(dtype=object))
        return obs
