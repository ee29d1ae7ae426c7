"""A store of runs on four splits whose leaderboard is refreshed, and the content of its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, split_table, write_run

A, B, C, D = ("abcd"[i] * 64 for i in range(4))
TABLES = (
    "headline_conditions",
    "runs",
    "global_scores",
    "standings",
    "pairwise",
    "splits",
    "skipped",
    "scores",
    "leaderboard",
    "trend",
)
METRICS = (
    ("delta", "pearson_centered", "max"),
    ("delta", "rmse", "min"),
    ("uncertainty", "coverage_0.5", "target"),
)


def splits() -> pd.DataFrame:
    """Return three folds of one board, and a split of its own."""
    return pd.concat([split_table(A, B, C, board="cv"), split_table(D, board="alone")], ignore_index=True)


def renew(store: ArtifactStore, table: pd.DataFrame | None = None, **options: Any) -> Path:
    """Bring the leaderboard of a store up to date."""
    given = splits() if table is None else table
    return database.rebuild(
        store, lambda: given, lambda runs: pd.DataFrame({"dataset": ["screen"]}), **options
    )


def content(store: ArtifactStore) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table and view, in one order, with values as they are."""
    out = {}
    with database.connect(store) as con:
        for name in TABLES:
            rows = con.execute(f"SELECT * FROM {name}").fetchall()
            out[name] = sorted(rows, key=repr)
    return out


def add(
    store: ArtifactStore,
    entry: str,
    split: str = D,
    *,
    start: int = 0,
    n: int = 6,
    rng: Any = None,
    **config: Any,
) -> Path:
    """Write a run with three metrics by condition, one by context, and one of the run."""
    rng = np.random.default_rng(len(entry)) if rng is None else rng
    known = run_config(entry, split=split, **config)
    frames = []
    for panel, metric, direction in METRICS:
        values = rng.normal(0.5, 0.2, n)
        values[rng.random(n) < 0.1] = np.nan
        keyed = {f"x|G{start + i}|||": float(v) for i, v in enumerate(values)}
        frames.append(score_rows(known, keyed, panel=panel, metric=metric, direction=direction))
    # One value for the context, and one for the run.
    level, keys = len(entry) / 10, [f"x|G{start + i}|||" for i in range(n)]
    frames.append(score_rows(known, dict.fromkeys(keys, level), panel="vcc2026", metric="vcc2026_score"))
    whole = score_rows(known, dict.fromkeys(keys, float("nan")), panel="hits", metric="effect_size_spearman")
    frames.append(whole.assign(value=whole["value"].where(whole["scope"] != "global", level)))
    frames.append(frames[0].tail(1).assign(scope="stratum", key="all"))
    return write_run(store, known, pd.concat(frames, ignore_index=True))
