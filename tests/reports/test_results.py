"""The README's tables, from a small leaderboard by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.significance import COLUMNS
from perturbfm_core.reports.html import DASH
from perturbfm_core.reports.results import EntrySummary, markers, replace_between, results_markdown

BEGIN, END = markers()
FAMILY = {"additive": "baseline", "perturbfm-v1": "learned"}


def row(board: str, entry: str, value: float, rank: int, *, silent: bool = False) -> dict[str, object]:
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
        "ceiling_noise_free": 0.9,
        "train_mean_floor": 0.0,
        "no_signal": silent,
    }


BOARD = pd.DataFrame(
    [
        row("a.combo_ood.1234567890", "additive", 0.5, 2),
        row("a.combo_ood.1234567890", "perturbfm-v1", 0.75, 1),
        row("a.combo_ood.abcdefghij", "additive", 0.3, 1),
        row("b.context_ood.1", "additive", 0.2, 1, silent=True),
        row("b.context_ood.1", "perturbfm-v1", 0.1, 2, silent=True),
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
    assert lines[2] == "| entry | a, combo_ood, 1234567 | a, combo_ood, abcdefg | b, context_ood |"
    assert lines[4:8] == [
        "| `additive` | 0.500 | **0.300** | **0.200** |",
        f"| `perturbfm-v1` | **0.750** | {DASH} | 0.100 |",
        "| *ceiling, noise-free* | 0.900 | 0.900 | 0.900 |",
        "| *train mean* | 0.000 | 0.000 | 0.000 |",
    ]


def test_models_side_by_side_over_boards_that_all_have_run_on():
    text = results_markdown(BOARD, COMPARED, IDEAS)
    assert "over the 1 boards with a signal" in text
    *_, additive, v1 = text.splitlines()
    none = f"{DASH} | {DASH} | {DASH}"
    assert additive == f"| `additive` | {none} | each gene's error on inner folds | 0.500 | {DASH} |"
    assert v1.startswith("| `perturbfm-v1` | Adds a \\| graph | genes, go | string | learned on inner folds")
    assert v1.endswith("| 0.750 | 1 / 0 / 0 (+ 1 of too few units) |")


def test_a_mean_over_fewer_boards_says_so():
    board = BOARD.copy()
    both = board[board["board"] == board["board"].iloc[0]]
    twin = both.assign(board="twin.combo_ood.cv-9999999")
    twin.loc[twin["entry"] == "additive", "value"] = np.nan
    text = results_markdown(pd.concat([board, twin]), COMPARED, IDEAS)
    *_, additive, v1 = text.splitlines()
    assert "over the 2 boards with a signal" in text
    assert "| 0.500 (on 1) |" in additive
    assert "| 0.750 |" in v1


def test_a_board_without_runs_is_refused():
    with pytest.raises(StoreError, match=r"no delta.pearson_centered; run a suite first"):
        results_markdown(BOARD.iloc[:0], COMPARED, IDEAS)


def test_only_what_lies_between_the_markers_changes(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n")
    for text in ("new", "newer"):
        replace_between(path, text)
        assert path.read_text() == f"head\n{BEGIN}\n{text}\n{END}\ntail\n"


@pytest.mark.parametrize("content", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_file_without_one_pair_of_markers_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "README.md"
    path.write_text(content)
    with pytest.raises(StoreError, match="must have one"):
        replace_between(path, "new")
    assert path.read_text() == content
    with pytest.raises(StoreError, match="does not exist"):
        replace_between(tmp_path / "other.md", "new")
