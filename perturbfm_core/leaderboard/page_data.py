"""Data of the leaderboard page: what its tables and charts show, in parts that fit the size of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.catalog.loading import Catalog
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.leaderboard import page_data_about as about
from perturbfm_core.leaderboard.headline import HEADLINE, headline_of
from perturbfm_core.leaderboard.page_data_packing import Part, within
from perturbfm_core.leaderboard.page_data_tables import (
    BOUNDS,
    COSTS,
    NUMBERS,
    REASONS,
    Name,
    PageTables,
    read_conditions,
    read_tables,
)
from perturbfm_core.schema import COVERAGE_LEVELS, FloatArray, IntArray

# Drawn as calibration: coverage of Gaussian intervals, and of calibrated ones.
COVERAGE = tuple(f"{side}coverage_{level:g}" for level in COVERAGE_LEVELS for side in ("", "conformal_"))
_CODES = ("rank", "n_undefined", *REASONS, "best")
_MOST = 65_535


def page_data(
    con: Any, catalog: Catalog, games: Iterable[Mapping[str, str]], limit: int
) -> tuple[dict[str, str], list[str]]:
    """Return {name: packed part} of the page, and in words what had no room.

    Parameters
    ----------
    con
        Connection of `database.connect`.
    catalog
        The catalog, for what it says of entries and data sets.
    games
        Rows of attack, panel, metric, cases, of, entry, before, after: attacks that improved a metric.
    limit
        Number of characters that the parts may take together.
    """
    order = [(m.panel, m.name) for _, m in METRICS.items()]
    key = key_metrics()
    tables = read_tables(con, order, key)
    return within(list(_parts(con, tables, key, catalog, games)), limit)


def key_metrics() -> list[Name]:
    """Return (panel, metric) of the benchmark's headline, of every panel's, and of coverage: they have room first."""
    headline = headline_of()
    names = [(headline.panel, headline.name), *((name, panel.headline) for name, panel in PANELS.items())]
    names += [("uncertainty", c) for c in COVERAGE if f"uncertainty.{c}" in METRICS]
    return list(dict.fromkeys(names))


def _parts(
    con: Any, tables: PageTables, key: list[Name], catalog: Catalog, games: Iterable[Mapping[str, str]]
) -> Iterator[Part]:
    names = list(zip(tables.metrics["panel"], tables.metrics["metric"], strict=True))
    at = {name: i for i, name in enumerate(names)}
    first = np.asarray([at[k] for k in key if k in at], dtype=np.int64)
    others = np.asarray([i for i in range(len(names)) if i not in set(first.tolist())], dtype=np.int64)
    yield _head(tables, first, catalog, games)
    yield _scores("key", tables, first, (*NUMBERS, *BOUNDS), "")
    yield from _condition_parts(*read_conditions(con))
    yield _runs(tables, [i for i, k in enumerate(key) if k in at])
    yield _scores(
        "rest", tables, others, ("value", *BOUNDS), "values of metrics that are no panel's headline"
    )
    panels = tables.metrics["panel"].to_numpy()[others]
    for panel in dict.fromkeys(panels):
        own = others[panels == panel]
        what = f"intervals and gains of panel {panel} but for its headline"
        yield _scores(f"more-{panel}", tables, own, NUMBERS[1:], what, codes=False)


def _head(tables: PageTables, first: IntArray, catalog: Catalog, games: Iterable[Mapping[str, str]]) -> Part:
    cells, boards = tables.cells, tables.boards
    board = dict(zip(boards["board"], boards["i"], strict=True))
    entry = {name: i for i, name in enumerate(tables.entries)}
    datasets = list(dict.fromkeys(boards["dataset"]))
    count = tables.runs.groupby(["board", "entry"]).size()
    metrics = about.about_metrics(tables.metrics, games)
    full = [f"{m['panel']}.{m['name']}" for m in metrics]
    plain = {
        "headline": full.index(HEADLINE) if HEADLINE in full else 0,
        "runs": len(tables.runs),
        "datasets": about.about_datasets(tables.datasets, datasets, catalog),
        "kinds": about.about_kinds(sorted(set(boards["split_kind"]))),
        "panels": about.about_panels(tables.metrics),
        "metrics": metrics,
        "entries": about.about_entries(tables.entries, cells, tables.runs, catalog),
        "boards": _boards(tables, datasets),
        "key": first.tolist(),
        "reasons": tables.reasons,
        "cells": {
            "board": [board[b] for b in cells["board"]],
            "entry": [entry[e] for e in cells["entry"]],
            "runs": [int(count.get(pair, 0)) for pair in zip(cells["board"], cells["entry"], strict=True)],
            **{name: cells[name].astype(int).tolist() for name in ("seeds", "done", "total", "conditions")},
        },
        "costReasons": {
            name: _texts(tables.costs.get(f"{name}_reason"), len(tables.costs)) for name in COSTS
        },
    }
    costs = tables.costs.reindex(columns=list(COSTS)).apply(pd.to_numeric).to_numpy(dtype=np.float64)
    return Part("head", plain, {"costs": costs})


def _boards(tables: PageTables, datasets: list[str]) -> list[dict[str, Any]]:
    """Return one record per board, with the counts of its splits."""
    splits = tables.splits.groupby("board")
    sizes = {
        name: splits[name].sum(min_count=1) if name in tables.splits else {} for name in ("n_train", "n_test")
    }
    units = tables.cells.groupby("board")["units"].max()
    out = []
    for row in tables.boards.itertuples(index=False):
        record = {
            "board": row.board,
            "dataset": datasets.index(row.dataset),
            "kind": row.split_kind,
            "unit": about.text(row.unit),
            "done": int(row.folds_done),
            "total": int(row.folds_total),
            "complete": bool(row.complete),
            "noSignal": bool(row.no_signal),
            "sharedControl": bool(row.shared_control),
            "reason": about.text(row.reason),
            "units": about.whole(units.get(row.board)),
        }
        out.append(record | {name: about.whole(size.get(row.board)) for name, size in sizes.items()})
    return out


def _scores(
    name: str, tables: PageTables, columns: IntArray, numbers: tuple[str, ...], what: str, codes: bool = True
) -> Part:
    """Return scores of some metrics: arrays [cells or boards, metrics], with what is said of missing ones."""
    source = {**tables.scores, **tables.bounds}
    coded: dict[str, IntArray] = {}
    plain: dict[str, Any] = {"metrics": columns.tolist()}
    if codes:
        coded = {n: _code(tables.scores[n][:, columns]) for n in _CODES}
        coded |= {n: _code(tables.bounds[n][:, columns]) for n in ("ceiling_reason", "floor_reason")}
        found = tables.details[tables.details["metric"].isin(columns)]
        details, texts = pd.factorize(found["reason"])
        plain["detailTexts"] = [str(t) for t in texts]
        place = np.full(tables.scores["value"].shape[1], -1)
        place[columns] = np.arange(len(columns))
        said = np.zeros((len(tables.cells), len(columns)), dtype=np.int64)
        said[found["cell"].to_numpy(), place[found["metric"].to_numpy()]] = details + 1
        coded["details"] = said
    return Part(name, plain, {n: source[n][:, columns] for n in numbers}, coded, what)


def _code(values: FloatArray) -> IntArray:
    """Return positions plus one, 0 where there is none."""
    return np.asarray(np.where(np.isfinite(values), np.minimum(values, _MOST - 1) + 1, 0), dtype=np.int64)


def _runs(tables: PageTables, known: list[int]) -> Part:
    """Return the runs that count: where they lie, of which entry, board, seed and fold, and their key metrics."""
    runs = tables.runs.merge(
        tables.cells[["i", "board", "entry"]], on=["board", "entry"], suffixes=("", "_cell")
    )
    folds = (
        dict(zip(tables.splits["split_hash"], tables.splits["cv_fold"], strict=True))
        if "cv_fold" in tables.splits
        else {}
    )
    plain = {
        "folder": [PurePath(str(p)).name for p in runs["path"]],
        "cell": runs["i_cell"].astype(int).tolist(),
        "seed": runs["seed"].astype(int).tolist(),
        "fold": [about.whole(folds.get(h)) for h in runs["split_hash"]],
        "created": [str(c)[:16] for c in runs["created"]],
    }
    values = tables.run_scores[runs["i"].to_numpy()][:, known]
    return Part(
        "runs",
        plain,
        {"value": values},
        what="runs behind an entry: values by seed and fold, links to reports",
    )


def _condition_parts(found: pd.DataFrame, keys: list[str], whys: list[str]) -> Iterator[Part]:
    """Yield the headline by condition of every board, the smallest boards first: arrays [entries, conditions]."""
    if found.empty:
        return
    order = np.argsort(found["board"].to_numpy(), kind="stable")
    boards, starts = np.unique(found["board"].to_numpy()[order], return_index=True)
    parts = dict(zip(boards.tolist(), np.split(order, starts[1:]), strict=True))
    columns = {name: found[name].to_numpy(dtype=np.float64) for name in found}
    for board in sorted(parts, key=lambda b: len(parts[b])):
        own = parts[board]
        cells, cell = np.unique(columns["cell"][own], return_inverse=True)
        names, key = np.unique(columns["key"][own], return_inverse=True)
        shape = (len(cells), len(names))
        at, value, why = cell * shape[1] + key, columns["value"][own], columns["reason"][own]
        known = np.isfinite(value)
        count = np.bincount(at[known], minlength=cells.size * names.size)
        total = np.bincount(at[known], weights=value[known], minlength=cells.size * names.size)
        means = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        # Means over the folds of an entry; the reason of a condition that has no value in any of them.
        reasons = np.zeros(len(total), dtype=np.int64)
        said = np.isfinite(why) & (count[at] == 0)
        texts, code = np.unique(why[said], return_inverse=True)
        reasons[at[said]] = code + 1
        plain = {
            "cells": cells.astype(int).tolist(),
            "keys": [keys[int(k)] for k in names],
            "reasons": [whys[int(t)] for t in texts],
        }
        arrays = {"value": means.reshape(shape)}
        yield Part(
            f"conditions-{board}", plain, arrays, {"reason": reasons.reshape(shape)}, "values by condition"
        )


def _texts(column: pd.Series | None, n: int) -> list[str | None]:
    return [None] * n if column is None else [about.text(v) for v in column]
