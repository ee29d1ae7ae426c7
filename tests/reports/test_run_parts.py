"""The parts of a run's report, each against values that are known otherwise."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from perturbfm_core.reports.plots.condition import bars, headline_plot
from perturbfm_core.reports.run import uncertainty
from perturbfm_core.reports.run.scale import scale_rows
from perturbfm_core.reports.run.training import gate_of, training_data
from tests.support.calibrated_predictions import calibrated, train_of

# ---- training ---------------------------------------------------------------------------------------------------


def record(n: int, best: int, **more: Any) -> dict[str, Any]:
    return {
        "best_epoch": best, "best_score": None, "epochs": n, "epochs_planned": n, "stopped_early": False,
        "curves": {"loss": [1.0 / (i + 1) for i in range(n)], "validation": [None] * n}, **more,
    }  # fmt: skip


def test_learning_curves_keep_the_epoch_that_was_kept() -> None:
    training = {
        "networks": [record(1000, 333, phase="member 1"), record(3, 3)],
        "members": [{"inner": [record(0, 0)]}],
        "scale": 0.51234,
        "names": ["a", "b"],
        "deep": {"x": {"y": 1}},
    }
    found = training_data(training)
    first, second = found["curves"]
    assert (first["name"], second["name"]) == ("member 1", "networks 2")
    assert 333 in first["epochs"]
    assert (first["epochs"][0], first["epochs"][-1]) == (1, 1000)
    assert len(first["epochs"]) <= 260
    assert first["loss"][first["epochs"].index(333)] == float(f"{1 / 333:.4g}")
    assert first["validation"] is None
    assert second["ending"][1] == "ran 3 epochs, without validation"
    assert dict(found["settings"]) == {"scale": "0.5123", "names": "a, b", "deep, x: y": "1"}
    assert training_data(None) == {"curves": [], "left_out": 0, "gates": [], "settings": []}


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"g": [0.0, 0.5], "gain": 0.02, "standard_error": 0.005, "groups": 40, "reason": "gain over one standard error"},
         "is open: gain over one standard error. Mean gain 0.02 in centred Pearson correlation over the core, out of fold, 0.015 more than the standard error of 0.005"),
        ({"g": [0.0, 0.0], "gain": 0.0, "standard_error": 0.0, "groups": 40, "reason": "no gain over one standard error"},
         "is closed: no gain over one standard error. By how much it missed was not recorded."),
        ({"g": [0.0, 0.0], "gain": None, "standard_error": None, "groups": 4, "reason": "4 groups are fewer than 10"},
         "is closed: 4 groups are fewer than 10."),
        ({"g": [1.0, 1.0], "gain": 0.1, "standard_error": 0.2, "groups": 40, "reason": "switched on"}, "is open: switched on."),
    ],
)  # fmt: skip
def test_a_gate_says_what_it_decided(gate: dict[str, Any], words: str) -> None:
    assert words in gate_of("", gate)["text"]


@pytest.mark.parametrize(
    ("gain", "fell", "words"),
    [
        (0.01, True, "opened with 0.007 to spare"),
        (0.001, True, "kept closed: missed by 0.002"),
        (0.01, False, "did not fall"),
    ],
)
def test_a_gate_says_by_how_much_it_missed(gain: float, fell: bool, words: str) -> None:
    tried = [{"part": "channels", "gain": gain, "standard_error": 0.003, "error_fell": fell}]
    found = gate_of("", {"g": [0, 0], "gain": 0.0, "standard_error": 0.0, "reason": "x", "tried": tried})
    assert words in found["tried"][0]["row"][3]
    assert "not recorded" not in found["text"]


# ---- uncertainty ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intervals() -> Any:
    return calibrated(G=60, train=train_of(["A", "B"], np.ones((2, 60))))


def test_every_group_and_bin_of_genes_has_its_row(intervals: Any) -> None:
    from perturbfm_core.evaluation.panels.uncertainty.report import calibration_report

    seen = {str(k): "2" if i < 10 else "0" for i, k in enumerate(intervals.conditions.index)}
    data = uncertainty.calibration_data(calibration_report(intervals, {"seen": seen}))
    assert data is not None
    json.dumps(data, allow_nan=False)
    labels = [row[0] for row in data["groups"]]
    assert labels[:2] == ["all", "all"]
    for label in ("predicted effect: low (n = 10)", "seen: 2 (n = 10)", "gene scale 1 of 1 (n = 60)"):
        assert label in labels
    assert sum(data["pit"]) == pytest.approx(1, abs=1e-2)
    assert uncertainty.calibration_data({"notes": {"all": "none"}}) is None


def test_fans_have_an_interval_per_level_that_is_known(intervals: Any) -> None:
    picks = [("worst: P0", 0), ("best: P1", 1)]
    fans = uncertainty.fans(intervals, picks)
    assert [f["title"] for f in fans] == ["worst: P0", "best: P1"]
    genes = [list(intervals.genes).index(g) for g in fans[1]["genes"]]
    np.testing.assert_allclose(fans[1]["predicted"], intervals.predicted[1, genes], rtol=1e-3)
    whole = intervals.intervals.half_width(0, intervals.predicted_var)[1, genes]
    np.testing.assert_allclose(
        fans[1]["bands"][-1]["high"], intervals.predicted[1, genes] + whole, rtol=1e-3, atol=1e-3
    )
    factor = intervals.intervals.factor.copy()
    factor[3] = np.nan
    fewer = uncertainty.fans(replace(intervals, intervals=replace(intervals.intervals, factor=factor)), picks)
    assert len(fewer[0]["bands"]) == len(fans[0]["bands"]) - 1
    assert uncertainty.fans(replace(intervals, intervals=None), picks) == []


def test_the_report_says_how_intervals_were_made() -> None:
    rows = dict(
        uncertainty.how_calibrated(
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
    assert dict(uncertainty.how_calibrated({"method": "none", "reason": "why"}))["not calibrated"] == "why"
    assert uncertainty.how_calibrated(None) == []


# ---- others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metrics", [None, {}, {"vcc2026": {}}, {"vcc2026": {"scale": None}}, {"vcc2026": {"scale": {"A": 1}}}]
)
def test_a_scale_that_is_not_there_has_no_rows(metrics: Any) -> None:
    assert scale_rows(metrics) == ([], [])


@pytest.mark.parametrize("label", ["<script>", "a & b", '"quoted"', "$x$", "\u03b2-actin", "", "x" * 90])
def test_bars_are_an_image_of_text_as_it_is(label: str) -> None:
    uri = bars([label, "other"], [-0.5, 1.0], "rows")
    tree = ElementTree.fromstring(base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")))
    texts = ["".join(t.itertext()) for t in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert label in texts or texts[1] == "x" * 35 + "\N{HORIZONTAL ELLIPSIS}"
    assert "-0.500" in texts


def test_the_plot_of_the_orchestrator_shows_the_lowest() -> None:
    values = {f"P{i}": i / 10 for i in range(5)} | {"none": float("nan")}
    uri = headline_plot(values, most=2)
    assert uri is not None
    text = base64.b64decode(uri.partition(",")[2]).decode()
    assert "P0" in text
    assert "P2" not in text
    assert headline_plot({"a": float("nan")}) is None
