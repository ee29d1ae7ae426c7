"""Tables of the leaderboard database, written whole or in the parts that changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from perturbfm_core.leaderboard.columns import Columns, typed
from perturbfm_core.leaderboard.condition_matrix import ScoredMetric
from perturbfm_core.leaderboard.declared_metrics import Declared
from perturbfm_core.leaderboard.known_runs import KnownRun
from perturbfm_core.leaderboard.score_grid import ESTIMATES, GridArrays, grid_of_rows

# {digest: the metrics, or the conditions, of a run}; many runs share them.
Sets = dict[str, tuple[Any, ...]]
_ARROW = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


class DatabaseWriter:
    """An attached database that is being written.

    Parameters
    ----------
    connection
        Connection whose default database it is.
    """

    def __init__(self, connection: Any) -> None:
        self._con = connection

    # ---- what earlier refreshes left ---------------------------------------------------------------------------

    def code(self) -> str | None:
        """Return the digest of the code that made the tables, None where they are none of this program."""
        if not self._fetch(
            "SELECT 1 FROM duckdb_tables() WHERE schema_name = 'internal' AND table_name = 'code'"
        ):
            return None
        return str(self._fetch("SELECT digest FROM internal.code")[0][0])

    def known_runs(self) -> dict[str, KnownRun]:
        """Return {name of a directory: what was read of it}."""
        rows = self._fetch("SELECT * FROM internal.known_runs")
        return {r[0]: KnownRun(r[0], r[1], r[2], r[3], json.loads(r[4]), *r[5:]) for r in rows}

    def sets(self) -> Sets:
        """Return {digest: metrics or conditions}."""
        out: Sets = {}
        for name, kind, content in self._fetch("SELECT * FROM internal.sets"):
            values = json.loads(content)
            out[name] = tuple(ScoredMetric(*v) for v in values) if kind == "metrics" else tuple(values)
        return out

    def metrics(self) -> dict[str, Declared]:
        """Return {PANEL.METRIC: what it says of itself}."""
        rows = self._fetch("SELECT name, direction, target, ratio_of, version FROM internal.metrics")
        return {n: Declared(d, t, tuple((a, b) for a, b in json.loads(r)), v) for n, d, t, r, v in rows}

    def put_metrics(self, metrics: Mapping[str, Declared]) -> None:
        """Note what metrics say of themselves."""
        rows = [{"name": n, **m._asdict(), "ratio_of": json.dumps(m.ratio_of)} for n, m in metrics.items()]
        columns: Columns = {"target": "float"}
        frame = typed(pd.DataFrame(rows, columns=["name", *Declared._fields]), columns)
        self._register(frame, "INSERT INTO internal.metrics BY NAME SELECT * FROM incoming")

    def entries(self) -> list[tuple[str, str, str]]:
        """Return (board, entry, its digest) of all entries."""
        return [
            (str(b), str(e), str(s))
            for b, e, s in self._fetch("SELECT board, entry, signature FROM internal.entries")
        ]

    def boards(self) -> dict[str, str]:
        """Return {board: digest of all that its standings were made of}."""
        return dict(self._fetch("SELECT board, signature FROM internal.boards"))

    def grid(self, board: str) -> GridArrays:
        """Return the scores of a board as they are."""
        signatures = dict(self._fetch("SELECT entry, signature FROM internal.entries WHERE board = ?", board))
        rows = self._con.execute(
            "SELECT panel, metric, entry, n_conditions, n_undefined, n_units, grain, best_baseline, "
            f"{', '.join(ESTIMATES)} FROM standings WHERE board = ?",
            [board],
        ).df()
        return grid_of_rows(rows, signatures)

    # ---- what this one writes ----------------------------------------------------------------------------------

    def create(self, tables: Mapping[str, Columns], code: str) -> None:
        """Create empty tables, and what later refreshes read."""
        for name, columns in tables.items():
            self.add(name, pa.table({c: pa.array([], _ARROW[t]) for c, t in columns.items()}))
        self._con.execute("CREATE SCHEMA internal")
        self._con.execute("CREATE TABLE internal.code AS SELECT ? AS digest", [code])
        for statement in (
            "known_runs (folder VARCHAR, stamp VARCHAR, read_ns BIGINT, record_digest VARCHAR, row VARCHAR, "
            "scores_digest VARCHAR, metrics VARCHAR, keys VARCHAR)",
            "parts (name VARCHAR)",
            "root (path VARCHAR)",
            "sets (digest VARCHAR, kind VARCHAR, content VARCHAR)",
            "metrics (name VARCHAR, direction VARCHAR, target DOUBLE, ratio_of VARCHAR, version VARCHAR)",
            "boards (board VARCHAR, signature VARCHAR)",
            "entries (board VARCHAR, entry VARCHAR, signature VARCHAR)",
        ):
            self._con.execute(f"CREATE TABLE internal.{statement}")

    def replace(self, name: str, frame: pd.DataFrame, columns: Columns) -> None:
        """Write a table anew.

        Parameters
        ----------
        name, frame, columns
            The table, its rows, and the types of its columns.
        """
        self._register(typed(frame, columns), f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM incoming')

    def add(self, name: str, rows: pa.Table | pd.DataFrame) -> None:
        """Add rows to a table, which is made where there is none."""
        there = self._fetch("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", name)
        verb = f'INSERT INTO "{name}" BY NAME' if there else f'CREATE TABLE "{name}" AS'
        self._register(rows, f"{verb} SELECT * FROM incoming")

    def drop_rows(self, name: str, column: str, values: Collection[str]) -> None:
        """Remove the rows of a table where a column has one of some values.

        Parameters
        ----------
        name, column, values
            The table, its column, and the values.
        """
        if values:
            self._con.execute(f'DELETE FROM {name} WHERE "{column}" IN (SELECT unnest(?))', [sorted(values)])

    def execute(self, statements: Iterable[str]) -> None:
        """Execute statements."""
        for statement in statements:
            self._con.execute(statement)

    def put_board(self, board: str, signature: str, entries: Mapping[str, str]) -> None:
        """Note what the standings of a board were made of.

        Parameters
        ----------
        board, signature
            The board and the digest of all of it.
        entries
            {entry: its digest}.
        """
        self._con.execute("INSERT INTO internal.boards VALUES (?, ?)", [board, signature])
        rows = pd.DataFrame(
            {"board": board, "entry": list(entries), "signature": list(entries.values())}, dtype="string"
        )
        self._register(rows, "INSERT INTO internal.entries BY NAME SELECT * FROM incoming")

    def put_known(self, known: Mapping[str, KnownRun], earlier: Mapping[str, KnownRun], sets: Sets) -> None:
        """Note what was read of the runs.

        Parameters
        ----------
        known, earlier
            {name of a directory: what was read of it}, now and as it is noted.
        sets
            {digest: metrics or conditions}.
        """
        new = [k for folder, k in known.items() if earlier.get(folder) != k]
        self.drop_rows("internal.known_runs", "folder", {k.folder for k in new} | (set(earlier) - set(known)))
        if new:
            rows = pd.DataFrame([{**vars(k), "row": json.dumps(k.row)} for k in new])
            self._register(rows, "INSERT INTO internal.known_runs BY NAME SELECT * FROM incoming")
        used = {k.metrics for k in known.values()} | {k.keys for k in known.values()}
        self._con.execute("DELETE FROM internal.sets")
        kept = [
            {
                "digest": d,
                "kind": "metrics" if v and isinstance(v[0], ScoredMetric) else "keys",
                "content": json.dumps(v),
            }
            for d, v in sorted(sets.items())
            if d in used
        ]
        if kept:
            self._register(pd.DataFrame(kept), "INSERT INTO internal.sets BY NAME SELECT * FROM incoming")

    def headline(self, run_ids: Sequence[str]) -> pd.DataFrame:
        """Return ``run_id, key, value`` of the defined conditions of some runs on the headline metric."""
        found: pd.DataFrame = self._con.execute(
            "SELECT run_id, key, value FROM headline_conditions WHERE run_id IN (SELECT unnest(?)) AND isfinite(value)",
            [list(run_ids)],
        ).df()
        return found

    def put_parts(self, root: Path, names: Sequence[str]) -> None:
        """Note the files of scores that the database reads, and the folder where they lie."""
        self._con.execute("DELETE FROM internal.root")
        self._con.execute("INSERT INTO internal.root VALUES (?)", [str(root)])
        self._con.execute("DELETE FROM internal.parts")
        if names:
            rows = pd.DataFrame({"name": list(names)}, dtype="string")
            self._register(rows, "INSERT INTO internal.parts SELECT * FROM incoming")

    def _fetch(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._con.execute(sql, list(values)).fetchall()
        return rows

    def _register(self, rows: pa.Table | pd.DataFrame, statement: str) -> None:
        self._con.register("incoming", rows)
        try:
            self._con.execute(statement)
        finally:
            self._con.unregister("incoming")
