"""Standings pooled over folds, seeds and repeats, and over values that several conditions share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import split_table
from tests.support.standings_in_memory import collect
from tests.support.standings_of_runs import A, B, C, keyed, made, ranked


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
