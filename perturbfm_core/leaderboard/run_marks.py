"""Marks of runs among each other: which are current, on which board, and which of them count there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

_SAME = ["split_hash", "entry", "config_hash", "data_sha256"]


def mark_current(table: pd.DataFrame) -> pd.DataFrame:
    """Return runs oldest first, with the mark of the newest of each split, entry, configuration with seed, and data."""
    table = table.sort_values(["created", "run_id"], kind="stable", ignore_index=True)
    # Missing where the data allow no ceiling, so that the presence of a signal is unknown.
    table["no_signal"] = table["no_signal"].astype("boolean")
    table["is_current"] = ~table.duplicated(_SAME, keep="last")
    return table


def mark_counted(table: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Return runs with their board, and whether they count on it.

    Of each split and entry, the current runs of the newest configuration count. A run whose split file is missing
    cannot be verified: it has no board and counts nowhere.

    Parameters
    ----------
    table
        Runs with the mark ``is_current``, oldest first.
    splits
        One row per split: ``split_hash, board``.
    """
    boards = dict(zip(splits["split_hash"], splits["board"], strict=True))
    board = table["split_hash"].map(boards).astype(object)
    current = table[table["is_current"].astype(bool)]
    newest = current.groupby(["split_hash", "entry"])["entry_hash"].transform("last")
    counted = (current["entry_hash"] == newest).reindex(table.index, fill_value=False).astype(bool)
    return table.assign(board=board.where(board.notna(), None), counted=counted & board.notna())


def mark_tags(table: pd.DataFrame, tags: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return runs with the tags of their directories, separated by spaces."""
    return table.assign(tags=[" ".join(tags.get(name, ())) for name in table["folder"]])


def without_signal(table: pd.DataFrame) -> pd.Series[bool]:
    """Return bool [rows], whether the data of each run's split are known to have no signal; False if unknown."""
    return table["no_signal"].astype("boolean").fillna(False).astype(bool)


def counted_runs(members: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of a board on splits with signal; all runs if no split has any."""
    silent = without_signal(members)
    return members if silent.all() else members[~silent]
