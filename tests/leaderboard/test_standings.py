"""Who stands where: pooling of folds and seeds, the best baseline, what does not count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap
from perturbfm_core.leaderboard.standing_rows import STANDING_COLUMNS
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import split_table, write_run
from tests.support.standings_in_memory import Runs, collect, standings
from tests.support.standings_of_runs import A, Made, keyed, made, ranked

# ---- one split --------------------------------------------------------------------------------------------


def test_an_entry_stands_with_the_mean_of_its_conditions(tmp_path: Path) -> None:
    values = [0.1, 0.5, 0.2, 0.8, 0.4, 0.1]
    row = ranked(tmp_path, [made("additive", keyed(values))], split_table(A)).loc["additive"]
    assert row["value"] == pytest.approx(0.35)
    (expected,) = ClusteredBootstrap([(f"G{i}",) for i in range(6)]).intervals(np.asarray(values)[:, None])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["n_conditions"], row["n_undefined"], row["n_units"]) == (6, 0, 6)
    assert (row["n_splits"], row["n_splits_expected"], row["n_seeds"]) == (1, 1, 1)
    assert row["ranked"]
    assert (row["badness"], row["direction"], row["metric_version"]) == (pytest.approx(-0.35), "max", "1")
    assert (row["board"], row["dataset"], row["split_kind"]) == ("board-aaaa", "screen", "combo_ood")


def test_no_runs_make_an_empty_table(tmp_path: Path) -> None:
    table = standings(collect(ArtifactStore(tmp_path, tmp_path)), split_table(A))
    assert table.empty
    assert list(table.columns) == list(STANDING_COLUMNS)


@pytest.mark.parametrize(
    ("unit", "n_units"),
    [pytest.param("context", 2, id="contexts"), pytest.param("perturbation", 3, id="genes"), pytest.param("combo", 3, id="genes of combinations")],
)  # fmt: skip
def test_units_are_those_of_the_split(tmp_path: Path, unit: str, n_units: int) -> None:
    values = {"x|G0|||": 0.1, "x|G1|||": 0.2, "y|G0|||": 0.3, "y|G1+G2|||": 0.4}
    row = ranked(tmp_path, [made("additive", values)], split_table(A, unit=unit)).loc["additive"]
    assert row["n_units"] == n_units
    assert row["ci_low"] is None or np.isnan(row["ci_low"])


def test_undefined_conditions_are_counted(tmp_path: Path) -> None:
    runs = [made("additive", keyed([0.5, np.nan, 0.7, np.nan])), made("ridge", keyed([np.nan] * 4))]
    table = ranked(tmp_path, runs, split_table(A))
    assert table.loc["additive", "value"] == pytest.approx(0.6)
    assert table["n_undefined"].to_dict() == {"additive": 2, "ridge": 4}
    assert table["n_conditions"].to_dict() == {"additive": 4, "ridge": 4}
    assert np.isnan(table.loc["ridge", "value"])
    assert table["ranked"].to_dict() == {"additive": True, "ridge": False}


# ---- the best baseline ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("panel", "metric", "direction", "values", "best"),
    [
        pytest.param("delta", "pearson", "max", {"low": 0.2, "middle": 0.5, "high": 0.9}, "high", id="most"),
        pytest.param("delta", "rmse", "min", {"low": 0.2, "middle": 0.5, "high": 0.9}, "low", id="least"),
        pytest.param("uncertainty", "coverage_0.5", "target", {"low": 0.2, "middle": 0.55, "high": 0.9}, "middle", id="nearest"),
    ],
)  # fmt: skip
def test_the_best_baseline_is_best_in_the_direction_of_the_metric(
    tmp_path: Path, panel: str, metric: str, direction: str, values: dict[str, float], best: str
) -> None:
    runs = [
        made(e, keyed([v] * 5), panel=panel, metric=metric, direction=direction) for e, v in values.items()
    ]
    table = ranked(tmp_path, runs, split_table(A))
    assert set(table["best_baseline"]) == {best}
    assert table["badness"].idxmin() == best
    assert table.loc[best, "diff"] == 0.0


def test_differences_are_to_the_best_baseline_whatever_else_is_better(tmp_path: Path) -> None:
    runs = [
        made("additive", keyed([0.3] * 5)),
        made("network", keyed([0.9] * 5), family="learned"),
        made("other", keyed([0.95] * 5), family="external"),
    ]
    table = ranked(tmp_path, runs, split_table(A))
    assert set(table["best_baseline"]) == {"additive"}
    assert table["diff"].to_dict() == pytest.approx({"additive": 0.0, "network": 0.6, "other": 0.65})


def test_the_best_baseline_is_one_of_those_defined_on_most_conditions(tmp_path: Path) -> None:
    runs = [made("additive", keyed([0.9, np.nan, 0.9, 0.9, 0.9])), made("ridge", keyed([0.3] * 5))]
    table = ranked(tmp_path, runs, split_table(A))
    assert set(table["best_baseline"]) == {"ridge"}


def test_without_a_baseline_there_is_no_difference(tmp_path: Path) -> None:
    table = ranked(tmp_path, [made("network", keyed([0.5] * 5), family="learned")], split_table(A))
    row = table.loc["network"]
    assert row["best_baseline"] is None
    for name in ("diff", "diff_low", "diff_high"):
        assert pd.isna(row[name])


def test_differences_are_paired_over_conditions_that_both_have(tmp_path: Path) -> None:
    hard = [0.1, 0.9, 0.2, 0.8, 0.5, 0.4]
    better = [v + 0.05 for v in hard]
    better[2] = np.nan
    runs = [made("additive", keyed(hard)), made("network", keyed(better), family="learned")]
    row = ranked(tmp_path, runs, split_table(A)).loc["network"]
    assert row["diff"] == pytest.approx(0.05)
    assert (row["diff_low"], row["diff_high"]) == pytest.approx((0.05, 0.05))
    assert row["ci_high"] - row["ci_low"] > 0.2


# ---- reading runs -----------------------------------------------------------------------------------------


def _store(tmp_path: Path, *runs: Made) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for config, scores in runs:
        write_run(store, config, scores)
    return store


def test_the_newest_run_of_a_configuration_is_current(tmp_path: Path) -> None:
    old = made("ridge", keyed([0.1, 0.3]), created="2024-01-01T00:00:00.000000")
    new = made("ridge", keyed([0.5, 0.7]), created="2024-01-01T00:00:00.000001")
    runs: Runs = collect(_store(tmp_path, new, old))
    assert runs.table["is_current"].tolist() == [False, True]
    assert runs.table["run_id"].tolist() == [old[0]["run_id"], new[0]["run_id"]]
    scopes = runs.scores.groupby("run_id")["scope"].agg(set).to_dict()
    assert scopes == {old[0]["run_id"]: {"global"}, new[0]["run_id"]: {"global", "condition"}}


def test_runs_of_other_seeds_and_other_data_are_current_too(tmp_path: Path) -> None:
    runs = [made("ridge", keyed([0.1]), seed=0), made("ridge", keyed([0.1]), seed=1)]
    runs.append(made("ridge", keyed([0.1]), data="e" * 64, created="2024-01-01T00:00:01.000000"))
    assert collect(_store(tmp_path, *runs)).table["is_current"].tolist() == [True] * 3


@pytest.mark.parametrize("missing", schema.RUN_FILES)
def test_an_incomplete_run_is_not_read(tmp_path: Path, missing: str) -> None:
    config, scores = made("ridge", keyed([0.1]))
    store = _store(tmp_path, (config, scores), made("additive", keyed([0.2])))
    (store.run(config["run_id"]) / missing).unlink()
    found = collect(store)
    assert found.table["entry"].tolist() == ["additive"]
    assert list(found.skipped) == [config["run_id"]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda p: p.write_bytes(b"PAR1 not"), "cannot be read .*; remove the run or make it again", id="damaged"),
        pytest.param(lambda p: pd.DataFrame({"value": [1.0]}).to_parquet(p), r"lacks the columns \['run_id'", id="columns"),
    ],
)  # fmt: skip
def test_scores_that_cannot_be_read_are_named(tmp_path: Path, damage: Any, message: str) -> None:
    config, scores = made("ridge", keyed([0.1]))
    store = _store(tmp_path, (config, scores))
    damage(store.run(config["run_id"]) / schema.SCORES_FILE)
    found = collect(store)
    assert found.table.empty
    assert re.search(rf"{config['run_id']}/scores.parquet {message}", found.skipped[config["run_id"]])
