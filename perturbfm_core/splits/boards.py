"""Splits by the name of their board: one split, or all frozen folds of a cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

from perturbfm_core.errors import SplitError
from perturbfm_core.splits.folder import MIN_PREFIX, SplitFolder


@dataclass(frozen=True)
class BoardSplits:
    """The splits of a board.

    Attributes
    ----------
    name
        Of the board, as the leaderboard has it.
    hashes
        Of its frozen splits, by fold.
    k
        Number of folds of the cross-validation, 1 for a single split.
    """

    name: str
    hashes: tuple[str, ...]
    k: int

    @property
    def lacking(self) -> int:
        """Return the number of folds that are not frozen."""
        return self.k - len(self.hashes)


def board_splits(folder: SplitFolder, name: str) -> BoardSplits:
    """Return the splits that a name stands for: a board, a cross-validation, or one split as everywhere.

    A board is named as the leaderboard has it, or by a beginning that no other board has; a cross-validation by its
    group, or a prefix of it; a split by its hash, a prefix, or its key. A split comes first.

    Raises
    ------
    SplitError
        If nothing or several have the name.
    """
    text = name.strip().lower()
    index = folder.index().splits
    if "." in text:
        boards = sorted({e.board for e in index if e.board.startswith(text)})
        boards = [b for b in boards if b == text] or boards
    else:
        group = text.removeprefix("cv-")
        grouped = [e for e in index if e.cv_group is not None and len(group) >= MIN_PREFIX]
        boards = sorted({e.board for e in grouped if str(e.cv_group).startswith(group)})
    try:
        split = folder.load(name).definition
        return BoardSplits(split.key, (split.hash,), 1)
    except SplitError as error:
        if len(boards) > 1:
            msg = f"{len(boards)} boards begin with {name!r}: {', '.join(boards)}; give a longer name"
            raise SplitError(msg) from error
        if not boards:
            raise
    ordered = sorted((e for e in index if e.board == boards[0]), key=lambda e: (e.fold or 0, e.hash))
    cv = folder.load(ordered[0].hash).definition.cv
    return BoardSplits(boards[0], tuple(e.hash for e in ordered), len(ordered) if cv is None else cv.k)
