"""Plots of ``calibration.json`` in the report of a run."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perturbfm_core.evaluation.panels.uncertainty.report import calibration_report
from perturbfm_core.reports.pages.run import _calibration
from perturbfm_core.reports.plots import calibration as calibration_plots
from tests.evaluation.panels.uncertainty.test_calibration_report import calibrated, train_of

PICKS = [("worst: P$0$ in c", 0), ("best: P1 in c", 1)]


def is_png(uri: str | None) -> bool:
    return uri is not None and base64.b64decode(uri.removeprefix("data:image/png;base64,")).startswith(
        b"\x89PNG"
    )


@pytest.fixture(scope="module")
def comparison() -> Any:
    return calibrated(G=60, train=train_of(["A", "B"], np.ones((2, 60))))


def drawn(comparison: Any, **strata: Any) -> Any:
    return calibration_report(comparison, strata)


def test_curves_and_groups_and_fans_are_drawn(comparison: Any) -> None:
    report = drawn(comparison)
    assert is_png(calibration_plots.curves(report))
    assert is_png(calibration_plots.coverage_by_group(report))
    assert is_png(calibration_plots.fans(comparison, PICKS))


def test_every_group_and_bin_of_genes_has_its_row(comparison: Any) -> None:
    seen = {str(k): "2" if i < 10 else "0" for i, k in enumerate(comparison.conditions.index)}
    labels = [name for name, _ in calibration_plots._group_rows(drawn(comparison, seen=seen))]
    assert labels[0] == "all"
    for label in ("predicted_effect low (n = 10)", "seen 2 (n = 10)", "gene scale 1 of 1 (n = 60)"):
        assert label in labels


def test_without_intervals_only_the_fans_are_missing(comparison: Any) -> None:
    bare = replace(comparison, intervals=None)
    report = drawn(bare)
    assert calibration_plots.fans(bare, PICKS) is None
    assert is_png(calibration_plots.curves(report))
    assert is_png(calibration_plots.coverage_by_group(report))


def test_levels_without_an_interval_are_left_out_of_a_fan(comparison: Any) -> None:
    factor = comparison.intervals.factor.copy()
    factor[3] = np.nan
    assert is_png(
        calibration_plots.fans(
            replace(comparison, intervals=replace(comparison.intervals, factor=factor)), PICKS
        )
    )


def test_a_point_prediction_has_no_plots(comparison: Any) -> None:
    report = drawn(replace(comparison, var_filled=True))
    assert calibration_plots.curves(report) is None
    assert calibration_plots.coverage_by_group(report) is None


def test_the_report_says_how_intervals_were_made() -> None:
    rows = dict(
        _calibration(
            {
                "method": "mondrian",
                "variance": "out_of_fold residuals",
                "n_units": 30,
                "unit": "perturbation",
                "residuals": "out_of_fold",
                "guarantee": {"0.5": "at least 0.5", "0.9": "none: too few"},
                "groups": [
                    {"group": "a", "n_units": 25, "own_quantiles": True},
                    {"group": "b", "n_units": 5, "own_quantiles": False},
                ],
                "effective_units": {"min": 25.0, "median": 25.0, "n_widened": 2},
                "worst_group": {"axis": "context", "group": "x", "value": 0.8, "level": 0.9},
            }
        )
    )
    assert rows["calibrated on"] == "30 units (perturbation), out_of_fold"
    assert rows["guarantee"] == "at least 0.5; none: too few"
    assert rows["groups"] == "a: 25 units, b: 5 units, too few"
    assert rows["worst group"] == "context x: 0.800 at 0.9"
    assert dict(_calibration({"method": "none", "reason": "why"}))["not calibrated"] == "why"
    assert _calibration(None) == []
