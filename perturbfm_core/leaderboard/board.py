"""A board: the runs on one split, or on all folds of one cross-validation, that are compared with each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core.leaderboard.condition_matrix import ScoredMetric
from perturbfm_core.leaderboard.declared_metrics import Declarations, registered


@dataclass(frozen=True)
class BoardRun:
    """A run that counts on a board.

    Attributes
    ----------
    run_id, split_hash, entry, model, family, seed
        See the table of runs.
    silent
        Whether the data of its split are known to have no signal.
    shared_control
        Whether truth and models share their control cells.
    scores
        Name of its condition scores, another for other values.
    metrics, keys
        The metrics and the conditions of these scores.
    """

    run_id: str
    split_hash: str
    entry: str
    model: str
    family: str
    seed: int
    silent: bool
    shared_control: bool
    scores: str
    metrics: tuple[ScoredMetric, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """Runs with what is known of their splits.

    Attributes
    ----------
    name, dataset, split_kind, unit
        Of the splits; `unit` is what the bootstrap draws.
    folds
        Number of splits of the whole board.
    runs
        Oldest first.
    bounds
        {split: (its ceilings, its floors)}, each None where they are unknown.
    condition_bounds
        {split: files of these by condition}, none where they are unknown.
    declared
        What metrics say of themselves.
    """

    name: str
    dataset: str
    split_kind: str
    unit: str
    folds: int
    runs: tuple[BoardRun, ...]
    bounds: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    condition_bounds: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    declared: Declarations = registered

    @cached_property
    def no_signal(self) -> bool:
        """Whether the data of no split have signal."""
        return all(r.silent for r in self.runs)

    @cached_property
    def counted(self) -> tuple[BoardRun, ...]:
        """The runs on splits with signal; all runs if no split has any."""
        return self.runs if self.no_signal else tuple(r for r in self.runs if not r.silent)

    @cached_property
    def entries(self) -> dict[str, list[BoardRun]]:
        """{entry: its counted runs}, by name."""
        found: dict[str, list[BoardRun]] = {}
        for r in self.counted:
            found.setdefault(r.entry, []).append(r)
        return dict(sorted(found.items()))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """All conditions, sorted."""
        return tuple(sorted(set().union(*{r.keys for r in self.counted})))

    def metrics_of(self, entry: str) -> tuple[ScoredMetric, ...]:
        """Return the metrics of an entry, in the order of its runs."""
        return _metrics(self.entries[entry])

    @cached_property
    def metrics(self) -> tuple[ScoredMetric, ...]:
        """All metrics, each as in the oldest run that has it."""
        return _metrics(self.counted)

    @cached_property
    def signature(self) -> str:
        """A digest of all that its standings are made of."""
        runs = [[*_scalars(r), r.silent, r.shared_control] for r in self.runs]
        # A file of values by condition lies in a folder that is named by all that it is made of.
        files = {h: [f.parent.name for f in of] for h, of in self.condition_bounds.items()}
        about = [self.name, self.dataset, self.split_kind, self.unit, self.folds, self.bounds, files]
        return digest([about, runs])

    @cached_property
    def draws(self) -> str:
        """A digest of the conditions and units, on which intervals depend."""
        return digest([self.unit, self.keys])

    def entry_signature(self, entry: str) -> str:
        """Return a digest of all that the mean and the interval of an entry are made of."""
        return digest([self.draws, [r.scores for r in self.entries[entry]]])


def _metrics(runs: Iterable[BoardRun]) -> tuple[ScoredMetric, ...]:
    """Return the metrics of runs, each as in the first of them that has it."""
    sets = list({id(r.metrics): r.metrics for r in runs}.values())
    if len(sets) == 1:
        return sets[0]
    found: dict[tuple[str, str], ScoredMetric] = {}
    for metrics in sets:
        for m in metrics:
            found.setdefault((m.panel, m.metric), m)
    return tuple(found.values())


def _scalars(r: BoardRun) -> list[Any]:
    return [r.run_id, r.split_hash, r.entry, r.model, r.family, r.seed, r.scores]


def digest(value: Any) -> str:
    """Return 32 hex digits of a value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def split_boards(
    table: pd.DataFrame,
    splits: pd.DataFrame,
    scored: Mapping[str, tuple[str, Any, Any]],
    declared: Declarations = registered,
) -> Iterable[Board]:
    """Yield the boards of the counted runs, by name.

    Parameters
    ----------
    table
        Counted runs, oldest first.
    splits
        One row per split: ``split_hash, board, cv_k, unit, ceiling, floor``, and ``condition_bounds`` where known.
    scored
        {run: (name of its scores, metrics, conditions)}.
    declared
        What metrics say of themselves.
    """
    known = {str(s["split_hash"]): s for s in splits.to_dict("records")}
    silent = table["no_signal"].astype("boolean").fillna(False).astype(bool)
    found: dict[str, list[BoardRun]] = {}
    about: dict[str, dict[str, Any]] = {}
    for row, is_silent in zip(table.to_dict("records"), silent, strict=True):
        split = known.get(str(row["split_hash"]))
        if split is None:
            continue
        name = str(split["board"])
        scores, metrics, keys = scored[row["run_id"]]
        about.setdefault(name, {**split, "dataset": row["dataset"], "split_kind": row["split_kind"]})
        found.setdefault(name, []).append(
            BoardRun(
                run_id=row["run_id"],
                split_hash=row["split_hash"],
                entry=row["entry"],
                model=row["model"],
                family=row["family"],
                seed=int(row["seed"]),
                silent=bool(is_silent),
                shared_control=bool(row["shared_control"]),
                scores=scores,
                metrics=metrics,
                keys=keys,
            )
        )
    for name, runs in sorted(found.items()):
        first = about[name]
        k = first.get("cv_k")
        hashes = sorted({r.split_hash for r in runs})
        yield Board(
            name,
            str(first["dataset"]),
            str(first["split_kind"]),
            str(first["unit"]),
            1 if k is None or pd.isna(k) else int(k),
            tuple(runs),
            {h: (known[h].get("ceiling"), known[h].get("floor")) for h in hashes},
            {h: files for h in hashes if (files := known[h].get("condition_bounds"))},
            declared,
        )
