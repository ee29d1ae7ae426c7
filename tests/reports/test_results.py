"""The README's tables, from a small leaderboard by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.reasons import OTHER_VERSION
from perturbfm_core.leaderboard.significance import COLUMNS
from perturbfm_core.reports.html import DASH
from perturbfm_core.reports.results import (
    EntrySummary,
    best_entries,
    mark_reason,
    markers,
    replace_between,
    results_markdown,
)

BEGIN, END = markers()
FAMILY = {"additive": "baseline", "perturbfm-v1": "learned"}


def row(
    board: str,
    entry: str,
    value: float,
    rank: int | None,
    *,
    silent: bool = False,
    folds: tuple[int, int] = (1, 1),
) -> dict[str, object]:
    dataset, kind, _ = board.split(".")
    return {
        "board": board,
        "dataset": dataset,
        "split_kind": kind,
        "panel": "delta",
        "metric": "pearson_centered",
        "entry": entry,
        "family": FAMILY[entry],
        "value": value,
        "rank": rank,
        "direction": "max",
        "ceiling": 0.8,
        "ceiling_noise_free": 0.9,
        "ceiling_reason": None,
        "train_mean_floor": None,
        "control_mean_floor": 0.0,
        "floor_reason": "the train mean is constant",
        "reason": None if np.isfinite(value) else "undefined in every condition",
        "folds_done": folds[0],
        "folds_total": folds[1],
        "no_signal": silent,
    }


BOARD = pd.DataFrame(
    [
        row("a.combo_ood.1234567890", "additive", 0.5, 2),
        row("a.combo_ood.1234567890", "perturbfm-v1", 0.75, 1),
        row("a.combo_ood.abcdefghij", "additive", 0.3, 1),
        row("b.context_ood.1", "additive", 0.2, None, silent=True),
        row("b.context_ood.1", "perturbfm-v1", 0.1, None, silent=True),
    ]
)
COMPARED = pd.DataFrame(
    [
        {"board": "a.combo_ood.1234567890", "entry": "perturbfm-v1", "verdict": "better"},
        {"board": "b.context_ood.1", "entry": "perturbfm-v1", "verdict": "too few units"},
    ],
    columns=list(COLUMNS),
)
IDEAS = {"perturbfm-v1": EntrySummary("Adds a | graph.", "genes", ("string",), ("go",))}


def test_results_by_board_with_the_best_in_bold():
    lines = results_markdown(BOARD, COMPARED, IDEAS).splitlines()
    assert (
        lines[2] == "| entry | a, combo_ood, 1234567 | a, combo_ood, abcdefg | b, context_ood (no signal) |"
    )
    assert lines[4:12] == [
        "| `additive` | 0.500 | **0.300** | 0.200 |",
        f"| `perturbfm-v1` | **0.750** | {DASH}<sup>1</sup> | 0.100 |",
        "| *control* | 0.000 | 0.000 | 0.000 |",
        f"| *train mean* | {' | '.join([f'{DASH}<sup>2</sup>'] * 3)} |",
        "| *half of the cells* | 0.800 | 0.800 | 0.800 |",
        "| *noise-free* | 0.900 | 0.900 | 0.900 |",
        "",
        "<sup>1</sup> not run on this board; <sup>2</sup> undefined for the train mean itself.",
    ]


@pytest.mark.parametrize(
    ("values", "direction", "best"),
    [((0.2, 0.5), "max", "0.500"), ((0.2, 0.5), "min", "0.200"), ((np.nan, -0.1), "max", "-0.100")],
)
def test_a_board_with_some_of_its_folds_says_so_and_has_its_best_in_bold(values, direction, best):
    board = pd.DataFrame(
        [
            row("a.combo_ood.cv-1", entry, value, None, folds=(1, 5))
            for entry, value in zip(("additive", "perturbfm-v1"), values, strict=True)
        ]
    )
    text = results_markdown(board.assign(direction=direction), COMPARED, IDEAS)
    assert text.splitlines()[2] == "| entry | a, combo_ood (1 of 5 folds) |"
    assert text.count("**") == 2
    assert f"| **{best}** |" in text
    # As the database has it, the rank among those on the same folds decides.
    other = board.assign(rank_so_far=[1, 2])
    assert best_entries(other) == {"additive"}


def test_the_best_of_some_entries_is_the_first_in_rank_and_not_in_value():
    """An entry that is undefined in more conditions ranks behind, and those before are of another suite."""
    some = pd.DataFrame([row("a.b.c", "additive", 0.3, 2), row("a.b.c", "perturbfm-v1", 0.5, 3)])
    assert best_entries(some) == {"additive"}


def test_an_entry_with_fewer_folds_than_the_board_says_so_and_is_not_the_best():
    board = pd.DataFrame(
        [
            row("a.combo_ood.cv-1", "additive", 0.9, None, folds=(1, 5)),
            row("a.combo_ood.cv-1", "perturbfm-v1", 0.5, None, folds=(5, 5)),
        ]
    )
    lines = results_markdown(board, COMPARED, IDEAS).splitlines()
    assert lines[2] == "| entry | a, combo_ood |"
    assert lines[4:6] == ["| `additive` | 0.900 (1 of 5 folds) |", "| `perturbfm-v1` | **0.500** |"]


@pytest.mark.parametrize(
    ("known", "column", "why"),
    [
        ({"control_mean_floor": 0.1}, "train_mean_floor", "undefined for the train mean itself"),
        ({"null_floor": 0.1}, "control_mean_floor", "undefined for the control itself"),
        ({"ceiling": 0.5}, "ceiling_noise_free", "what a noise-free prediction reaches"),
        ({"ceiling_reason": "no cells"}, "ceiling", "no cells"),
        ({"floor_reason": None}, "train_mean_floor", "no floor for this metric"),
    ],
)
def test_a_missing_floor_or_ceiling_has_its_reason(known, column, why):
    assert mark_reason(pd.Series(known), column).startswith(why)


def test_nothing_is_bold_without_signal_or_without_a_value():
    assert best_entries(BOARD[BOARD["no_signal"]]) == set()
    assert best_entries(BOARD.assign(value=np.nan, rank=None)) == set()


def test_models_side_by_side_over_boards_that_all_have_run_on():
    text = results_markdown(BOARD, COMPARED, IDEAS)
    assert "over the 1 boards with a signal" in text
    *_, additive, v1, _, notes = text.splitlines()
    none = f"{DASH}<sup>1</sup> | none | none"
    assert (
        additive == f"| `additive` | {none} | each gene's error on inner folds | 0.500 | {DASH}<sup>2</sup> |"
    )
    assert notes.startswith("<sup>1</sup> not in the catalog of models; <sup>2</sup> a baseline: the others")
    assert v1.startswith("| `perturbfm-v1` | Adds a \\| graph | genes, go | string | learned on inner folds")
    assert v1.endswith("| 0.750 | 1 / 0 / 0 (+ 1 of too few units) |")


def test_a_mean_over_fewer_boards_says_so():
    board = BOARD.copy()
    both = board[board["board"] == board["board"].iloc[0]]
    twin = both.assign(board="twin.combo_ood.cv-9999999")
    twin.loc[twin["entry"] == "additive", "value"] = np.nan
    text = results_markdown(pd.concat([board, twin]), COMPARED, IDEAS)
    *_, additive, v1, _, _ = text.splitlines()
    assert "over the 2 boards with a signal" in text
    assert "| 0.500 (on 1) |" in additive
    assert "| 0.750 |" in v1


def test_a_board_of_which_an_entry_has_fewer_folds_is_in_no_mean():
    folds = [
        row("twin.combo_ood.cv-9999999", "additive", 0.9, None, folds=(1, 5)),
        row("twin.combo_ood.cv-9999999", "perturbfm-v1", 0.1, 1, folds=(5, 5)),
    ]
    text = results_markdown(pd.concat([BOARD, pd.DataFrame(folds)]), COMPARED, IDEAS)
    *_, additive, v1, _, _ = text.splitlines()
    assert "over the 1 boards with a signal" in text
    assert "| 0.500 |" in additive
    assert "| 0.750 |" in v1


def test_a_value_of_another_version_of_the_metric_says_so_and_is_in_no_mean():
    older = {**row("twin.combo_ood.99999999", "additive", 0.9, None), "reason": OTHER_VERSION}
    rows = [older, row("twin.combo_ood.99999999", "perturbfm-v1", 0.1, 1)]
    text = results_markdown(pd.concat([BOARD, pd.DataFrame(rows)]), COMPARED, IDEAS)
    assert "over the 1 boards with a signal" in text
    assert f"</sup> {OTHER_VERSION}" in text
    *_, additive, v1, _, _ = text.splitlines()
    assert "| 0.500 |" in additive
    assert "| 0.750 |" in v1


def test_a_value_of_some_conditions_says_so():
    lines = results_markdown(BOARD.assign(n_conditions=42, n_undefined=[0, 3, 0, 0, 0]), COMPARED, IDEAS)
    assert "| `perturbfm-v1` | **0.750<sup>1</sup>** |" in lines
    assert (
        "<sup>1</sup> undefined in 3 of 42 conditions, ranked behind entries with fewer; <sup>2</sup>"
        in lines
    )


def test_what_predictions_are_warned_of_is_said():
    warned = [None, "3 of 3 predictions are what was measured", None, None, "long " * 100]
    lines = results_markdown(BOARD.assign(warned_of=warned), COMPARED, IDEAS).splitlines()
    assert any(line.startswith("| `perturbfm-v1` | **0.750<sup>1</sup>**") for line in lines)
    assert "<sup>1</sup> warned of: 3 of 3 predictions are what was measured; " in "\n".join(lines)
    (notes,) = [line for line in lines if "warned of: long" in line]
    assert notes.count("long ") == 40


def test_a_board_without_runs_is_refused():
    with pytest.raises(StoreError, match=r"no delta.pearson_centered; run a suite first"):
        results_markdown(BOARD.iloc[:0], COMPARED, IDEAS)


def test_only_what_lies_between_the_markers_changes(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n")
    for text in ("new", "newer"):
        replace_between(path, text)
        assert path.read_text() == f"head\n{BEGIN}\n{text}\n{END}\ntail\n"


def test_line_ends_stay_and_what_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_bytes(f"head\r\n{BEGIN}\r\nold\r\n{END}\r\ntail\r\n".encode())
    replace_between(path, "new")
    assert path.read_bytes() == f"head\r\n{BEGIN}\nnew\n{END}\r\ntail\r\n".encode()
    path.write_bytes(b"\xa4")
    with pytest.raises(StoreError, match="is no text in UTF-8; give the file that has"):
        replace_between(path, "new")


@pytest.mark.parametrize("content", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_file_without_one_pair_of_markers_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "README.md"
    path.write_text(content)
    with pytest.raises(StoreError, match="must have one"):
        replace_between(path, "new")
    assert path.read_text() == content
    with pytest.raises(StoreError, match="does not exist"):
        replace_between(tmp_path / "other.md", "new")
