"""Learned entries against the baseline that inner folds chose, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.significance import COLUMNS, against_baseline, compare_entries, holm
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_requests import put_request
from tests.support.factories import run_config, score_rows, split_table, write_run


def key(i: int, context: str = "x") -> str:
    return f"{context}|G{i:02d}|CRISPRi||"


def board(
    values: dict[str, np.ndarray], inner: dict[str, float], unit: str = "perturbation", split: str = "s"
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return runs, splits and scores of one board with one run per entry."""
    runs = pd.DataFrame(
        [
            {
                "run_id": f"{split}.{name}",
                "split_hash": split,
                "entry": name,
                "family": "learned" if name.startswith("v") else "baseline",
                "seed": 0,
                "inner_pearson_centered": inner.get(name, np.nan),
            }
            for name in values
        ]
    )
    splits = pd.DataFrame([{"split_hash": split, "board": "b", "unit": unit, "no_signal": False}])
    scores = pd.DataFrame(
        [
            {"run_id": f"{split}.{name}", "key": key(i), "value": x}
            for name, xs in values.items()
            for i, x in enumerate(xs)
        ]
    )
    return runs, splits, scores


BASE = np.linspace(0.1, 0.8, 20)


def test_the_reference_is_what_inner_folds_chose_not_what_is_best_on_test():
    values = {"lucky": BASE + 0.1, "chosen": BASE, "v1": BASE + 0.05}
    out = compare_entries(*board(values, {"lucky": 0.1, "chosen": 0.2}))
    assert list(out.columns) == list(COLUMNS)
    (row,) = out.to_dict("records")
    assert (row["entry"], row["reference"], row["n_conditions"], row["n_units"]) == ("v1", "chosen", 20, 20)
    assert row["diff"] == pytest.approx(0.05)
    assert row["value"] - row["reference_value"] == pytest.approx(0.05)
    assert row["verdict"] == "better"


def test_verdicts_of_worse_equal_and_too_few_units():
    rng = np.random.default_rng(0)
    values = {
        "base": BASE,
        "v-worse": BASE - 0.05,
        "v-same": BASE,
        "v-noisy": BASE + rng.normal(0, 0.3, 20),
    }
    out = compare_entries(*board(values, {"base": 0.2})).set_index("entry")["verdict"]
    assert out.to_dict() == {
        "v-worse": "worse",
        "v-same": "not told apart",
        "v-noisy": "not told apart",
    }
    few = compare_entries(*board(values, {"base": 0.2}, unit="context"))
    assert set(few["verdict"]) == {"too few units"}
    assert few["p_worse"].isna().all()


def test_each_split_of_a_cross_validation_has_its_own_reference():
    one = board({"a": BASE, "b": BASE - 0.2, "v": BASE + 0.1}, {"a": 0.3, "b": 0.1}, split="s0")
    two = board({"a": BASE - 0.2, "b": BASE, "v": BASE + 0.1}, {"a": 0.1, "b": 0.3}, split="s1")
    two[2]["key"] = [key(20 + i % 20) for i in range(60)]
    out = compare_entries(*(pd.concat(parts) for parts in zip(one, two, strict=True)))
    (row,) = out.to_dict("records")
    assert (row["reference"], row["n_conditions"]) == ("a, b", 40)
    assert row["diff"] == pytest.approx(0.1)


def test_the_references_of_folds_that_an_entry_has_not_run_are_not_its_own():
    one = board({"a": BASE, "b": BASE - 0.2, "v": BASE + 0.1}, {"a": 0.3, "b": 0.1}, split="s0")
    two = board({"a": BASE, "b": BASE}, {"a": 0.1, "b": 0.3}, split="s1")
    runs, splits, scores = (pd.concat(parts) for parts in zip(one, two, strict=True))
    (row,) = compare_entries(runs, splits.assign(cv_k=2), scores).to_dict("records")
    assert (row["reference"], row["folds"]) == ("a", "1 of 2 folds")
    (row,) = compare_entries(*one).to_dict("records")
    assert (row["reference"], row["folds"]) == ("a", "one split")


def test_a_fold_without_signal_is_left_out_unless_all_are():
    one = board({"a": BASE, "v": BASE + 0.1}, {"a": 0.3}, split="s0")
    two = board({"a": BASE, "v": BASE - 0.5}, {"a": 0.3}, split="s1")
    two[2]["key"] = [key(20 + i % 20) for i in range(40)]
    runs, splits, scores = (pd.concat(pair, ignore_index=True) for pair in zip(one, two, strict=True))
    for silent, n, diff in (([False, True], 20, 0.1), ([False, False], 40, -0.2), ([True, True], 40, -0.2)):
        (row,) = compare_entries(runs, splits.assign(no_signal=silent), scores).to_dict("records")
        assert (row["n_conditions"], row["no_signal"]) == (n, all(silent))
        assert row["diff"] == pytest.approx(diff)
        # Without signal nothing is told apart, and no test is counted.
        assert (row["verdict"] == "no signal") == all(silent)
        assert np.isnan([row["p_better"], row["p_better_holm"]]).all() == all(silent)


def test_an_entry_of_silent_folds_alone_is_left_out():
    one = board({"a": BASE, "v": BASE + 0.1}, {"a": 0.3}, split="s0")
    two = board({"a": BASE, "w": BASE}, {"a": 0.3}, split="s1")
    runs, splits, scores = (pd.concat(pair, ignore_index=True) for pair in zip(one, two, strict=True))
    found = compare_entries(runs, splits.assign(no_signal=[False, True]), scores)
    assert found["entry"].tolist() == ["v"]


