"""View `strata` by hand: seeds of a fold count once, folds by their conditions, folds without signal not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, split_table, write_run

A, B = "a" * 64, "b" * 64


def add(store: ArtifactStore, split: str, seed: int, value: float, n: int, *, silent: bool = False) -> None:
    """Write a run with one stratum."""
    config = run_config("ridge", split=split, seed=seed, no_signal=silent)
    frame = score_rows(config, {"x|G0|||": 0.5})
    row = frame.tail(1).assign(scope="stratum", key="seen=1", value=value, n=n)
    if np.isnan(value):
        row = row.assign(status="undefined", reason="too few")
    write_run(store, config, pd.concat([frame, row], ignore_index=True))


def stratum(store: ArtifactStore) -> dict[str, object]:
    """Return the row of the stratum."""
    splits = split_table(A, B, board="board")
    database.rebuild(store, lambda: splits, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    (row,) = database.query(store, "SELECT * FROM strata").to_dict("records")
    return row


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Return an empty store."""
    return ArtifactStore(tmp_path / "home", tmp_path / "splits")


@pytest.mark.parametrize(
    ("runs", "value", "n"),
    [
        # Two seeds of a fold of 4: their mean, and 4 conditions.
        ([(A, 0, 0.2, 4), (A, 1, 0.4, 4)], 0.3, 4),
        # Folds of 6 and 2 conditions: (6 * .1 + 2 * .5) / 8.
        ([(A, 0, 0.1, 6), (B, 0, 0.5, 2)], 0.2, 8),
        # Two seeds of one fold weigh no more than one of the other: (3 * .3 + 3 * .9) / 6.
        ([(A, 0, 0.2, 3), (A, 1, 0.4, 3), (B, 0, 0.9, 3)], 0.6, 6),
        # A fold without a value has no weight.
        ([(A, 0, 0.1, 6), (B, 0, np.nan, 2)], 0.1, 8),
    ],
)
def test_seeds_count_once_and_folds_by_their_conditions(store, runs, value, n):
    for split, seed, score, size in runs:
        add(store, split, seed, score, size)
    row = stratum(store)
    assert row["value"] == pytest.approx(value)
    assert (row["n_conditions"], row["n_runs"]) == (n, len(runs))
    assert row["n_splits"] == len({r[0] for r in runs})


def test_a_fold_without_signal_counts_only_where_all_are(store):
    add(store, A, 0, 0.1, 4)
    add(store, B, 0, 0.9, 4, silent=True)
    assert stratum(store)["value"] == pytest.approx(0.1)


def test_a_stratum_of_silent_folds_alone_has_its_value(store):
    for split, value in ((A, 0.1), (B, 0.3)):
        add(store, split, 0, value, 4, silent=True)
    assert stratum(store)["value"] == pytest.approx(0.2)


def test_an_undefined_stratum_has_its_reason(store):
    add(store, A, 0, float("nan"), 2)
    row = stratum(store)
    assert pd.isna(row["value"])
    assert row["reason"] == "too few"
