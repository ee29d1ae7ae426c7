"""Scorecards by hand: ranks with ties, places between floor and ceiling, coverage, cost."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.leaderboard.board_marks import board_marks
from perturbfm_core.leaderboard.fold_conditions import mean_of_splits
from perturbfm_core.leaderboard.headline import Marks
from perturbfm_core.leaderboard.left_out import left_out
from perturbfm_core.leaderboard.pooled_marks import PooledMarks
from perturbfm_core.leaderboard.reasons import NO_BOUNDS, NO_NOISE_FREE, OTHER_VERSION
from perturbfm_core.leaderboard.run_cost import RunCost, count_parameters, total_cost
from perturbfm_core.leaderboard.scorecard import Scorecard, entry_score, ordered
from perturbfm_core.leaderboard.scorecard_tasks import Task, TaskScore, scale_of, score_task
from perturbfm_core.reports.html import DASH
from perturbfm_core.reports.pages.scorecard import scorecard_page

UP, DOWN = METRICS.get("delta.pearson_centered"), METRICS.get("delta.rmse")


def task(board="b1", metric=UP, **fields):
    full = f"{metric.panel}.{metric.name}"
    return Task(
        **{
            "board": board,
            "dataset": "d",
            "kind": "combo_ood",
            "metric": full,
            "direction": metric.direction,
            "unit": "perturbation",
            "n_splits": 1,
            "n_splits_expected": 1,
            **fields,
        }
    )


def scores(values, metric=UP, split="s1"):
    """Return condition scores of {entry: values by condition}, None for a condition that was not predicted."""
    rows = [
        {
            "entry": entry,
            "split_hash": split,
            "panel": metric.panel,
            "metric": metric.name,
            "metric_version": metric.version,
            "key": f"c0|p{i}|CRISPRa||",
            "value": value,
            "direction": metric.direction,
        }
        for entry, of in values.items()
        for i, value in enumerate(of)
        if value is not None
    ]
    return pd.DataFrame(rows)


def scored(values, metric=UP, expected=2, reasons=(), **fields):
    why = {**dict.fromkeys(values), **dict(reasons)}
    return score_task(task(metric=metric, **fields), metric, scores(values, metric), expected, why)


def test_three_entries_two_of_them_equal():
    """By hand: .2 and twice .6; the two share places 1 and 2, the third is third."""
    values = {"a": [0.5, 0.7], "b": [0.1, 0.3], "c": [0.6, 0.6]}
    made, found = scored(values, floor=0.1, ceiling=0.9)
    assert {e: s.rank for e, s in found.items()} == {"a": 1.5, "b": 3.0, "c": 1.5}
    assert {e: s.value for e, s in found.items()} == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.6})
    assert {e: s.relative for e, s in found.items()} == pytest.approx({"a": 0.625, "b": 0.125, "c": 0.625})
    assert (made.n_conditions, made.n_possible) == (2, 2)
    assert [s.coverage for s in found.values()] == [1.0, 1.0, 1.0]


def test_one_value_of_a_context_has_no_interval_over_its_conditions():
    _, found = scored({"a": [0.3] * 9, "b": [0.5] * 9}, expected=9)
    assert {e: (s.value, s.ci_low) for e, s in found.items()} == {
        "a": (pytest.approx(0.3), None),
        "b": (0.5, None),
    }
    _, found = scored({"a": [0.3] * 9, "b": [0.5] * 8 + [0.6]}, expected=9)
    assert found["b"].ci_low is not None


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ({"a": 0.3, "b": 0.3, "c": 0.3}, {"a": 2.0, "b": 2.0, "c": 2.0}),
        ({"a": 0.1, "b": 0.3, "c": 0.1}, {"a": 2.5, "b": 1.0, "c": 2.5}),
        ({"a": 0.1, "b": 0.1 + 1e-16, "c": 0.2, "d": 0.2}, {"a": 3.5, "b": 3.5, "c": 1.5, "d": 1.5}),
    ],
)
def test_equal_values_share_the_mean_of_their_places(values, ranks):
    _, found = scored({e: [v, v] for e, v in values.items()})
    assert {e: s.rank for e, s in found.items()} == ranks


def test_where_small_is_good_the_smallest_is_first_and_the_scale_turns_with_it():
    _, found = scored({"a": [2.0, 2.0], "b": [1.0, 1.0]}, DOWN, floor=3.0, ceiling=0.5)
    assert (found["a"].rank, found["b"].rank) == (2.0, 1.0)
    assert (found["a"].relative, found["b"].relative) == pytest.approx((0.4, 0.8))


def test_what_was_not_predicted_counts_against():
    """Half of four conditions: behind whoever has all, at half of its place, half covered."""
    values = {"half": [0.9, 0.9, None, None], "whole": [0.3, 0.3, 0.3, 0.3], "none": []}
    _, found = scored(
        values, expected=4, reasons={"none": "not applicable: it needs doses"}, floor=0.1, ceiling=0.9
    )
    assert {e: s.rank for e, s in found.items()} == {"half": 2.0, "whole": 1.0, "none": 3.0}
    assert {e: s.relative for e, s in found.items()} == pytest.approx(
        {"half": 0.5, "whole": 0.25, "none": 0.0}
    )
    assert {e: s.coverage for e, s in found.items()} == {"half": 0.5, "whole": 1.0, "none": 0.0}
    assert found["half"].reason == "no value on 2 of 4 conditions"
    assert found["none"].reason == "not applicable: it needs doses"


@pytest.mark.parametrize("metric", [UP, DOWN])
@pytest.mark.parametrize(("left_out", "share"), [((3,), 0.75), ((0, 2, 3), 0.25), ((), 1.0)])
def test_a_condition_scored_as_its_control_is_not_covered(metric, left_out, share):
    """The similarity of such a condition is undefined, its error is that of the control; neither is a prediction."""
    values = [np.nan if metric is UP and i in left_out else 0.5 for i in range(4)]
    table = scores({"a": values, "b": [0.4] * 4}, metric)
    absent = table["key"].isin([f"c0|p{i}|CRISPRa||" for i in left_out]) & (table["entry"] == "a")
    made, found = score_task(
        task(metric=metric), metric, table.assign(predicted=~absent), 4, {"a": None, "b": None}
    )
    assert {e: s.coverage for e, s in found.items()} == {"a": share, "b": 1.0}
    assert (made.n_possible, found["b"].reason) == (4, None)
    if left_out:
        said = f"{len(left_out)} of 4 conditions are not predicted and scored as their control"
        assert found["a"].reason.endswith(said)


def test_what_nobody_predicted_counts_against_those_who_left_it_out():
    table = scores({"a": [0.5, np.nan]})
    made, found = score_task(
        task(floor=0.0, ceiling=1.0), UP, table.assign(predicted=[True, False]), 2, {"a": None}
    )
    assert (made.n_possible, found["a"].coverage, found["a"].relative) == (2, 0.5, pytest.approx(0.25))


def record(**notes):
    return SimpleNamespace(notes=notes)


def test_left_out_conditions_are_those_that_the_predictions_mark(tmp_path):
    keys = ["a", "b", "c"]
    np.savez(
        tmp_path / "predictions.npz",
        mean=np.zeros((3, 2)),
        condition=np.asarray(keys),
        not_predicted=np.asarray([False, True, True]),
    )
    assert left_out(tmp_path, record(missing_as_control=1), keys) == {"b", "c"}


@pytest.mark.parametrize(
    ("notes", "training", "n"),
    [
        ({"missing_as_control": 2}, None, 2),
        ({}, {"conversion": {"counts": {"missing": 1}}}, 1),
        ({}, {"conversion": None}, 0),
        ({}, None, 0),
    ],
)
@pytest.mark.parametrize("damaged", [False, True])
def test_of_other_runs_the_number_of_left_out_conditions_is_known(tmp_path, notes, training, n, damaged):
    if training is not None:
        (tmp_path / "training.json").write_text(json.dumps(training))
    if damaged:
        (tmp_path / "predictions.npz").write_bytes(b"PK\x03\x04 cut off")
    assert len(left_out(tmp_path, record(**notes), ["a", "b", "c"])) == n


def test_abstaining_pays_neither_above_nor_below_the_floor():
    values = {"bad": [-0.7, None], "all": [0.5, 0.5]}
    _, found = scored(values, floor=0.1, ceiling=0.9)
    assert found["bad"].relative == pytest.approx(-1.0)


def test_a_condition_without_a_value_for_anybody_counts_against_nobody():
    values = {"a": [0.4, np.nan], "b": [0.2, np.nan], "c": [np.nan, np.nan]}
    made, found = scored(values, floor=0.0, ceiling=1.0)
    assert (made.n_conditions, made.n_possible) == (2, 1)
    assert (found["a"].relative, found["a"].reason) == (pytest.approx(0.4), None)
    # A constant prediction: all is predicted, nothing is defined.
    assert (found["c"].coverage, found["c"].rank, found["c"].relative) == (1.0, 3.0, 0.0)
    assert found["c"].reason.startswith("undefined")


def test_a_condition_of_two_folds_counts_once_in_the_mean_and_twice_in_the_coverage():
    both = pd.concat([scores({"a": [0.2, 0.4]}), scores({"a": [0.6, None]}, split="s2")])
    _, found = score_task(task(), UP, both, 3, {"a": None})
    # Means (.2 + .6) / 2 and .4.
    assert (found["a"].value, found["a"].coverage) == (pytest.approx(0.4), 1.0)


def test_a_condition_of_two_folds_counts_both_alike_however_many_seeds_they_have():
    runs = [scores({"a": [0.2]}, split="s1").assign(seed=seed) for seed in range(3)]
    both = pd.concat([*runs, scores({"a": [0.6]}, split="s2").assign(seed=0)])
    assert score_task(task(), UP, both, 2, {"a": None})[1]["a"].value == pytest.approx(0.4)


@pytest.mark.parametrize("present", [True, False])
def test_scores_of_another_version_of_the_metric_are_no_value(present):
    """The present version counts where a run has it, else that of the newest run."""
    values = {"old": [0.9, 0.9], "new": [0.5, 0.7]}
    table = scores(values)
    version = UP.version if present else "other"
    table["metric_version"] = np.where(table["entry"] == "old", "0", version)
    _, found = score_task(task(floor=0.1, ceiling=0.9), UP, table, 2, dict.fromkeys(values))
    assert {e: s.rank for e, s in found.items()} == {"old": 2.0, "new": 1.0}
    assert (found["old"].value, found["old"].relative, found["old"].reason) == (None, 0.0, OTHER_VERSION)
    assert (found["new"].value, found["new"].reason) == (pytest.approx(0.6), None)
    _, alike = score_task(task(), UP, table.assign(metric_version="0"), 2, dict.fromkeys(values))
    assert alike["old"].rank == 1.0


def test_nothing_is_ranked_without_signal_or_without_a_value():
    _, found = scored({"a": [0.2, 0.2], "b": [0.1, 0.1]}, counted=False)
    assert [s.rank for s in found.values()] == [None, None]
    _, found = scored({"a": [np.nan, np.nan]})
    assert found["a"].rank is None


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        (Marks(0.0, 0.2, 0.1, 0.7, 0.9), (0.2, "control", 0.9, "noise-free")),
        (Marks(0.0, 0.1, 0.3, 0.7, None), (0.3, "train mean", 0.7, "half of the cells")),
        (Marks(-0.1, None, None, None, None), (-0.1, "no effect", None, None)),
        (Marks(None, None, 0.2, None, 0.8), (0.2, "train mean", 0.8, "noise-free")),
        # The scale of the panel itself, as of the challenge's scores and of the metrics behind them.
        (Marks(0.0, -0.4, -0.1, 1.0, None, 0.0, 1.0), (0.0, "baseline", 1.0, "replicate anchor")),
        (Marks(None, 0.6, 0.7, None, 0.9, 0.5, 0.8), (0.5, "baseline", 0.8, "replicate anchor")),
        (Marks(None, 0.1, 0.2, None, 0.9, 0.5, None), (0.2, "train mean", 0.9, "noise-free")),
    ],
)
def test_the_scale_is_the_better_floor_and_the_noise_free_bound(marks, expected):
    found = scale_of(UP, marks)
    assert (found["floor"], found["floor_name"], found["ceiling"], found["ceiling_name"]) == expected


def pooled(values, tested):
    """Return the marks of a board, of (control, half of the cells, noise-free) on each split."""
    bounds = {
        split: ({UP.name: {"half": half, "noise_free": free}}, {"control_mean": {UP.name: control}})
        for split, (control, half, free) in zip(tested, values, strict=True)
    }
    return PooledMarks(bounds, tested, {}).of(UP.panel, UP.name)


def test_the_scale_of_a_board_is_the_mean_of_its_splits_and_none_where_one_is_unknown():
    found = scale_of(UP, pooled([(0.1, 0.5, 0.8), (0.3, None, 0.6)], {"a": ["x"], "b": ["y"]}))
    assert (found["floor"], found["ceiling"]) == (pytest.approx(0.2), pytest.approx(0.7))
    errors = scale_of(DOWN, Marks(2.0, 1.5, 1.0, None, 0.2))
    assert (errors["floor"], errors["floor_name"]) == (1.0, "train mean")


def test_folds_count_by_their_conditions_in_whatever_order():
    """Three conditions of one fold and one of another; the mean has the same last digit either way round."""
    marks = pooled([(0.1, None, 0.9), (0.5, None, 0.9)], {"a": ["x", "y", "z"], "b": ["w"]})
    assert scale_of(UP, marks) == {
        "floor": pytest.approx(0.2),
        "floor_name": "control",
        "ceiling": 0.9,
        "ceiling_name": "noise-free",
    }
    values, shares = [0.1, 0.7, 0.3, 1e-9, 0.26273], [3.0, 1 / 3, 7.0, 0.1, 2.5]
    means = {
        mean_of_splits([values[i] for i in order], [shares[i] for i in order])
        for order in permutations(range(len(values)))
    }
    assert [*means] == [pytest.approx(np.average(values, weights=shares))]


def card():
    """Return a scorecard of three entries on two tasks, in which two tie by mean rank."""
    tasks, of = [], []
    for board, values in (("b1", {"a": 0.6, "b": 0.2, "c": 0.6}), ("b2", {"a": 0.1, "b": 0.9, "c": 0.1})):
        t = task(board, floor=0.0, ceiling=1.0)
        made, found = score_task(
            t, UP, scores({e: [v, v] for e, v in values.items()}), 2, dict.fromkeys(values)
        )
        tasks.append(made)
        of.append(found)
    entries = [
        entry_score(e, "baseline", tasks, {"b1": of[0][e], "b2": of[1][e]}, cost=RunCost(1.5, 10_000_000, 12))
        for e in ("c", "b", "a")
    ]
    return Scorecard(
        "s", "<x>", "2026-01-01T00:00:00Z", "delta.pearson_centered", "m", tasks, ordered(entries)
    )


def test_means_over_tasks_by_hand():
    made = card()
    assert [e.entry for e in made.entries] == ["b", "a", "c"]
    assert [e.mean_rank for e in made.entries] == [2.0, 2.0, 2.0]
    assert [e.score for e in made.entries] == pytest.approx([0.55, 0.35, 0.35])
    content = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert content["entries"][0]["tasks"]["b2"]["rank"] == 1.0
    assert content["entries"][0]["cost"] == {"cpu_s": 1.5, "peak_bytes": 10_000_000, "parameters": 12}


def test_the_page_shows_every_entry_and_task_and_escapes_text():
    page = scorecard_page(card())
    assert "&lt;x&gt;" in page
    assert "<x>" not in page
    for text in ("b1", "b2", "2.5", "1.5", "0.55", "delta.pearson_centered", "mean rank"):
        assert text in page


def stats(ceiling, floor):
    return SimpleNamespace(ceiling=ceiling, floor=floor)


def marks_and_reasons(*found):
    bounds = {str(i): (None, None) if s is None else (s.ceiling, s.floor) for i, s in enumerate(found)}
    marks = PooledMarks(bounds, {split: [split] for split in bounds}, {}).of(UP.panel, UP.name)
    return board_marks(marks, found, UP)


def test_a_board_is_read_against_two_floors_and_two_ceilings():
    one = stats(
        {"pearson_centered": {"half": 0.5, "noise_free": 0.7}},
        {"control_mean": {"pearson_centered": 0.1}, "train_mean": {"pearson_centered": None}},
    )
    two = stats(
        {"pearson_centered": {"half": 0.7, "reason": "no rule"}}, {"control_mean": {"pearson_centered": 0.3}}
    )
    marks, why = marks_and_reasons(one, two)
    assert marks == {
        "control": pytest.approx(0.2),
        "train mean": None,
        "half of the cells": pytest.approx(0.6),
        "noise-free": None,
    }
    assert why == {"train mean": "undefined for the train mean itself", "noise-free": "no rule"}
    half = stats({"pearson_centered": {"half": 0.5}}, {"control_mean": {}})
    assert marks_and_reasons(half)[1] == {
        "control": "no floor for this metric",
        "train mean": "no floor for this metric",
        "noise-free": NO_NOISE_FREE,
    }
    assert set(marks_and_reasons(None)[1].values()) == {NO_BOUNDS}
    assert marks_and_reasons(stats({"reason": "no  cells"}, {}))[1]["half of the cells"] == "no cells"


def test_the_page_names_folds_and_marks_and_gives_every_dash_its_reason():
    made = card()
    first = replace(
        made.tasks[0],
        n_splits_expected=5,
        marks={"control": 0.125, "train mean": None},
        mark_reasons={"train mean": "it is constant"},
    )
    silent = replace(made.tasks[1], counted=False, note="no signal: nothing is ranked")
    none = TaskScore(None, None, None, None, None, 0.0, 0, "not applicable: doses")
    entries = [
        entry_score(
            name,
            family,
            [first, silent],
            {"b1": none if name == "x" else made.entries[0].tasks["b1"], "b2": none},
            panels={"p.m": {"mean_rank": None, "b1": None, "b2": 0.5}},
            panel_reasons={"p.m": {"b1": "too few cells"}},
        )
        for name, family in (("x", "baseline"), ("y", "external"))
    ]
    text = scorecard_page(replace(made, tasks=[first, silent], entries=entries))
    assert "rank 1 (1 of 5 folds)" in text
    assert "control <b>0.125</b>" in text
    plain = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    dashes = re.findall(f'{DASH}(<sup title="([^"]+)">)?', plain)
    assert len(dashes) > 10
    assert all(mark for mark, _ in dashes)
    for said in (
        "it is constant",
        "not applicable: doses",
        "too few cells",
        "no run of this entry",
        "handed in",
    ):
        assert said in text


def test_the_page_is_for_dark_screens_and_print_as_well():
    page = scorecard_page(card())
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_parameters_are_counted_from_the_header_alone(tmp_path):
    header = json.dumps(
        {
            "__metadata__": {"x": "y"},
            "w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
            "b": {"dtype": "F32", "shape": [], "data_offsets": [48, 52]},
        }
    ).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert count_parameters(tmp_path / "m.safetensors") == 13
    (tmp_path / "bad").write_bytes(b"\x01")
    (tmp_path / "worse").write_bytes(struct.pack("<Q", 2) + b"no")
    assert [count_parameters(tmp_path / n) for n in ("bad", "worse", "absent")] == [None, None, None]


def test_costs_of_several_runs():
    assert total_cost([RunCost(1.0, 5, None), RunCost(3.0, 9, 7), RunCost()]) == RunCost(2.0, 9, 7)
    assert total_cost([]) == RunCost()
