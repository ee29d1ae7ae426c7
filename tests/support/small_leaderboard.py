"""A store of runs with given scores, published as a leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, split_table, write_run

A, B = "a" * 64, "b" * 64


def add_run(store: ArtifactStore, entry: str, values: list[float], **kwargs: Any) -> None:
    """Write one run of an entry."""
    score = {k: kwargs.pop(k) for k in ("panel", "metric", "direction") if k in kwargs}
    config = run_config(entry, **kwargs)
    write_run(store, config, score_rows(config, {f"x|G{i}|||": v for i, v in enumerate(values)}, **score))


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return tables of splits and data sets."""
    return split_table(A, split_key="screen.combo_ood.a", cv_fold=None), pd.DataFrame(
        {"dataset": ["screen"], "n_obs": [3]}
    )


def rebuild(store: ArtifactStore) -> Path:
    """Rebuild the leaderboard of a store."""
    splits, datasets = tables()
    return database.rebuild(store, lambda: splits, lambda runs: datasets)


def entries(store: ArtifactStore) -> list[str]:
    """Return the entries of the published leaderboard by rank."""
    return list(
        database.query(store, "SELECT entry FROM leaderboard ORDER BY rank NULLS LAST, entry")["entry"]
    )
