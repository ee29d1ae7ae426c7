"""Scorecard of a suite, made of the runs of its cells and of submissions to its splits, as a file and a page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import StoreError
from perturbfm_core.evaluation.condition_bounds import ConditionBounds, read_condition_bounds
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.leaderboard.board_marks import board_marks
from perturbfm_core.leaderboard.headline import headline_of
from perturbfm_core.leaderboard.left_out import left_out
from perturbfm_core.leaderboard.pooled_marks import PooledMarks
from perturbfm_core.leaderboard.run_cost import run_cost, total_cost
from perturbfm_core.leaderboard.run_list import list_runs
from perturbfm_core.leaderboard.run_marks import splits_without_signal
from perturbfm_core.leaderboard.scorecard import Scorecard, entry_score, ordered
from perturbfm_core.leaderboard.scorecard_tasks import Task, TaskScore, scale_of, score_task
from perturbfm_core.models.base import MODELS
from perturbfm_core.pipeline.split import stored_condition_bounds, stored_stats
from perturbfm_core.pipeline.suite import SuitePlan, plan_suite
from perturbfm_core.pipeline.suite_status import CellStatus, suite_status
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.reports.pages.scorecard import scorecard_page
from perturbfm_core.splits.folder import SplitFolder, SplitStats
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import json_text, write_atomic
from perturbfm_core.store.run_record import RunRecord, read_run_record

JSON_FILE, PAGE_FILE = "scorecard.json", "scorecard.html"
_COLUMNS = ["entry", "split_hash", "seed", "panel", "metric", "metric_version", "key", "value", "direction"]


@dataclass(frozen=True)
class _Runs:
    """The runs of a scorecard, oldest first: records, and condition scores of the metrics that it shows.

    `tested` is {split: the conditions that runs on it are scored on}.
    """

    paths: tuple[Path, ...]
    records: tuple[RunRecord, ...]
    scores: pd.DataFrame
    tested: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class _Board:
    """A board of a suite: the splits that count, with what is stored beside them, and whether any has signal.

    As on the leaderboard, those without signal do not count unless all are. `conditions` are floors and ceilings by
    condition, of the splits of which they are known.
    """

    task: Task
    stats: Mapping[str, SplitStats | None]
    conditions: Mapping[str, ConditionBounds]
    has_signal: bool

    @property
    def expected(self) -> int:
        """Return the number of test conditions, a condition counting in every fold that tests it."""
        return sum(map(_n_conditions, self.stats.values()))

    def scored(self, tested: Mapping[str, Collection[str]]) -> dict[str, SplitStats | None]:
        """Return what is stored beside the splits that are scored; beside all, if none is."""
        found = {split: s for split, s in self.stats.items() if split in tested}
        return found or dict(self.stats)

    def marks(self, tested: Mapping[str, Collection[str]]) -> PooledMarks:
        """Return the floors and ceilings over the splits that are scored; over all, if none is."""
        stats = self.scored(tested)
        bounds = {h: (None, None) if s is None else (s.ceiling, s.floor) for h, s in stats.items()}
        scored = {split: tested[split] for split in stats if split in tested}
        if scored:
            return PooledMarks(bounds, scored, self.conditions)
        return PooledMarks(bounds, {}, {}, {h: float(_n_conditions(s)) for h, s in stats.items()})


def suite_scorecard(store: ArtifactStore, suite: SuiteEntry, tell: Progress = quiet) -> Scorecard:
    """Return the scorecard of a suite: its entries, and submissions to any of its splits.

    Parameters
    ----------
    store
        Where artifacts lie.
    suite
        The suite.
    tell
        Called with a line of text about progress.

    Raises
    ------
    StoreError
        If no cell of the suite has run.
    """
    plan = plan_suite(store, suite)
    found = suite_status(store, plan.cells)
    primary = headline_of()
    others = [headline_of(p) for p in suite.panels]
    metrics = [primary, *(m for m in others if m != primary)]
    tell("reading scores")
    hashes = {split.hash for split in plan.splits if split.hash is not None}
    listed = list_runs(store)[0]
    submitted = [
        run
        for run in listed
        if run.is_current and run.record.family == "external" and run.record.split_hash in hashes
    ]
    runs = _read([s.run for s in found if s.run is not None] + [run.path for run in submitted], metrics)
    if not runs.paths:
        msg = f"no cell of suite {suite.name!r} has run yet; run `perturbfm suite run {suite.name}` first"
        raise StoreError(msg)
    families = {name: MODELS.get(load_catalog().model(name).model).family for name in suite.models}
    families |= {run.record.entry: "external" for run in submitted}
    boards = _boards(store, plan, primary, [run.record for run in listed])
    cards = {name: _scored(boards, metric, runs, found, families) for name, metric in _named(metrics)}
    tasks = [task for task, _ in cards[_full(primary)]]
    entries = [
        entry_score(
            name,
            family,
            tasks,
            {task.board: scores[name] for task, scores in cards[_full(primary)]},
            panels={_full(m): _panel(name, cards[_full(m)]) for m in metrics[1:]},
            panel_reasons={_full(m): _gaps(name, cards[_full(m)]) for m in metrics[1:]},
            cost=total_cost(
                run_cost(path, r) for path, r in zip(runs.paths, runs.records, strict=True) if r.entry == name
            ),
        )
        for name, family in families.items()
    ]
    return Scorecard(
        suite=suite.name,
        description=suite.description,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        metric=_full(primary),
        metric_description=primary.description,
        tasks=tasks,
        entries=ordered(entries),
    )


def write_scorecard(store: ArtifactStore, card: Scorecard, out: Path | None = None) -> dict[str, Path]:
    """Write ``scorecard.json`` and its page, and return both files.

    Parameters
    ----------
    store
        Where scorecards lie by default, in a folder per suite.
    card
        The scorecard.
    out
        Another folder.
    """
    folder = store.scorecards / card.suite if out is None else out
    write_atomic(folder / JSON_FILE, json_text(card.to_json()))
    write_atomic(folder / PAGE_FILE, scorecard_page(card))
    return {"scorecard": folder / JSON_FILE, "scorecard_page": folder / PAGE_FILE}


def _full(metric: Metric) -> str:
    return f"{metric.panel}.{metric.name}"


def _named(metrics: Iterable[Metric]) -> list[tuple[str, Metric]]:
    return [(_full(metric), metric) for metric in metrics]


def _read(paths: Iterable[Path], metrics: Iterable[Metric]) -> _Runs:
    """Return runs with their condition scores of the metrics, and of those that one is a ratio of."""
    wanted = set()
    for metric in metrics:
        wanted |= {(metric.panel, metric.name)} | {
            (metric.panel, n) for pair in metric.ratio_of for n in pair
        }
    panels, names = sorted({p for p, _ in wanted}), sorted({n for _, n in wanted})
    filters = [("scope", "==", "condition"), ("panel", "in", panels), ("metric", "in", names)]
    found = [(read_run_record(path), path) for path in dict.fromkeys(paths)]
    found.sort(key=lambda item: (item[0].created, item[0].run_id))
    parts = [pd.DataFrame(columns=[*_COLUMNS, "predicted"])]
    for record, path in found:
        frame = pd.read_parquet(path / schema.SCORES_FILE, columns=_COLUMNS, filters=filters)
        absent = left_out(path, record, set(frame["key"]))
        parts.append(frame.assign(predicted=~frame["key"].isin(absent)))
    scores = pd.concat([p for p in parts if len(p)] or parts, ignore_index=True)
    tested = {str(split): frozenset(keys) for split, keys in scores.groupby("split_hash")["key"]}
    pairs = pd.MultiIndex.from_frame(scores[["panel", "metric"]])
    return _Runs(
        tuple(path for _, path in found),
        tuple(record for record, _ in found),
        scores[pairs.isin(sorted(wanted))],
        tested,
    )


def _n_conditions(stats: SplitStats | None) -> int:
    return 0 if stats is None else stats.counts.get("test", {}).get("conditions", 0)


def _boards(
    store: ArtifactStore, plan: SuitePlan, metric: Metric, records: Iterable[RunRecord]
) -> list[_Board]:
    """Return the boards of a suite in its order.

    Parameters
    ----------
    store, plan
        The suite.
    metric
        The metric of the tasks.
    records
        All runs of the store.
    """
    folder = SplitFolder(store.split_dir)
    members: dict[str, list[str]] = {}
    for split in plan.splits:
        if split.hash is not None and split.is_frozen:
            members.setdefault(split.board, []).append(split.hash)
    splits = {h: folder.load(h) for hashes in members.values() for h in hashes}
    stats = {h: stored_stats(store, split) for h, split in splits.items()}
    silent = splits_without_signal({h: None if s is None else s.no_signal for h, s in stats.items()}, records)
    out = []
    for board, hashes in members.items():
        counted = {h: stats[h] for h in hashes if h not in silent}
        first = splits[hashes[0]].definition
        task = Task(
            board=board,
            dataset=first.dataset.name,
            kind=first.kind,
            metric=_full(metric),
            direction=metric.direction,
            unit=first.unit,
            n_splits=len(hashes),
            n_splits_expected=1 if first.cv is None else first.cv.k,
            n_splits_no_signal=len(hashes) - len(counted) if counted else 0,
        )
        files = {h: stored_condition_bounds(store, splits[h]) for h in hashes}
        read = {h: read_condition_bounds(f) for h, f in files.items()}
        conditions = {h: values for h, values in read.items() if values is not None}
        members_of = counted or {h: stats[h] for h in hashes}
        out.append(_Board(task, members_of, conditions, has_signal=bool(counted)))
    return out


def _scored(
    boards: Iterable[_Board],
    metric: Metric,
    runs: _Runs,
    found: Iterable[CellStatus],
    families: Mapping[str, str],
) -> list[tuple[Task, dict[str, TaskScore]]]:
    """Return every board as a task of a metric, with the score of each entry."""
    found = list(found)
    out = []
    for board in boards:
        pooled = board.marks(runs.tested).of(metric.panel, metric.name)
        scale = scale_of(metric, pooled)
        note = None
        if not board.has_signal:
            note = "no signal: two halves of a condition hardly agree, so nothing is ranked"
        elif scale.get("floor") is None or scale.get("ceiling") is None:
            note = "no scale: the data allow no ceiling, or the floor is undefined"
        fields = {**vars(board.task), **scale, "metric": _full(metric), "direction": metric.direction}
        known, why = board_marks(pooled, list(board.scored(runs.tested).values()), metric)
        fields |= {"marks": known, "mark_reasons": why}
        task = Task(**{**fields, "counted": board.has_signal, "note": note})
        own = runs.scores[runs.scores["split_hash"].isin(list(board.stats))]
        reasons = {name: _why(name, board, found, own) for name in families}
        out.append(score_task(task, METRICS.get(_full(metric)), own, board.expected, reasons))
    return out


def _why(entry: str, board: _Board, found: Iterable[CellStatus], scores: pd.DataFrame) -> str | None:
    """Return why scores of an entry are missing on a board, None if they are all there."""
    cells = [s for s in found if s.cell.entry == entry and s.cell.split.hash in board.stats]
    if not cells:
        own = scores[scores["entry"] == entry]["split_hash"].nunique()
        return None if own == len(board.stats) else f"handed in for {own} of {len(board.stats)} splits"
    lacking = [s for s in cells if s.state != "done"]
    if not lacking:
        return None
    first = next((s for s in lacking if s.reason is not None), lacking[0])
    # There may be a run by earlier code, which the leaderboard shows.
    state = "no run by the present code and inputs" if first.state == "missing" else first.state
    why = state if first.reason is None else f"{state}: {' '.join(first.reason.split())}"
    return why if len(lacking) == len(cells) else f"{why} ({len(lacking)} of {len(cells)} cells)"


def _panel(entry: str, card: Iterable[tuple[Task, dict[str, TaskScore]]]) -> dict[str, float | None]:
    """Return the values of an entry by a further panel, and its mean rank."""
    found = {task.board: scores[entry] for task, scores in card}
    ranks = [s.rank for s in found.values() if s.rank is not None]
    mean = sum(ranks) / len(ranks) if ranks else None
    return {"mean_rank": mean, **{board: s.value for board, s in found.items()}}


def _gaps(entry: str, card: Iterable[tuple[Task, dict[str, TaskScore]]]) -> dict[str, str]:
    """Return {board: why an entry has no value there by a further panel, or not everywhere}."""
    return {task.board: why for task, scores in card if (why := scores[entry].reason) is not None}
