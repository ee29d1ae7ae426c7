"""Ceilings and floors of a board, and boards without signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perturbfm_core.leaderboard.run_marks import without_signal
from tests.support.factories import split_table
from tests.support.standings_of_runs import A, B, keyed, made, ranked


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
