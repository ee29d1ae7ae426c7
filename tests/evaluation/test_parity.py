"""The parity harness: what is counted, what is not compared, and cases that cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.parity import Record, compared, known_form, number, run_case
from tests.support.paths import TESTS

CASES = {
    "scperturbench/synth_edge_40genes": "inputs.h5ad",
    "perturbench/synth_edge": "predictions_noisy.npz",
    "cell_eval/synth_a": "pred.npz",
    "calibrated/synth_a": "cells.h5ad",
    "cell_eval2/synth_edges": "pred_odd.h5ad",
}


@pytest.mark.parametrize(("case", "file"), CASES.items())
def test_a_truncated_file_gives_one_line(tmp_path: Path, case: str, file: str) -> None:
    folder = tmp_path / "case"
    shutil.copytree(TESTS / "parity" / case, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:2000])
    with pytest.raises(MetricError, match=r"cannot be read \(") as caught:
        run_case(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["real.h5ad", "de_real_odd.parquet", "de_pred_odd.parquet"])
def test_every_truncated_file_of_cell_eval2_gives_one_line(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "case"
    shutil.copytree(TESTS / "parity" / "cell_eval2" / "synth_edges", folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:2000])
    with pytest.raises(MetricError, match=r"cannot be read \(") as caught:
        run_case(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[1, 2", "[]", "{}", "null", '"text"'])
@pytest.mark.parametrize("case", CASES)
def test_expected_values_of_another_form_give_no_traceback(tmp_path: Path, case: str, content: str) -> None:
    folder = tmp_path / "case"
    shutil.copytree(TESTS / "parity" / case, folder)
    (folder / "expected.json").write_text(content)
    with pytest.raises(MetricError, match="no parity case this program knows"):
        run_case(folder)


def test_records_before_one_of_an_unknown_form_are_kept() -> None:
    def made() -> Any:
        yield Record("m", "a", 1.0, 1.0)
        yield Record("m", "b", {"x": 1}["y"], 1.0)  # type: ignore[arg-type]

    first, second = known_form("m", "rest", made())
    assert (first.key, first.skipped) == ("a", None)
    assert (second.key, second.skipped) == ("rest", "unknown form of record (KeyError: 'y')")


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), ZeroDivisionError("x"), RuntimeError("x")])
def test_a_fault_of_a_computation_is_a_failed_record(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def faulty(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(rowwise, "pearson", faulty)
    result = run_case(TESTS / "parity" / "cell_eval" / "synth_half")
    # The values and the ceiling, of which nothing else is compared; the tables are.
    assert [failure["error"] for failure in result["failures"]] == [f"{type(error).__name__}: {error}"] * 2
    assert result["failed"] == 2
    assert result["metrics"]["de.fdr"]["failed"] == 0
    assert not any("unknown form" in reason for reason in result["reasons"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (0.5, 0.5), (None, np.nan), ("inf", np.inf), ("-inf", -np.inf), ("NaN", np.nan)],
)
def test_numbers_of_json(value: object, expected: float) -> None:
    assert number(value) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("value", ["1.0", "", True, [1.0], {"x": 1.0}])
def test_what_is_no_number_is_not_compared(value: object) -> None:
    record = compared("m", "k", value, lambda expected: Record("m", "k", expected, 1.0))
    assert record.skipped == f"unknown form of record ({type(value).__name__} where a number is expected)"


@pytest.mark.parametrize(
    ("case", "absent", "compared"),
    [
        ("cell_eval2/synth_edges", "agg_results", "rows"),
        ("cell_eval2/synth_edges", "results", "agg.mean"),
        ("scperturbench/synth_edge_40genes", "records", "DEG scores"),
        ("scperturbench/synth_edge_40genes", "published_style_scores", "edistance"),
    ],
)
def test_a_part_that_the_case_does_not_have_is_named(
    tmp_path: Path, case: str, absent: str, compared: str
) -> None:
    folder = tmp_path / "case"
    shutil.copytree(TESTS / "parity" / case, folder)
    expected = json.loads((folder / "expected.json").read_text())
    for part in (expected, *expected.get("runs", {}).values()):
        part.pop(absent, None)
    (folder / "expected.json").write_text(json.dumps(expected))
    result = run_case(folder)
    assert result["failed"] == 0
    assert any(reason.startswith(f"the case has no {absent}") for reason in result["reasons"])
    assert not any("unknown form" in reason for reason in result["reasons"])
    assert result["metrics"][compared]["compared"]
