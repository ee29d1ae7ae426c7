"""Marks of runs among each other: which are current, on which board, and which of them count there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from perturbfm_core.store.run_record import RunRecord

_SAME = ["split_hash", "entry", "config_hash", "data_sha256"]
_ORDER = ["requested", "created", "run_id"]


def mark_current(table: pd.DataFrame, requested: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return runs oldest first, with the mark of the last of each split, entry, configuration with seed, and data.

    The last is the one that was asked for last, which column ``requested`` says.

    Parameters
    ----------
    table
        Runs.
    requested
        {run: when it was asked for last}, where that is not when it was made (see `run_requests`).
    """
    table = table.sort_values(["created", "run_id"], kind="stable", ignore_index=True)
    # Missing where the data allow no ceiling, so that the presence of a signal is unknown.
    table["no_signal"] = table["no_signal"].astype("boolean")
    pairs = zip(table["run_id"], table["created"], strict=True)
    table["requested"] = [(requested or {}).get(run_id, created) for run_id, created in pairs]
    table["is_current"] = ~table.sort_values(_ORDER, kind="stable").duplicated(_SAME, keep="last")
    return table


def mark_counted(table: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Return runs with their board, whether they count on it, and whether the data of their split have signal.

    Signal is what is stored beside the split, for all its runs alike: earlier runs may say otherwise. Where it is unknown
    there, the last run that knows it counts. Of each split and entry, the current runs of the configuration that was
    asked for last count. A run whose split file is missing cannot be verified: it has no board and counts nowhere.

    Parameters
    ----------
    table
        Runs from `mark_current`.
    splits
        One row per split: ``split_hash, board``, and ``no_signal`` where it is known.
    """
    table = table.assign(no_signal=_of_split(table, splits))
    boards = dict(zip(splits["split_hash"], splits["board"], strict=True))
    board = table["split_hash"].map(boards).astype(object)
    current = table[table["is_current"].astype(bool)].sort_values(_ORDER, kind="stable")
    newest = current.groupby(["split_hash", "entry"])["entry_hash"].transform("last")
    counted = (current["entry_hash"] == newest).reindex(table.index, fill_value=False).astype(bool)
    return table.assign(board=board.where(board.notna(), None), counted=counted & board.notna())


def _of_split(table: pd.DataFrame, splits: pd.DataFrame) -> pd.Series[bool]:
    """Return whether the data of each run's split have no signal, missing where nobody knows."""
    known = table["no_signal"].astype("boolean")
    last = known.groupby(table["split_hash"]).transform("last").astype("boolean")
    if "no_signal" not in splits:
        return last
    stored = dict(zip(splits["split_hash"], splits["no_signal"].astype("boolean"), strict=True))
    return table["split_hash"].map(stored).astype("boolean").fillna(last)


def splits_without_signal(stored: Mapping[str, bool | None], records: Iterable[RunRecord]) -> set[str]:
    """Return which splits are known to have no signal, by the rule of `mark_counted`.

    Parameters
    ----------
    stored
        {split: what is stored beside it, None where that is unknown}.
    records
        All runs, in any order.
    """
    last: dict[str, bool | None] = {}
    for r in sorted(records, key=lambda r: (r.created, r.run_id)):
        if r.flags.no_signal is not None:
            last[r.split_hash] = r.flags.no_signal
    return {s for s, silent in stored.items() if (last.get(s) if silent is None else silent)}


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
