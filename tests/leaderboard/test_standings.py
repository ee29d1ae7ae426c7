"""Who stands where: pooling of folds and seeds, the best baseline, what does not count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap
from perturbfm_core.leaderboard.run_marks import without_signal
from perturbfm_core.leaderboard.standing_rows import STANDING_COLUMNS
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, split_table, write_run
from tests.support.standings_in_memory import Runs, collect, standings

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


# ---- folds, seeds, repeats --------------------------------------------------------------------------------


def test_a_condition_of_several_folds_counts_once(tmp_path: Path) -> None:
    runs = [
        made("additive", {**keyed([0.0]), "x|both|||": 1.0}, split=A),
        made("additive", {**keyed([0.3], start=1), "x|both|||": 0.0}, split=B),
    ]
    row = ranked(tmp_path, runs, split_table(A, B, board="cv")).loc["additive"]
    assert row["value"] == pytest.approx((0.0 + 0.3 + 0.5) / 3)
    assert (row["n_conditions"], row["n_splits"], row["n_splits_expected"]) == (3, 2, 2)
    assert row["ranked"]


def test_seeds_are_averaged_condition_by_condition(tmp_path: Path) -> None:
    runs = [made("ridge", keyed([0.2, 0.6]), seed=0), made("ridge", keyed([0.4, 1.0]), seed=1)]
    row = ranked(tmp_path, runs, split_table(A)).loc["ridge"]
    assert row["value"] == pytest.approx(0.55)
    assert (row["n_seeds"], row["n_conditions"]) == (2, 2)


def test_an_entry_without_all_folds_is_not_ranked(tmp_path: Path) -> None:
    runs = [
        made("additive", keyed([0.1, 0.2]), split=A),
        made("additive", keyed([0.3], start=2), split=B),
        made("ridge", keyed([0.9, 0.9]), split=A),
    ]
    table = ranked(tmp_path, runs, split_table(A, B, board="cv"))
    assert table["ranked"].to_dict() == {"additive": True, "ridge": False}
    assert table["n_splits"].to_dict() == {"additive": 2, "ridge": 1}
    assert set(table["best_baseline"]) == {"additive"}


def test_an_entry_that_a_metric_knows_on_some_folds_alone_is_not_ranked_by_it(tmp_path: Path) -> None:
    """A run from before a metric was known lacks it."""
    runs = []
    for entry, with_metric in (("old", ()), ("half", (A,)), ("whole", (A, B))):
        for split, start in ((A, 0), (B, 2)):
            config, scores = made(entry, keyed([0.5, 0.5], start=start), split=split)
            if split in with_metric:
                scores = pd.concat([scores, scores.assign(metric="new", value=0.9)])
            runs.append((config, scores))
    table = ranked(tmp_path, runs, split_table(A, B, board="cv")).set_index("metric", append=True)
    new = table.xs("new", level="metric")
    assert new["ranked"].to_dict() == {"half": False, "old": False, "whole": True}
    assert new["comparable"].to_dict() == new["complete"].to_dict() == new["ranked"].to_dict()
    assert new["folds_done"].to_dict() == new["n_splits"].to_dict() == {"half": 1, "old": 0, "whole": 2}
    assert new["reason"].to_dict() == {"half": "1 of 2 folds", "old": reasons.NOT_SCORED, "whole": None}
    known = table.xs("pearson", level="metric")
    assert known["ranked"].all()
    assert set(known["folds_done"]) == {2}


@pytest.mark.parametrize("metric", ["pearson", "unknown"])
def test_an_entry_that_another_version_of_the_metric_scored_is_not_ranked(
    tmp_path: Path, metric: str
) -> None:
    """The present version counts where a run has it, else that of the newest run."""
    present = METRICS.get("delta.pearson").version if metric == "pearson" else "new"
    runs = []
    versions = {"1": "old", "2": present, "3": "old" if metric == "pearson" else present}
    for entry, seed, day in (
        ("old", 0, "1"),
        ("mixed", 0, "1"),
        ("mixed", 1, "2"),
        ("new", 0, "2"),
        ("last", 0, "3"),
    ):
        created = f"2024-01-0{day}T00:00:00.000000"
        config, scores = made(entry, keyed([0.5, 0.7]), seed=seed, created=created, metric=metric)
        runs.append((config, scores.assign(metric_version=versions[day])))
    table = ranked(tmp_path, runs, split_table(A))
    fresh = {"new"} if metric == "pearson" else {"new", "last"}
    assert set(table.index[table["ranked"]]) == set(table.index[table["comparable"]]) == fresh
    assert set(table.index[table["reason"] == reasons.OTHER_VERSION]) == set(table.index) - fresh
    assert table["value"].notna().all()
    alone = ranked(tmp_path / "alone", runs[:1], split_table(A))
    assert alone["ranked"].all()


def test_nothing_is_compared_across_versions_of_a_metric(tmp_path: Path) -> None:
    """Neither is an older baseline the reference of others, nor has an older entry a difference."""
    present = METRICS.get("delta.pearson").version
    runs = []
    for entry, family, version, level in (
        ("old", "baseline", "0", 0.9),
        ("base", "baseline", present, 0.2),
        ("net", "learned", present, 0.3),
        ("oldnet", "learned", "0", 0.8),
    ):
        config, scores = made(entry, keyed([level + i / 100 for i in range(6)]), family=family)
        runs.append((config, scores.assign(metric_version=version)))
    table = ranked(tmp_path, runs, split_table(A))
    assert set(table["best_baseline"]) == {"base"}
    assert table.loc["net", "diff"] == pytest.approx(0.1)
    assert table.loc[["old", "oldnet"], ["diff", "diff_low"]].isna().all(axis=None)
    assert set(table.loc[["old", "oldnet"], "diff_reason"]) == {reasons.OTHER_VERSION}
    assert table["metric_version"].to_dict() == {"old": "0", "base": present, "net": present, "oldnet": "0"}


def test_a_condition_of_two_folds_counts_both_alike_however_many_seeds_they_have(tmp_path: Path) -> None:
    shared, only = keyed([0.8]), keyed([0.5], start=1)
    runs = [made("net", {**shared, **only}, split=A, seed=seed) for seed in range(3)]
    runs += [made("net", keyed([0.2]), split=B), made("base", {**shared, **only}, split=A)]
    runs.append(made("base", keyed([0.2]), split=B))
    table = ranked(tmp_path, runs, split_table(A, B, board="cv"))
    assert table["value"].to_dict() == pytest.approx({"net": 0.5, "base": 0.5})
    assert table.loc["net", "diff"] == pytest.approx(0.0)
    assert table["n_conditions"].to_dict() == {"net": 2, "base": 2}


def test_entries_are_compared_within_their_board(tmp_path: Path) -> None:
    runs = [made("additive", keyed([0.1] * 5), split=A), made("additive", keyed([0.9] * 5), split=B)]
    splits = pd.concat([split_table(A), split_table(B)])
    table = ranked(tmp_path, runs, splits).reset_index().set_index("board")
    assert table["value"].to_dict() == pytest.approx({"board-aaaa": 0.1, "board-bbbb": 0.9})


def test_a_run_of_a_deleted_split_is_in_no_standing(tmp_path: Path) -> None:
    runs = [made("additive", keyed([0.1] * 5), split=A), made("ridge", keyed([0.9] * 5), split=C)]
    assert ranked(tmp_path, runs, split_table(A)).index.tolist() == ["additive"]
    assert ranked(tmp_path / "alone", runs[1:], split_table(A)).empty
    assert len(collect(ArtifactStore(tmp_path / "home", tmp_path / "splits")).table) == 2


def test_the_newest_configuration_of_an_entry_counts(tmp_path: Path) -> None:
    runs = [
        made("ridge", keyed([0.9] * 5), params="old", created="2024-01-01T00:00:00.000000"),
        made("ridge", keyed([0.1] * 5), params="new", created="2024-01-02T00:00:00.000000"),
    ]
    row = ranked(tmp_path, runs, split_table(A)).loc["ridge"]
    assert row["value"] == pytest.approx(0.1)
    assert row["n_seeds"] == 1


def test_an_entry_of_some_folds_is_paired_with_its_reference_on_these(tmp_path: Path) -> None:
    """Conditions of both folds, which the reference has other values of in the fold that the entry has not run."""
    values = [0.1, 0.9, 0.2, 0.8, 0.5, 0.4]
    runs = [
        made("additive", keyed(values), split=A),
        made("additive", keyed([v + 0.5 for v in values]), split=B),
        made("network", keyed([v + 0.05 for v in values]), split=A, family="learned"),
    ]
    row = ranked(tmp_path, runs, split_table(A, B, board="cv")).loc["network"]
    assert row["diff"] == pytest.approx(0.05)
    assert (row["diff_low"], row["diff_high"]) == (pytest.approx(0.05), pytest.approx(0.05))


# ---- what one value is of ---------------------------------------------------------------------------------


def contexts(n: int, level: float) -> dict[str, float]:
    """Return values of six perturbations in n contexts, one for all of a context."""
    return {f"c{c}|G{i}|||": level + c / 10 for c in range(n) for i in range(6)}


@pytest.mark.parametrize(("n", "reason"), [(2, reasons.ONE_PER_CONTEXT), (6, None)])
def test_one_value_of_a_context_is_drawn_by_context(tmp_path: Path, n: int, reason: str | None) -> None:
    runs = [
        made(e, contexts(n, v), panel="vcc2026", metric="vcc2026_score") for e, v in (("a", 0.1), ("b", 0.2))
    ]
    row = ranked(tmp_path, runs, split_table(A, unit="perturbation")).loc["a"]
    assert (row["grain"], row["n_units"], row["diff"]) == ("context", n, pytest.approx(-0.1))
    assert (row["interval_reason"], row["diff_reason"]) == (reason, reason)
    assert pd.isna(row[["ci_low", "diff_low"]]).tolist() == [reason is not None] * 2
    if reason is None:
        (expected,) = ClusteredBootstrap([(f"c{c}",) for c in range(n)]).intervals(
            np.asarray([0.1 + c / 10 for c in range(n)])[:, None]
        )
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high))


def test_folds_whose_numbers_differ_are_no_conditions_that_differ(tmp_path: Path) -> None:
    runs = [made("a", keyed([v] * 6, start=6 * i), split=s) for i, (s, v) in enumerate(((A, 0.1), (B, 0.5)))]
    row = ranked(tmp_path, runs, split_table(A, B, board="cv", unit="perturbation")).loc["a"]
    assert (row["value"], row["grain"], row["n_units"]) == (pytest.approx(0.3), "context", 1)
    assert pd.isna(row["ci_low"])


def test_a_statistic_of_several_conditions_stands_with_its_mean_over_runs(tmp_path: Path) -> None:
    runs = []
    for entry, values in (("a", (0.9, 0.6)), ("b", (0.5, np.nan))):
        for split, value, n in zip((A, B), values, (6, 3), strict=True):
            start = 0 if split == A else 6
            config, rows = made(entry, keyed([np.nan] * n, start=start), split=split, metric="auroc")
            rows.loc[rows["scope"] == "global", "value"] = value
            runs.append((config, rows))
    table = ranked(tmp_path, runs, split_table(A, B, board="cv", unit="perturbation"))
    assert table["value"].to_dict() == pytest.approx({"a": (6 * 0.9 + 3 * 0.6) / 9, "b": 0.5})
    assert table["n_undefined"].to_dict() == {"a": 0, "b": 3}
    assert set(table["grain"]) == {"run"}
    assert set(table["interval_reason"]) == {reasons.OF_SEVERAL}
    assert table.loc["b", "best_baseline"] == "a"
    assert table.loc["b", "diff"] == pytest.approx(-0.4)
    assert table[["ci_low", "ci_high", "diff_low", "diff_high"]].isna().all(axis=None)


# ---- splits without signal --------------------------------------------------------------------------------


def test_a_fold_without_signal_is_left_out(tmp_path: Path) -> None:
    runs = [
        made("additive", keyed([0.2, 0.4]), split=A),
        made("additive", keyed([0.9], start=2), split=B, no_signal=True),
    ]
    row = ranked(tmp_path, runs, split_table(A, B, board="cv")).loc["additive"]
    assert row["value"] == pytest.approx(0.3)
    assert (row["n_splits"], row["n_splits_expected"], row["n_splits_no_signal"]) == (1, 2, 1)
    assert not row["no_signal"]
    assert row["ranked"]


@pytest.mark.parametrize("dtype", [object, "boolean"])
def test_a_split_of_unknown_signal_counts(dtype: Any) -> None:
    table = pd.DataFrame({"no_signal": pd.Series([True, False, None], dtype=dtype)})
    assert without_signal(table).tolist() == [True, False, False]
    assert not without_signal(table.iloc[2:]).all()


def test_a_board_without_signal_ranks_nothing(tmp_path: Path) -> None:
    runs = [made(e, keyed([v] * 5), no_signal=True) for e, v in (("additive", 0.2), ("ridge", 0.3))]
    table = ranked(tmp_path, runs, split_table(A))
    assert table["no_signal"].all()
    assert not table["ranked"].any()
    assert table["value"].to_dict() == pytest.approx({"additive": 0.2, "ridge": 0.3})


def test_shared_controls_of_one_run_flag_the_board(tmp_path: Path) -> None:
    runs = [made("additive", keyed([0.2] * 5), shared_control=True), made("ridge", keyed([0.3] * 5))]
    assert ranked(tmp_path, runs, split_table(A))["shared_control"].all()


# ---- ceilings and floors ----------------------------------------------------------------------------------


def _bounds(half: float | None, null: float) -> dict[str, Any]:
    return {
        "ceiling": {"pearson": {"half": half, "noise_free": 0.9}},
        "floor": {"null": {"pearson": null}, "train_mean": {"pearson": 0.2}},
    }


def test_ceilings_and_floors_are_means_over_the_folds(tmp_path: Path) -> None:
    runs = [made("additive", keyed([0.2], start=i), split=s) for i, s in enumerate((A, B))]
    splits = split_table(A, B, board="cv")
    for column in ("ceiling", "floor"):
        splits[column] = [_bounds(0.8, 0.0)[column], _bounds(0.6, 0.1)[column]]
    row = ranked(tmp_path, runs, splits).loc["additive"]
    assert row[["ceiling", "null_floor", "train_mean_floor"]].tolist() == pytest.approx([0.7, 0.05, 0.2])


@pytest.mark.parametrize(("n", "shared"), [((1, 3), 0), ((2, 4), 2)])
def test_a_floor_is_the_value_of_an_entry_that_predicts_the_same(
    tmp_path: Path, n: tuple[int, int], shared: int
) -> None:
    """Folds of other sizes and levels; conditions of both count once, half of them in either."""
    levels = (0.2, 0.6)
    starts = (0, n[0] - shared)
    runs = [
        made("additive", keyed([v] * size, start=at), split=s)
        for s, v, size, at in zip((A, B), levels, n, starts, strict=True)
    ]
    splits = split_table(A, B, board="cv")
    splits["floor"] = [{"control_mean": {"pearson": v}} for v in levels]
    splits["ceiling"] = [{"pearson": {"half": v}} for v in levels]
    row = ranked(tmp_path, runs, splits).loc["additive"]
    assert row[["control_mean_floor", "ceiling"]].tolist() == pytest.approx([row["value"]] * 2)
    assert row["value"] != pytest.approx(0.4)


def test_the_ends_of_a_scale_are_means_over_the_folds(tmp_path: Path) -> None:
    name = "vcc2026.pds_cosine"
    splits = split_table(A, B, board="cv")
    splits["ceiling"] = [{name: {"anchor": 0.9}}, {name: {"anchor": 0.7, "half": 0.8}}]
    splits["floor"] = [{"baseline": {name: 0.5}}, {"baseline": {name: 0.4}, "train_mean": {name: 0.4}}]
    for panel, metric, expected in (
        ("vcc2026", "pds_cosine", [0.45, 0.8]),
        ("delta", "pearson", [None, None]),
    ):
        runs = [
            made("additive", keyed([0.2], start=i), split=s, panel=panel, metric=metric)
            for i, s in enumerate((A, B))
        ]
        row = ranked(tmp_path / panel, runs, splits).loc["additive"]
        found = [None if pd.isna(row[c]) else row[c] for c in ("baseline_mark", "anchor_mark")]
        assert found == (expected if expected[0] is None else pytest.approx(expected))


@pytest.mark.parametrize("unknown", [None, {"reason": "no cells"}, {"pearson": {"half": None}}])
def test_a_ceiling_that_one_fold_lacks_is_unknown(tmp_path: Path, unknown: Any) -> None:
    runs = [made("additive", keyed([0.2], start=i), split=s) for i, s in enumerate((A, B))]
    splits = split_table(A, B, board="cv")
    splits["ceiling"] = [_bounds(0.8, 0.0)["ceiling"], unknown]
    row = ranked(tmp_path, runs, splits).loc["additive"]
    assert pd.isna(row["ceiling"])


def test_ceilings_are_those_of_the_panel_they_were_made_for(tmp_path: Path) -> None:
    splits = split_table(A, ceiling={"pearson": {"half": 0.8}}, floor={"null": {"pearson": 0.1}})
    row = ranked(tmp_path, [made("additive", keyed([0.2] * 5), panel="other")], splits).loc["additive"]
    assert pd.isna(row["ceiling"])
    assert pd.isna(row["null_floor"])


def test_a_value_without_a_best_is_not_ranked(tmp_path: Path) -> None:
    runs = [
        made(e, keyed([v] * 5), panel="other", metric="size", direction="target")
        for e, v in (("a", 0.1), ("b", 0.2))
    ]
    table = ranked(tmp_path, runs, split_table(A))
    assert not table["ranked"].any()
    assert table["best_baseline"].isna().all()
    assert table["value"].to_dict() == pytest.approx({"a": 0.1, "b": 0.2})


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
