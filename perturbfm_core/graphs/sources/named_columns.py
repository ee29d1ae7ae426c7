"""Tables of public databases whose columns are named in a header, all as text."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.text_files import opened
from perturbfm_core.graphs.tables import column_word


def read_named(path: Path, needed: Sequence[str], what: str, more: Collection[str] = ()) -> pd.DataFrame:
    """Return columns of a table with a header, separated by tabs or commas, all as text.

    Parameters
    ----------
    path
        The file.
    needed
        Columns that it must have, in the spelling of `column_word`.
    what
        What the table is, in messages.
    more
        Columns that are taken where they are there.

    Raises
    ------
    GraphError
        If it cannot be read, lacks a column, or a row is cut off.
    """
    with opened(path) as handle:
        head = handle.readline()
        handle.seek(0)
        rows = csv.reader(handle, delimiter="\t" if "\t" in head else ",")
        names = [column_word(c) for c in next(rows)]
        lacking = [c for c in needed if c not in names]
        if lacking:
            msg = f"{path} lacks the columns {', '.join(lacking)} of {what}; it has {', '.join(names[:6])}"
            raise GraphError(msg)
        taken = {n: names.index(n) for n in (*needed, *more) if n in names}
        kept = []
        for row in filter(None, rows):
            if len(row) != len(names):
                msg = f"{path}: line {rows.line_num} has {len(row)} cells, the header {len(names)}; it is cut off or damaged, fetch it again"
                raise GraphError(msg)
            kept.append([row[i] for i in taken.values()])
    return pd.DataFrame(kept, columns=list(taken), dtype=str)
