"""Refresh of the leaderboard: runs that are new or changed are read, and what they change is computed again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.board import BoardRun, digest, split_boards
from perturbfm_core.leaderboard.collect import SKIPPED_COLUMNS, FoundRuns, find_runs, read_run_scores
from perturbfm_core.leaderboard.columns import Columns, typed
from perturbfm_core.leaderboard.condition_matrix import ConditionMatrix, MatrixCache, matrix_of
from perturbfm_core.leaderboard.database_writer import DatabaseWriter, Sets
from perturbfm_core.leaderboard.declared_metrics import KnownMetrics, all_registered
from perturbfm_core.leaderboard.headline_conditions import HEADLINE_CONDITION_COLUMNS, headline_conditions
from perturbfm_core.leaderboard.pairs import PAIR_COLUMNS, pair_rows
from perturbfm_core.leaderboard.published import PUBLISHED_COLUMNS, published_figures
from perturbfm_core.leaderboard.references import References
from perturbfm_core.leaderboard.run_marks import mark_counted, mark_tags
from perturbfm_core.leaderboard.run_rows import RUN_COLUMNS
from perturbfm_core.leaderboard.score_file import SCORE_COLUMNS, global_scores, rows_of, stored_form
from perturbfm_core.leaderboard.score_parts import ScoreParts
from perturbfm_core.leaderboard.standing_rows import STANDING_COLUMNS, standing_rows
from perturbfm_core.leaderboard.standings import fill_standings
from perturbfm_core.leaderboard.tables import BOUND_COLUMNS, DATASET_COLUMNS, SPLIT_COLUMNS, UNREAD
from perturbfm_core.leaderboard.views import VIEWS, scores_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_tags import TAGS_FILE, run_tags

TABLES: dict[str, Columns] = {
    "global_scores": SCORE_COLUMNS,
    "headline_conditions": HEADLINE_CONDITION_COLUMNS,
    "standings": STANDING_COLUMNS,
    "pairwise": PAIR_COLUMNS,
    "published": PUBLISHED_COLUMNS,
}
WHOLE_TABLES: dict[str, Columns] = {
    "runs": RUN_COLUMNS,
    "splits": SPLIT_COLUMNS,
    "datasets": DATASET_COLUMNS,
    "skipped": SKIPPED_COLUMNS,
}
# Condition scores that are kept in memory while boards are computed, and runs whose rows are written together.
_MATRIX_BYTES = 1 << 29
_BATCH = 200


class Refresh:
    """One refresh.

    Parameters
    ----------
    store
        The store of the runs.
    writer
        The database that is written.
    parts
        The files of scores.
    code
        Digest of the code; tables that other code made are made anew.
    """

    def __init__(self, store: ArtifactStore, writer: DatabaseWriter, parts: ScoreParts, code: str) -> None:
        self._store, self._writer, self._parts = store, writer, parts
        is_known = writer.code() == code
        if not is_known:
            writer.create(TABLES, code)
            writer.add("published", published_figures())
            writer.put_metrics(all_registered())
        self._declared = KnownMetrics(writer.metrics())
        self._references = References(parts, trusted=is_known)
        self._earlier = writer.known_runs() if is_known else {}
        self._sets: Sets = writer.sets() if is_known else {}
        self._matrices = MatrixCache(parts.matrix, _MATRIX_BYTES)
        self._pending: list[pa.Table] = []
        # Runs whose global scores were added.
        self._added: set[str] = set()
        self._headline: list[pa.Table] = []

    def run(
        self, splits: Callable[[], pd.DataFrame], datasets: Callable[[pd.DataFrame], pd.DataFrame]
    ) -> list[str]:
        """Bring all tables and views up to date; return the names of the files that belong to them.

        Parameters
        ----------
        splits, datasets
            See `perturbfm_core.leaderboard.database.rebuild`.
        """
        found = find_runs(self._store, self._earlier)
        split_table = splits()
        table, files = self._read(found, split_table)
        self._drop_boards(sorted(set(self._writer.boards()) - self._rank(found, table, split_table)))
        tags, damaged = self._tags()
        known_datasets, unread = _read_datasets(datasets(table))
        left = {"run": found.skipped, "file of tags": damaged, "data set": unread}
        skipped = [(name, kind, why) for kind, of in left.items() for name, why in of.items()]
        whole = {
            "runs": mark_tags(table, tags)[list(RUN_COLUMNS)],
            "splits": split_table.drop(columns=list(BOUND_COLUMNS), errors="ignore"),
            "datasets": known_datasets,
            "skipped": pd.DataFrame(sorted(skipped), columns=list(SKIPPED_COLUMNS)),
        }
        for name, frame in whole.items():
            self._writer.replace(name, frame, WHOLE_TABLES[name])
        self._writer.put_known(found.known, self._earlier, self._sets)
        self._parts.flush()
        names = sorted(files.values())
        root = self._parts.root.resolve()
        self._writer.put_parts(root, names)
        self._writer.execute([scores_view([root / n for n in names]), *VIEWS])
        return [*names, *(self._references.name(b, e, s) for b, e, s in self._writer.entries())]

    # ---- reading -----------------------------------------------------------------------------------------------

    def _read(self, found: FoundRuns, splits: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
        """Read the scores of new, changed and again current runs; return (the runs, {run: its file of scores})."""
        written: set[str] = set()
        root = str(self._parts.root)
        while True:
            table, copies = found.table()
            table = mark_counted(table, splits)
            files = self._files(found, table)
            wanted = [
                folder
                for folder, run_id in zip(table["folder"], table["run_id"], strict=True)
                if not found.known[folder].scores_digest
                or (
                    run_id in files
                    and folder not in written
                    and not os.path.isfile(f"{root}/{files[run_id]}")
                )
            ]
            if not wanted:
                break
            # Board by board, so that the scores of one board at a time are in memory.
            boards = dict(zip(table["folder"], table["board"], strict=True))
            current = set(table.loc[table["is_current"].astype(bool), "folder"])
            for name, group in groupby(
                sorted(wanted, key=lambda f: (str(boards[f]), f)), key=boards.__getitem__
            ):
                failed = False
                for folder in group:
                    try:
                        self._read_one(found, folder, name, is_current=folder in current)
                    except (StoreError, OSError) as error:
                        found.skip(folder, error)
                        failed = True
                        continue
                    if folder in current:
                        written.add(folder)
                if not failed:
                    self._rank(found, table[table["board"] == name], splits)
                self._matrices.clear()
        found.skipped.update(copies)
        self._flush(force=True)
        gone = {k.row["run_id"] for k in self._earlier.values()} - set(table["run_id"])
        for name in ("global_scores", "headline_conditions"):
            self._writer.drop_rows(name, "run_id", gone)
        return table, files

    def _files(self, found: FoundRuns, table: pd.DataFrame) -> dict[str, str]:
        """Return {current run whose scores were read: name of its file of scores}."""
        current = table[table["is_current"].astype(bool)]
        return {
            str(run_id): self._parts.name(board, entry, str(run_id), digest)
            for folder, run_id, entry, board in zip(
                current["folder"], current["run_id"], current["entry"], current["board"], strict=True
            )
            if (digest := found.known[folder].scores_digest)
        }

    def _read_one(self, found: FoundRuns, folder: str, board: str | None, *, is_current: bool) -> None:
        known, scores, content = read_run_scores(self._store.runs / folder, found.known[folder])
        matrix = matrix_of(scores, rows_of(scores, "condition"), rows_of(scores, "global"))
        names = {"metrics": digest(matrix.metrics), "keys": digest(matrix.keys)}
        # One object for all runs that share them, which makes them cheap to compare.
        matrix = replace(
            matrix,
            metrics=self._sets.setdefault(names["metrics"], matrix.metrics),
            keys=self._sets.setdefault(names["keys"], matrix.keys),
        )
        known = replace(known, metrics=names["metrics"], keys=names["keys"])
        if is_current:
            name = self._parts.name(board, known.row["entry"], known.row["run_id"], known.scores_digest)
            self._parts.write(name, stored_form(content, scores))
            self._matrices.put(name, matrix)
        # Of old runs as well: one that becomes current again is not read again, or for its file of scores alone.
        if known.row["run_id"] not in self._added:
            self._added.add(known.row["run_id"])
            self._headline.append(headline_conditions(scores))
            self._pending.append(global_scores(scores))
        found.known[folder] = known
        self._flush()

    def _flush(self, *, force: bool = False) -> None:
        """Write the global scores that were read, many runs at a time."""
        if not self._pending or (len(self._pending) < _BATCH and not force):
            return
        rows = pa.concat_tables(self._pending)
        read = pc.unique(rows["run_id"].cast(pa.string())).to_pylist()
        for name, pending in (("global_scores", self._pending), ("headline_conditions", self._headline)):
            if self._earlier:
                self._writer.drop_rows(name, "run_id", read)
            if pending:
                self._writer.add(name, pa.concat_tables(pending))
            pending.clear()

    def _tags(self) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
        """Return (tags of runs, the file of tags with the reason where it cannot be read)."""
        try:
            return run_tags(self._store), {}
        except StoreError as error:
            return {}, {TAGS_FILE: " ".join(str(error).split())}

    # ---- ranking -----------------------------------------------------------------------------------------------

    def _rank(self, found: FoundRuns, table: pd.DataFrame, splits: pd.DataFrame) -> set[str]:
        """Compute the boards of some runs anew where runs or splits are others than before; return their names."""
        self._flush(force=True)
        files = self._files(found, table)
        counted = table[table["counted"].astype(bool)]
        scored = {}
        for folder, run_id in zip(counted["folder"], counted["run_id"], strict=True):
            known = found.known[folder]
            scored[run_id] = (files[run_id], self._sets[known.metrics], self._sets[known.keys])
        # Without a score by condition there is nothing to stand with.
        counted = counted[counted["run_id"].map(lambda r: bool(scored[r][1])).astype(bool)]
        earlier, now = self._writer.boards(), set()
        for board in split_boards(counted, splits, scored, self._declared):
            now.add(board.name)
            if earlier.get(board.name) == board.signature:
                continue
            before = self._writer.grid(board.name) if board.name in earlier else None
            self._drop_boards([board.name])
            grid = fill_standings(board, self._load, before, self._references)
            self._writer.add("standings", standing_rows(grid))
            self._writer.add("pairwise", typed(pair_rows(grid, self._writer.headline), PAIR_COLUMNS))
            self._writer.put_board(board.name, board.signature, grid.signatures)
        return now

    def _load(self, run: BoardRun) -> ConditionMatrix:
        return self._matrices.get(run.scores)

    def _drop_boards(self, names: Iterable[str]) -> None:
        for table in ("standings", "pairwise", "internal.boards", "internal.entries"):
            self._writer.drop_rows(table, "board", list(names))


def _read_datasets(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return (the data sets that can be read, {path of one that cannot: the reason})."""
    if UNREAD not in table:
        return table, {}
    unread = table[table[UNREAD].notna()]
    known = table[table[UNREAD].isna()].drop(columns=UNREAD)
    return known, dict(zip(unread["path"], unread[UNREAD], strict=True))
