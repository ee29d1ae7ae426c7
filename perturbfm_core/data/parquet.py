"""Reading of Parquet files, any damage reported in one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from perturbfm_core.data.structure import check_size
from perturbfm_core.errors import DatasetError
from perturbfm_core.parsing import open_regular


def read_parquet(path: Path, error: type[Exception] = DatasetError) -> pd.DataFrame:
    """Return the table of a Parquet file.

    Raises
    ------
    error
        With a message of one line, if the file is missing or damaged.
    """
    import pyarrow.parquet as pq

    with open_regular(path, error) as handle:
        try:
            with pq.ParquetFile(handle) as file:
                groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
                check_size(sum(group.total_byte_size for group in groups), str(path), error)
                table: pd.DataFrame = file.read().to_pandas(ignore_metadata=True)
        except error:
            raise
        except Exception as exc:
            # pyarrow raises ArrowInvalid, OSError, KeyError, TypeError and more for damaged files.
            detail = " ".join(str(exc).split())[:160] or type(exc).__name__
            msg = f"{path} cannot be read as Parquet ({detail}); make it again"
            raise error(msg) from exc
    return table
