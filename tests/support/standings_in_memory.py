"""Standings of a few runs in memory, by what the leaderboard is made of when it is refreshed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.board import split_boards
from perturbfm_core.leaderboard.collect import find_runs, read_run_scores
from perturbfm_core.leaderboard.condition_matrix import MATRIX_COLUMNS, matrix_of
from perturbfm_core.leaderboard.run_marks import mark_counted
from perturbfm_core.leaderboard.score_file import global_scores
from perturbfm_core.leaderboard.standing_rows import STANDING_COLUMNS, standing_rows
from perturbfm_core.leaderboard.standings import fill_standings
from perturbfm_core.store.artifacts import ArtifactStore


@dataclass(frozen=True, eq=False)
class Runs:
    """All complete runs.

    Attributes
    ----------
    table
        Table of `RUN_COLUMNS`, one row per run, oldest first. `is_current` marks the run that was asked for last of each
        split, entry, configuration with seed, and data. Further columns `dataset_record` (describes the data set) and
        `requested` (when it was asked for last) are not part of the database.
    scores
        Long table of `SCORE_COLUMNS` with all scores of the current runs, and the global scores of older ones.
    skipped
        {name of a directory: why it is no run that can be read}.
    """

    table: pd.DataFrame
    scores: pd.DataFrame
    skipped: Mapping[str, str] = field(default_factory=dict)


def collect(store: ArtifactStore) -> Runs:
    """Read the record and the scores of every run into memory; one that cannot be read is skipped and named."""
    found = find_runs(store)
    scores: dict[str, pa.Table] = {}
    for folder, known in list(found.known.items()):
        try:
            scores[folder] = read_run_scores(store.runs / folder, known)[1]
        except (StoreError, OSError) as error:
            found.skip(folder, error)
    table, copies = found.table()
    columns = list(schema.SCORE_COLUMNS)
    parts = []
    for row in table.itertuples(index=False):
        own = scores[row.folder]
        parts.append(plain_texts(own if row.is_current else global_scores(own)))
    frame = pa.concat_tables(parts).to_pandas() if parts else pd.DataFrame(columns=columns)
    return Runs(table.drop(columns="folder"), frame, {**found.skipped, **copies})


def standings(runs: Runs, splits: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `STANDING_COLUMNS` of runs in memory.

    Parameters
    ----------
    runs
        All runs; of each split and entry, the current runs of the configuration that was asked for last count.
    splits
        One row per split: ``split_hash, board, cv_k, unit, ceiling, floor`` (the last two as dicts or None).
    """
    table = mark_counted(runs.table, splits)
    counted = table[table["counted"]]
    matrices = {
        str(name): matrix_of(
            pa.Table.from_pandas(part[list(MATRIX_COLUMNS)], preserve_index=False),
            (part["scope"] == "condition").to_numpy(),
            (part["scope"] == "global").to_numpy(),
        )
        for name, part in runs.scores.groupby("run_id")
        if (part["scope"] == "condition").any()
    }
    scored = {name: (name, m.metrics, m.keys) for name, m in matrices.items()}
    counted = counted[counted["run_id"].isin(scored)]
    parts = [
        standing_rows(fill_standings(board, lambda r: matrices[r.run_id]))
        for board in split_boards(counted, splits, scored)
    ]
    if not parts:
        return pd.DataFrame(columns=list(STANDING_COLUMNS))
    return pa.concat_tables(plain_texts(p) for p in parts).to_pandas()


def plain_texts(table: pa.Table) -> pa.Table:
    """Return a table whose texts are no dictionaries."""
    kinds = {f.name: pa.string() if pa.types.is_dictionary(f.type) else f.type for f in table.schema}
    return table.cast(pa.schema(kinds))
