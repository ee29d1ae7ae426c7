"""Headline metric by condition of all runs, in the database itself: one query reads all boards."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.schema import BoolArray

HEADLINE_CONDITION_COLUMNS: Columns = {"run_id": "text", "key": "text", "value": "float", "reason": "text"}


def headline_conditions(scores: pa.Table) -> pa.Table:
    """Return the rows of the headline metric, as `HEADLINE_CONDITION_COLUMNS`.

    Parameters
    ----------
    scores
        Scores of a run (see `score_file.read_scores`).
    """
    wanted = {"scope": "condition", "panel": HEADLINE_PANEL, "metric": HEADLINE_METRIC}
    mine = np.logical_and.reduce([_equal(scores[column], text) for column, text in wanted.items()])
    return scores.select(list(HEADLINE_CONDITION_COLUMNS)).take(pa.array(np.flatnonzero(mine)))


def _equal(column: pa.ChunkedArray, text: str) -> BoolArray:
    """Return bool [rows], where a column of dictionary-encoded texts has this one."""
    out = [np.zeros(0, dtype=np.bool_)]
    for chunk in column.chunks:
        wanted = np.asarray([name == text for name in chunk.dictionary.to_pylist()], dtype=np.bool_)
        out.append(wanted[np.asarray(chunk.indices)] if len(wanted) else np.zeros(len(chunk), dtype=np.bool_))
    return np.concatenate(out)
