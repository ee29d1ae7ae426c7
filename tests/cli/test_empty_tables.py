"""Tables of the command line: one without rows says why, and every dash of a board has its reason beside it."""

from __future__ import annotations

import ast
import re

import pandas as pd
import pytest

from perturbfm_core.cli.boards import board_lines
from perturbfm_core.evaluation.metric import METRICS
from tests.support.command import perturbfm
from tests.support.paths import REPO

# Verbs that print a line of their own instead of an empty table, or whose table has rows whatever happens.
NEVER_EMPTY = ("downloads.py", "external_env.py", "output.py", "predict.py", "suite_tasks.py")
CLI = sorted((REPO / "perturbfm_core" / "cli").glob("*.py"))


def silent_calls() -> list[str]:
    """Return the places that print rows without saying why there may be none."""
    out = []
    for file in CLI:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in ("emit_rows", "emit_table") and "empty" not in {k.arg for k in node.keywords}:
                out.append(f"{file.name}: {ast.unparse(node)[:80]}")
    return [line for line in out if not line.startswith(NEVER_EMPTY)]


def test_every_table_can_say_why_it_is_empty():
    assert silent_calls() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("suite", "status", "demo", "--state", "running"),
            r"no cell is running; without --state all \d+ are shown",
        ),
        (("suite", "status", "demo", "--state", "done"), "no cell is done; without --state"),
    ],
)
def test_an_empty_table_of_a_suite_says_why(words, said):
    assert re.search(rf"\(no rows: {said}", perturbfm(*words).out)


@pytest.mark.parametrize("undefined", [None, {("b", "flat"): "it is constant"}])
def test_every_dash_of_a_board_has_its_number(undefined):
    row = {
        "board": "b",
        "value": 0.5,
        "rank": 1,
        "ci_low": None,
        "ci_high": None,
        "interval_reason": "fewer than 5 units",
        "best_baseline": "ridge",
        "diff_best_baseline": None,
        "diff_low": None,
        "diff_high": None,
        "reason": None,
        "n_conditions": 4,
        "n_undefined": 0,
        "folds_done": 1,
        "folds_total": 1,
        "no_signal": False,
        "shared_control": False,
        "direction": "max",
        "ceiling": None,
        "ceiling_noise_free": None,
        "control_mean_floor": 0.0,
        "train_mean_floor": None,
    }
    flat = {"value": None, "rank": None, "n_undefined": 4, "reason": "undefined in every condition"}
    frame = pd.DataFrame([{**row, "entry": "net"}, {**row, **flat, "entry": "flat"}])
    text = "\n".join(board_lines(frame, METRICS.get("delta.pearson_centered"), undefined))
    line = next(part for part in text.splitlines() if part.split()[2:3] == ["flat"] or " flat " in part)
    assert len(re.findall(r"(?<!\S)- \[\d+\]", line)) == 4
    # A dash alone, between spaces, would have no reason.
    assert not re.search(r"(?<!\S)-(?!\S)(?! \[\d)", text)
    numbers = {int(n) for n in re.findall(r"- \[(\d+)\]", text)}
    assert numbers == {int(n) for n in re.findall(r"^\[(\d+)\] \S", text, re.MULTILINE)}
