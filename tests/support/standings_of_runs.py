"""Runs with given scores per condition, and the standings that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, write_run
from tests.support.standings_in_memory import collect, standings

A, B, C = "a" * 64, "b" * 64, "c" * 64
Made = tuple[dict[str, Any], pd.DataFrame]


def keyed(values: Sequence[float], *, start: int = 0, context: str = "x") -> dict[str, float]:
    """Return values of the conditions G0, G1, ... of one context."""
    return {f"{context}|G{start + i}|||": v for i, v in enumerate(values)}


def made(
    entry: str,
    values: dict[str, float],
    *,
    metric: str = "pearson",
    direction: str = "max",
    panel: str = "delta",
    **config: Any,
) -> Made:
    """Return a run's configuration with its scores."""
    run = run_config(entry, **config)
    return run, score_rows(run, values, metric=metric, direction=direction, panel=panel)


def ranked(tmp_path: Path, runs: Sequence[Made], splits: pd.DataFrame) -> pd.DataFrame:
    """Return the standings of runs by entry."""
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for config, scores in runs:
        write_run(store, config, scores)
    return standings(collect(store), splits).set_index("entry")