def test_seeds_are_averaged_and_undefined_conditions_left_out_on_both_sides():
    runs, splits, scores = board({"a": BASE, "v": BASE}, {"a": 0.3})
    again = runs[runs["entry"] == "v"].assign(run_id="s.v2", seed=1)
    more = scores[scores["run_id"] == "s.v"].assign(run_id="s.v2", value=lambda t: t["value"] + 0.1)
    scores = pd.concat([scores, more])
    scores.loc[(scores["run_id"] == "s.a") & (scores["key"] == key(3)), "value"] = np.nan
    (row,) = compare_entries(pd.concat([runs, again]), splits, scores).to_dict("records")
    assert (row["n_conditions"], row["n_undefined"]) == (19, 1)
    assert row["diff"] == pytest.approx(0.05)


def test_a_reference_that_is_undefined_everywhere_is_reported_and_not_dropped():
    (row,) = compare_entries(*board({"a": BASE * np.nan, "v": BASE}, {"a": 0.3})).to_dict("records")
    assert (row["n_conditions"], row["n_undefined"], row["verdict"]) == (0, 20, "too few units")


def test_entries_and_references_that_another_version_of_the_metric_scored_are_not_compared():
    """The baseline of the best inner score is older than the others, and one entry as well."""
    values = {"old": BASE + 0.3, "base": BASE, "v-new": BASE + 0.1, "v-old": BASE + 0.5}
    runs, splits, scores = board(values, {"old": 0.3, "base": 0.2})
    present = METRICS.get("delta.pearson_centered").version
    older = scores["run_id"].str.contains("old")
    scores["metric_version"] = np.where(older, "0", present)
    found = compare_entries(runs, splits, scores).set_index("entry")
    assert found["verdict"].to_dict() == {"v-new": "better", "v-old": "other version"}
    assert found.loc["v-new", "reference"] == "base"
    assert found.loc["v-new", "diff"] == pytest.approx(0.1)
    assert found.loc["v-old", ["diff", "p_better", "p_better_holm"]].isna().all()
    # One that is not tested is not corrected for.
    assert found.loc["v-new", "p_better_holm"] == found.loc["v-new", "p_better"]
    alike = compare_entries(runs, splits, scores.assign(metric_version="0")).set_index("entry")
    assert set(alike["reference"]) == {"old"}


def test_without_scores_on_inner_folds_there_is_no_reference():
    assert compare_entries(*board({"a": BASE, "v": BASE}, {})).empty


def test_holm_by_hand():
    """Sorted .01, .02, .04 times 3, 2, 1, never falling: .03, .04, .04."""
    out = holm(np.asarray([0.04, np.nan, 0.01, 0.02]))
    np.testing.assert_allclose(out, [0.04, np.nan, 0.03, 0.04])
    assert holm(np.asarray([0.9, 0.8])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("asked_again", [True, False])
def test_the_runs_are_those_that_count_on_the_board(tmp_path: Path, asked_again: bool) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    made = [("ridge", "a", "01", 0.0), ("net", "a", "01", 0.1), ("net", "b", "02", -0.1)]
    for entry, params, day, more in made:
        family = "baseline" if entry == "ridge" else "learned"
        config = run_config(entry, params=params, created=f"2024-01-{day}T00:00:00.000000", family=family)
        values = {key(i): float(x + more) for i, x in enumerate(BASE)}
        folder = write_run(
            store,
            {**config, "inner_folds": {"pearson_centered": 0.2}},
            score_rows(config, values, metric="pearson_centered"),
        )
        if params == "a" and entry == "net" and asked_again:
            put_request(store, folder.name, "2024-01-03T00:00:00.000000")
    # Nothing of a signal is stored beside the split; its runs know that there is one.
    table = split_table("a" * 64, board="b", unit="perturbation", no_signal=None)
    database.rebuild(store, lambda: table, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    board = database.query(store, "SELECT value FROM leaderboard WHERE entry = 'net'")
    (row,) = against_baseline(store).to_dict("records")
    assert row["value"] == pytest.approx(board["value"].item())
    assert row["verdict"] == ("better" if asked_again else "worse")
    assert row["no_signal"] == False  # noqa: E712


def test_a_board_whose_runs_alone_know_of_no_signal_is_not_tested(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for entry, family in (("ridge", "baseline"), ("net", "learned")):
        config = run_config(entry, family=family, no_signal=True)
        values = {key(i): float(x + len(entry)) for i, x in enumerate(BASE)}
        write_run(
            store,
            {**config, "inner_folds": {"pearson_centered": 0.2}},
            score_rows(config, values, metric="pearson_centered"),
        )
    table = split_table("a" * 64, board="b", unit="perturbation", no_signal=None)
    database.rebuild(store, lambda: table, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    assert against_baseline(store)["verdict"].tolist() == ["no signal"]


def test_pairs_of_a_board_and_its_comparison_are_of_one_version_of_the_metric(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    present = METRICS.get("delta.pearson_centered").version
    for entry, family, version in (
        ("base", "baseline", present),
        ("net", "learned", present),
        ("older", "learned", "0"),
    ):
        config = {**run_config(entry, family=family), "inner_folds": {"pearson_centered": 0.2}}
        rows = score_rows(config, {key(i): float(x) for i, x in enumerate(BASE)}, metric="pearson_centered")
        write_run(store, config, rows.assign(metric_version=version))
    table = split_table("a" * 64, board="b", unit="perturbation")
    database.rebuild(store, lambda: table, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    pairs = database.query(store, "SELECT entry_a, entry_b FROM pairwise")
    assert pairs.values.tolist() == [["base", "net"]]
    verdicts = against_baseline(store).set_index("entry")["verdict"].to_dict()
    assert verdicts == {"net": "not told apart", "older": "other version"}
