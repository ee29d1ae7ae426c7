"""Scores of a board as arrays of entries by metrics, and what of them stays the same when a run is added."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from perturbfm_core.leaderboard.board import Board
from perturbfm_core.leaderboard.entry_scores import EntryScores, Estimates
from perturbfm_core.leaderboard.grain import GRAINS
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

ESTIMATES = ("value", "ci_low", "ci_high", "diff", "diff_low", "diff_high")


class GridArrays:
    """Scores of E entries by M metrics.

    Attributes
    ----------
    entries, column
        Names of the entries; {(panel, metric): position of a metric}.
    signatures
        {entry: digest of what its mean and interval are made of}.
    estimates
        {name of `ESTIMATES`: float64 [E, M]}, NaN where there is none.
    n_scored, n_defined
        Conditions with a value or a reason for none, and with a value, int64 [E, M].
    grain, n_units
        How many conditions one value is about (see `grain`), and of how many units there are values, int64 [E, M].
    best
        Position of the best baseline for each metric, -1 where there is none.
    """

    def __init__(
        self, entries: Sequence[str], metrics: Sequence[tuple[str, str]], signatures: Mapping[str, str]
    ) -> None:
        self.entries, self.signatures = list(entries), dict(signatures)
        self.column = {m: i for i, m in enumerate(metrics)}
        self.row = {name: i for i, name in enumerate(entries)}
        shape = (len(entries), len(metrics))
        self.estimates: dict[str, FloatArray] = {name: np.full(shape, np.nan) for name in ESTIMATES}
        self.n_scored, self.n_defined = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        self.grain, self.n_units = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        self.best: list[int] = [-1] * shape[1]


def grid_of_rows(rows: pd.DataFrame, signatures: Mapping[str, str]) -> GridArrays:
    """Return the arrays of a board's rows in the table of standings.

    Parameters
    ----------
    rows
        ``panel, metric, entry, n_conditions, n_undefined, n_units, grain, best_baseline`` and the columns `ESTIMATES`.
    signatures
        {entry: its digest}.
    """
    row, entries = pd.factorize(rows["entry"], sort=True)
    column, metrics = pd.factorize(pd.MultiIndex.from_frame(rows[["panel", "metric"]]))
    grid = GridArrays([str(e) for e in entries], [(str(p), str(m)) for p, m in metrics], signatures)
    for name in ESTIMATES:
        grid.estimates[name][row, column] = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
    grid.n_scored[row, column] = rows["n_conditions"]
    grid.n_defined[row, column] = rows["n_conditions"] - rows["n_undefined"]
    grid.n_units[row, column], grid.grain[row, column] = rows["n_units"], rows["grain"].map(GRAINS.index)
    first = ~pd.Series(column).duplicated().to_numpy()
    for c, best in zip(column[first], rows["best_baseline"][first], strict=True):
        grid.best[c] = -1 if pd.isna(best) else grid.row[str(best)]
    return grid


class ScoreGrid(GridArrays):
    """Scores of a board.

    Attributes
    ----------
    board
        The board.
    """

    def __init__(self, board: Board) -> None:
        super().__init__(
            list(board.entries),
            [(m.panel, m.metric) for m in board.metrics],
            {name: board.entry_signature(name) for name in board.entries},
        )
        self.board = board

    @property
    def value(self) -> FloatArray:
        """Return the means, float64 [E, M]."""
        return self.estimates["value"]

    def put(self, name: str, scores: EntryScores) -> None:
        """Enter the scores of an entry."""
        row, columns = self.row[name], [self.column[m.panel, m.metric] for m in scores.metrics]
        self._enter(row, columns, ("value", "ci_low", "ci_high"), scores.estimates)
        self.n_scored[row, columns], self.n_defined[row, columns] = scores.n_scored, scores.n_defined
        self.grain[row, columns], self.n_units[row, columns] = scores.grain, scores.n_units

    def put_differences(self, name: str, columns: Sequence[int], found: Estimates) -> None:
        """Enter the differences of an entry to the best baselines.

        Parameters
        ----------
        name
            The entry.
        columns
            Positions of the metrics.
        found
            The differences.
        """
        for part in ("diff", "diff_low", "diff_high"):
            self.estimates[part][self.row[name]] = np.nan
        self._enter(self.row[name], columns, ("diff", "diff_low", "diff_high"), found)

    def _enter(self, row: int, columns: Sequence[int], names: Sequence[str], found: Estimates) -> None:
        for name, values in zip(names, (found.value, found.low, found.high), strict=True):
            self.estimates[name][row, columns] = values

    def take(self, earlier: GridArrays) -> set[str]:
        """Take over the entries whose runs and conditions are as before; return their names."""
        kept = {e for e, s in self.signatures.items() if earlier.signatures.get(e) == s}
        names = sorted(kept)
        shared = [m for m in self.column if m in earlier.column]
        here = np.ix_([self.row[e] for e in names], [self.column[m] for m in shared])
        there = np.ix_([earlier.row[e] for e in names], [earlier.column[m] for m in shared])
        for name, values in self.estimates.items():
            values[here] = earlier.estimates[name][there]
        self.n_scored[here], self.n_defined[here] = earlier.n_scored[there], earlier.n_defined[there]
        self.grain[here], self.n_units[here] = earlier.grain[there], earlier.n_units[there]
        return kept

    def has_differences(self, earlier: GridArrays, name: str, kept: Collection[str]) -> bool:
        """Return whether the differences that were taken over for an entry are still those to the best baselines.

        Parameters
        ----------
        earlier
            Where they come from.
        name
            The entry.
        kept
            Names of the entries that are as before.
        """
        row = self.n_scored[self.row[name]]
        for metric, column in self.column.items():
            if not row[column]:
                continue
            now = self.entries[self.best[column]] if self.best[column] >= 0 else None
            before = earlier.best[earlier.column[metric]]
            if now != (earlier.entries[before] if before >= 0 else None) or (
                now is not None and now not in kept
            ):
                return False
        return True

    @cached_property
    def other_version(self) -> BoolArray:
        """Where a run of an entry was scored by another version of a metric, bool [E, M].

        The version that counts is the present one if a run has that, else that of the newest run.
        """
        out = np.zeros(self.value.shape, dtype=np.bool_)
        wanted = self._versions()
        older: dict[int, list[int]] = {}
        for r in self.board.runs:
            # Runs of the same code share one object.
            if id(r.metrics) not in older:
                found = [(c, m.version) for m in r.metrics if (c := self.column.get(m[:2])) is not None]
                older[id(r.metrics)] = [c for c, version in found if version != wanted[c]]
            if r.entry in self.row:
                out[self.row[r.entry], older[id(r.metrics)]] = True
        return out

    def last_versions(self) -> tuple[IntArray, list[str]]:
        """Return (which version of a metric the newest run of an entry was scored by [E, M], -1 for none; the versions)."""
        names = sorted(
            {
                m.version
                for metrics in {id(r.metrics): r.metrics for r in self.board.runs}.values()
                for m in metrics
            }
        )
        place = {name: i for i, name in enumerate(names)}
        out = np.full(self.value.shape, -1, dtype=np.int64)
        found: dict[int, tuple[list[int], list[int]]] = {}
        for r in self.board.runs:
            if id(r.metrics) not in found:
                own = [(c, place[m.version]) for m in r.metrics if (c := self.column.get(m[:2])) is not None]
                found[id(r.metrics)] = ([c for c, _ in own], [v for _, v in own])
            if r.entry in self.row:
                columns, versions = found[id(r.metrics)]
                out[self.row[r.entry], columns] = versions
        return out, names

    def _versions(self) -> dict[int, str]:
        """Return {position of a metric: the version that counts}."""
        wanted: dict[int, str] = {}
        for metrics in {id(r.metrics): r.metrics for r in reversed(self.board.runs)}.values():
            for m in metrics:
                known, c = self.board.declared(m.panel, m.metric), self.column.get(m[:2])
                if c is not None and (c not in wanted or (known is not None and m.version == known.version)):
                    wanted[c] = m.version
        return wanted

    def rankable(self) -> BoolArray:
        """Return bool [M], whether a metric has a best value."""
        found = []
        for m in self.board.metrics:
            metric = self.board.declared(m.panel, m.metric)
            found.append(m.direction != "target" or (metric is not None and metric.target is not None))
        return np.asarray(found, dtype=np.bool_)

    def badness(self) -> FloatArray:
        """Return float64 [E, M], smaller for better values; NaN where there is no value or none is best.

        Values that differ by less than rounding of their sums are the same.
        """
        out = np.full(self.value.shape, np.nan)
        rankable = self.rankable()
        for i, m in enumerate(self.board.metrics):
            if not rankable[i]:
                continue
            metric, value = self.board.declared(m.panel, m.metric), self.value[:, i]
            direction = m.direction if metric is None else metric.direction
            if direction == "target":
                out[:, i] = np.abs(
                    value - (0.0 if metric is None or metric.target is None else metric.target)
                )
            else:
                out[:, i] = -value if direction == "max" else value
        return _rounded(out)


def _rounded(values: FloatArray) -> FloatArray:
    """Return values to 12 significant digits."""
    size = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.where(size > 0, size, 1.0))) - 11)
    return np.asarray(np.round(values / unit) * unit)
