"""Mean condition scores of the entries that others are compared with, kept as files so that their runs are read once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from urllib.parse import quote

import numpy as np

from perturbfm_core.leaderboard.board import Board
from perturbfm_core.leaderboard.condition_matrix import ConditionMatrix
from perturbfm_core.leaderboard.grain import UNKNOWN
from perturbfm_core.leaderboard.score_parts import ScoreParts


class References:
    """Files of mean scores by metric and condition, beside the files of scores.

    Parameters
    ----------
    parts
        The files of scores.
    trusted
        Whether files that are there were made by this code.
    """

    def __init__(self, parts: ScoreParts, *, trusted: bool) -> None:
        self._parts, self._trusted = parts, trusted

    @staticmethod
    def name(board: str, entry: str, signature: str) -> str:
        """Return the name of the file of an entry below the folder of scores.

        Parameters
        ----------
        board, entry, signature
            Of the entry; see `Board.entry_signature`.
        """
        return f"board={quote(board, safe='')}/entry={quote(entry, safe='')}/mean.{signature[:16]}.npy"

    def get(
        self, board: Board, entry: str, keys: tuple[str, ...], make: Callable[[], ConditionMatrix]
    ) -> ConditionMatrix:
        """Return the means of an entry, from its file or made and written there.

        Parameters
        ----------
        board, entry
            The entry.
        keys
            The conditions of the board, each with its split where some are tested on several.
        make
            () -> its scores.
        """
        name = self.name(board.name, entry, board.entry_signature(entry))
        metrics = board.metrics_of(entry)
        mean = None
        if self._trusted:
            with contextlib.suppress(OSError, ValueError, EOFError):
                mean = np.load(self._parts.root / name, allow_pickle=False)
        if mean is None or mean.shape != (len(metrics), len(keys)) or mean.dtype != np.float64:
            mean = make().mean
            self._parts.write_array(name, mean)
        defined = np.isfinite(mean)
        return ConditionMatrix(
            metrics,
            keys,
            np.where(defined, mean, 0.0),
            defined.astype(np.int32),
            defined,
            np.full(len(metrics), UNKNOWN, dtype=np.int64),
        )
