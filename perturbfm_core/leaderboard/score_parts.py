"""Scores by condition, perturbation, context and stratum: one Parquet file per run, in folders by board and entry.

A file is named after its run and the content that it was made from, and is never changed, so that what an earlier
database reads stays as it was. Files that no kept database names are removed.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.condition_matrix import MATRIX_COLUMNS, ConditionMatrix, matrix_of
from perturbfm_core.leaderboard.score_file import rows_of
from perturbfm_core.schema import FloatArray
from perturbfm_core.store.atomic import fsync_path
from perturbfm_core.store.disk import writing
from perturbfm_core.store.owner import has_ended, new_token

PARTS_FOLDER = ".scores"
NO_BOARD = "none"


class ScoreParts:
    """The folder of these files.

    Parameters
    ----------
    root
        The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._written: list[Path] = []

    @staticmethod
    def name(board: str | None, entry: str, run_id: str, digest: str) -> str:
        """Return the name of a run's file below the folder.

        Parameters
        ----------
        board, entry, run_id
            Of the run; `board` is None where its split file is missing.
        digest
            Of the file of scores that it is made from.
        """
        board, entry, run_id = (quote(x, safe="") for x in (board or NO_BOARD, entry, run_id))
        return f"board={board}/entry={entry}/{run_id}.{digest[:16]}.parquet"

    def write(self, name: str, content: bytes) -> None:
        """Write the file of a run; it is flushed to disk by `flush`.

        Parameters
        ----------
        name
            See `name`.
        content
            See `stored_form`.
        """
        path = self.root / name
        building = path.with_name(f".{path.name}.{new_token()}.tmp")
        with writing(path, len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                building.write_bytes(content)
                building.replace(path)
            finally:
                with contextlib.suppress(OSError):
                    building.unlink(missing_ok=True)
        self._written.append(path)

    def write_array(self, name: str, values: FloatArray) -> None:
        """Write an array beside the scores.

        Parameters
        ----------
        name, values
            The file, and its content.
        """
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        self.write(name, buffer.getvalue())

    def flush(self) -> None:
        """Flush to disk what was written."""
        for path in self._written:
            fsync_path(path)
        for folder in {p.parent for p in self._written}:
            fsync_path(folder)
        self._written.clear()

    def matrix(self, name: str) -> ConditionMatrix:
        """Return the condition scores of a file.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        path = self.root / name
        try:
            columns = ["scope", *MATRIX_COLUMNS]
            with pq.ParquetFile(path, read_dictionary=[c for c in columns if c != "value"]) as source:
                table = source.read(columns=columns, use_threads=False).unify_dictionaries().combine_chunks()
            return matrix_of(table, rows_of(table, "condition"), rows_of(table, "global"))
        except (OSError, ValueError, IndexError, ArrowException) as error:
            msg = f"{path} cannot be read ({' '.join(str(error).split())[:100]}); remove {self.root} and refresh again"
            raise StoreError(msg) from error

    def sweep(self, needed: Collection[str]) -> None:
        """Remove the files that are not among `needed`, what ended writers left, and empty folders."""
        keep = set(needed)
        for folder in self.root.glob("board=*/entry=*"):
            for path in folder.iterdir():
                name = path.relative_to(self.root).as_posix()
                is_building = path.name.startswith(".") and path.name.endswith(".tmp")
                token = re.split(r"\.(?:parquet|npy)\.", path.name.removesuffix(".tmp"), maxsplit=1)[-1]
                if name not in keep and (not is_building or has_ended(token)):
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
            for empty in (folder, folder.parent):
                with contextlib.suppress(OSError):
                    empty.rmdir()
