"""The published leaderboard as a folder of Parquet files, for readers elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.database import connect
from perturbfm_core.leaderboard.score_parts import PARTS_FOLDER
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import publish_directory

EXPORTED = (
    *("runs", "splits", "datasets", "skipped", "boards"),
    *("leaderboard", "best_per_split", "pairwise", "trend", "strata", "cost", "scperturbench_scores"),
    *("standings", "published", "global_scores", "headline_conditions"),
)
SCORES_FOLDER = "scores"
_BATCH_ROWS = 100_000


def export_parquet(store: ArtifactStore, folder: Path, *, overwrite: bool = False) -> dict[str, int]:
    """Write tables and views of the published leaderboard to ``<name>.parquet``, and scores to ``scores/``.

    The folder is there whole or not at all. What lies in ``scores/`` are the files of the current runs, one each, in
    folders ``board=<board>/entry=<entry>``, with all scopes.

    Parameters
    ----------
    store
        The store of the leaderboard.
    folder
        The folder that is made.
    overwrite
        Whether an existing folder is replaced.

    Returns
    -------
    dict
        {name: number of rows, or of files for ``scores``}.

    Raises
    ------
    StoreError
        If there is no leaderboard, or the folder is there already and not to be replaced, or holds other files than an export.
    """
    if folder.exists() and overwrite:
        own = {SCORES_FOLDER, *(f"{name}.parquet" for name in EXPORTED)}
        other = None if folder.is_dir() else folder.name
        other = other or next((f.name for f in sorted(folder.iterdir()) if f.name not in own), None)
        if other is not None:
            msg = f"--force replaces an earlier export, but {folder} is a file or holds {other!r}; choose another folder"
            raise StoreError(msg)
    counts: dict[str, int] = {}

    def fill(staged: Path) -> None:
        with connect(store) as con:
            for name in EXPORTED:
                counts[name] = _write(con, name, staged / f"{name}.parquet")
            listed = con.execute("SELECT name FROM internal.parts ORDER BY name").fetchall()
            (staged / SCORES_FOLDER).mkdir()
            for (name,) in listed:
                target = staged / SCORES_FOLDER / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(store.runs / PARTS_FOLDER / name, target)
        counts[SCORES_FOLDER] = len(listed)

    publish_directory(folder, fill, overwrite=overwrite)
    return counts


def _write(con: Any, name: str, file: Path) -> int:
    """Write a table in batches, and return its number of rows."""
    n = 0
    rows = con.sql(f'SELECT * FROM "{name}"')
    # Versions of DuckDB before 2 have another name for it.
    read = rows.to_arrow_reader if hasattr(rows, "to_arrow_reader") else rows.fetch_arrow_reader
    reader = read(_BATCH_ROWS)
    with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            n += batch.num_rows
    return n
