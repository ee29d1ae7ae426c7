"""Two entries paired by condition, where the flags of their runs and of their splits disagree."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from perturbfm_core.leaderboard import paired, reasons
from perturbfm_core.leaderboard.paired import compare_pair
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, write_run

A, B = "a" * 64, "b" * 64
CV = {"group": "g" * 64, "k": 2}


@pytest.fixture
def stored() -> dict[str, bool | None]:
    """Return what is stored of the signal of splits."""
    return {}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, bool | None]) -> ArtifactStore:
    """Return a store whose splits hold out perturbations."""
    folder = SimpleNamespace(
        load=lambda _: SimpleNamespace(definition=SimpleNamespace(unit="perturbation")),
        stats=lambda split: SimpleNamespace(no_signal=stored[split]) if split in stored else None,
    )
    monkeypatch.setattr(paired, "SplitFolder", lambda _: folder)
    return ArtifactStore(tmp_path / "home", tmp_path / "splits")


def add(store: ArtifactStore, entry: str, split: str, level: float, *, silent: bool | None) -> None:
    """Write a run of one fold of the board, that of entry b after that of entry a."""
    created = f"2024-01-0{'ab'.index(entry) + 1}T00:00:00.000000"
    config = run_config(entry, split=split, created=created)
    config["flags"]["no_signal"] = silent
    config["split"]["cv"] = {**CV, "fold": "AB".index(split[0].upper())}
    write_run(store, config, score_rows(config, {f"x|G{i}|||": level for i in range(6)}))


@pytest.mark.parametrize(
    ("flags", "known", "expected", "folds"),
    [
        # The only fold has no signal: both are compared on it all the same.
        ({("a", A): True, ("b", A): False}, {}, (0.3, 0.1), 1),
        ({("a", A): False, ("b", A): True}, {}, (0.3, 0.1), 1),
        ({("a", A): False, ("b", A): False}, {A: True}, (0.3, 0.1), 1),
        # Of two folds, one without signal is left out for both: what is stored beside the split counts.
        ({("a", A): False, ("b", A): False, ("a", B): False, ("b", B): False}, {A: True}, (0.5, 0.2), 1),
        ({("a", A): True, ("b", A): True, ("a", B): False, ("b", B): False}, {A: False}, (0.4, 0.15), 2),
        # Where nothing is stored, the last run that knows, of either side.
        ({("a", A): True, ("b", A): False, ("a", B): False, ("b", B): False}, {}, (0.4, 0.15), 2),
        ({("a", A): False, ("b", A): True, ("a", B): False, ("b", B): False}, {}, (0.5, 0.2), 1),
        ({("a", A): True, ("b", A): None, ("a", B): False, ("b", B): False}, {A: None}, (0.5, 0.2), 1),
    ],
)
def test_both_sides_keep_the_folds_that_the_leaderboard_keeps(store, stored, flags, known, expected, folds):
    stored |= known
    levels = {("a", A): 0.3, ("b", A): 0.1, ("a", B): 0.5, ("b", B): 0.2}
    for (entry, split), silent in flags.items():
        add(store, entry, split, levels[entry, split], silent=silent)
    (row,) = compare_pair(store, "a", "b").table.to_dict("records")
    assert (row["a"], row["b"]) == pytest.approx(expected)
    assert row["diff"] == pytest.approx(expected[0] - expected[1])
    # The level of a fold is the same in all of its conditions: one value for a context is no spread.
    assert (row["verdict"], row["diff_low"], row["n_units"]) == ("too few units", None, 1)
    total = len({split for _, split in flags})
    assert row["folds"] == f"{folds} of 2 folds"
    assert row["n_conditions"] == 6
    assert total >= folds


def by_context(level: float, contexts: int, *, spread: float = 0.0) -> dict[str, float]:
    """Return values of six perturbations in some contexts, one for all of them in each but for `spread`."""
    return {
        f"c{c}|G{i}|||": level + (-1) ** c * c / 10 + i * spread for c in range(contexts) for i in range(6)
    }


@pytest.mark.parametrize(
    ("contexts", "spread", "verdict", "units", "reason"),
    [
        pytest.param(1, 0.0, "too few units", 1, reasons.ONE_PER_CONTEXT, id="one number"),
        pytest.param(2, 0.0, "too few units", 2, reasons.ONE_PER_CONTEXT, id="two contexts"),
        pytest.param(6, 0.0, "better", 6, None, id="contexts enough"),
        pytest.param(1, 0.01, "better", 6, None, id="a value of each condition"),
    ],
)
def test_one_value_of_a_context_is_one_value(store, contexts, spread, verdict, units, reason):
    for entry, level in (("a", 0.5), ("b", 0.49)):
        config = run_config(entry)
        write_run(store, config, score_rows(config, by_context(level, contexts, spread=spread)))
    (row,) = compare_pair(store, "a", "b").table.to_dict("records")
    assert row["diff"] == pytest.approx(0.01)
    assert (row["verdict"], row["n_units"], row["reason"]) == (verdict, units, reason)
    assert (row["diff_low"] is None) == (reason is not None)


def test_a_statistic_of_several_conditions_has_a_value_and_no_verdict(store):
    for entry, value in (("a", 0.8), ("b", 0.6)):
        config = run_config(entry)
        rows = score_rows(config, {f"x|G{i}|||": float("nan") for i in range(6)}, metric="auroc")
        rows.loc[rows["scope"] == "global", ["value", "status", "reason"]] = [value, "ok", None]
        write_run(store, config, rows)
    (row,) = compare_pair(store, "a", "b").table.to_dict("records")
    assert (row["a"], row["b"], row["diff"]) == pytest.approx((0.8, 0.6, 0.2))
    assert (row["verdict"], row["reason"], row["diff_low"]) == ("too few units", reasons.OF_SEVERAL, None)


def put(
    store: ArtifactStore,
    entry: str,
    split: str,
    values: dict[str, float],
    *,
    seed: int = 0,
    version: str = "1",
) -> None:
    """Write a run of one fold of the board."""
    config = run_config(entry, split=split, seed=seed)
    config["split"]["cv"] = {**CV, "fold": "AB".index(split[0].upper())}
    write_run(store, config, score_rows(config, values).assign(metric_version=version))


def test_conditions_are_paired_fold_by_fold(store):
    """A condition that b has a value of in one fold alone is compared there, and seeds of a fold count as one."""
    keys = [f"x|G{i}|||" for i in range(6)]
    for split, level in ((A, 0.1), (B, 0.9)):
        for seed in range(3 if split == B else 1):
            put(store, "a", split, dict.fromkeys(keys, level), seed=seed)
        hidden = float("nan") if split == B else level
        put(store, "b", split, {k: hidden if k in keys[:3] else level for k in keys})
    (row,) = compare_pair(store, "a", "b").table.to_dict("records")
    assert row["diff"] == pytest.approx(0.0)
    assert (row["a"], row["b"]) == pytest.approx((0.3, 0.3))
    assert (row["n_conditions"], row["n_undefined"]) == (6, 0)


def test_versions_of_a_metric_are_not_compared(store):
    values = {f"x|G{i}|||": 0.5 + i / 100 for i in range(6)}
    put(store, "a", A, values)
    put(store, "b", A, {k: v - 0.1 for k, v in values.items()}, version="2")
    (row,) = compare_pair(store, "a", "b").table.to_dict("records")
    assert (row["a"], row["b"]) == pytest.approx((0.525, 0.425))
    assert (row["verdict"], row["reason"]) == ("other version", reasons.OTHER_VERSION)
    assert pd.isna([row["diff"], row["diff_low"], row["diff_high"]]).all()
