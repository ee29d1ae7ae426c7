"""The report of a run: one file that needs nothing but itself, shows names as they are, and says what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.reports.html import DASH, embedded_json
from perturbfm_core.reports.pages.run import Beside, run_report
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.run_record import RunRecord
from tests.support.factories import grid_rows, prediction_of, run_config, screen, split_one
from tests.support.pages import CONTEXTS, PERTS, QUOTED, SCRIPT, STATS, Page
from tests.support.report_case import report_case

# The only address of the page: that of the namespace of SVG, which is never asked.
NAMESPACE = "http://www.w3.org/2000/svg"
ALL = [*PERTS, CONTEXTS[0]]


def data_of(text: str) -> dict[str, Any]:
    """Return the data of a page."""
    (inner,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    found: dict[str, Any] = json.loads(inner)
    return found


def assert_self_contained(text: str) -> None:
    """Assert that a page fetches nothing, and runs nothing but its own scripts."""
    page = Page(text)
    assert not re.search(r"https?://", text.replace(NAMESPACE, ""))
    assert not {"link", "iframe", "object", "embed", "form", "base", "img"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on") or a[1] in ("src", "href", "action")]
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "default-src" in v]
    assert policy.startswith("default-src 'none'; img-src data:;")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    assert "unsafe" not in policy.split("script-src")[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert allowed == {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert len(re.findall("<script", text)) == len(scripts) + 1


@pytest.fixture(scope="module")
def ds() -> PerturbDataset:
    """Return a screen whose names would do harm unescaped."""
    names = [SCRIPT, "</script><b>", "a\u2028b", *(f"g{i}" for i in range(27))]
    return screen(grid_rows(PERTS, CONTEXTS, reps=2, controls=4), genes=names, name="screen")


@pytest.fixture(scope="module")
def split(ds: PerturbDataset) -> FrozenSplit:
    """Return a split that tests the context with tags in its name."""
    return split_one(ds, "context_ood", {"holdout": [CONTEXTS[0]]})


@pytest.fixture(scope="module")
def comparison(ds: PerturbDataset, split: FrozenSplit) -> Comparison:
    """Return the comparison of a random prediction."""
    truth = observed(ds, split)
    rng = np.random.default_rng(0)
    means = {k: t + rng.normal(size=30) for k, t in zip(truth.conditions.index, truth.observed, strict=True)}
    return compare(ds, split, prediction_of(ds, split, means))


def record_of(**update: Any) -> RunRecord:
    """Return the record of a run with everything that its report shows."""
    config = {
        **run_config("additive"),
        "params": {"penalty": 0.1},
        "code": {"trained_model": "c0de" * 16},
        "environment": {
            "perturbfm": "0.1.0",
            "git_commit": None,
            "threads": 2,
            "libraries": {"numpy": "2.0"},
        },
        "timings": {"fit_s": 1.25},
        "audit": [],
    }
    return RunRecord.model_validate({**config, **update})


def report_of(
    comparison: Comparison,
    split: FrozenSplit,
    /,
    *,
    stats: SplitStats | None = STATS,
    table: pd.DataFrame | None = None,
    beside: Beside | None = None,
    **update: Any,
) -> str:
    """Return the report of a comparison."""
    table = evaluate(comparison, ["delta", "uncertainty"]).table() if table is None else table
    beside = beside or Beside(gene_sets=())
    return run_report(record_of(**update), table, comparison, split.definition, stats, None, beside)


# ---- a single safe file -----------------------------------------------------------------------------------------


def test_a_report_needs_nothing_but_itself(comparison: Comparison, split: FrozenSplit) -> None:
    text = report_of(comparison, split)
    assert_self_contained(text)
    assert text == report_of(comparison, split)


def test_names_are_shown_and_not_interpreted(comparison: Comparison, split: FrozenSplit) -> None:
    text = report_of(comparison, split)
    page, data = Page(text), data_of(text)
    assert "b" not in page.tags
    assert [t for t in page.tags if t == "script"] == ["script"] * 4
    assert {r[0] for r in data["tables"]["perturbations"]["rows"]} == set(PERTS)
    assert {r[1] for r in data["tables"]["conditions"]["rows"]} == {CONTEXTS[0]}
    assert data["detail"]["genes"][:3] == [SCRIPT, "</script><b>", "a\u2028b"]
    shown = "".join(page.text)
    # The best and the worst of three conditions.
    assert sum(name in shown for name in PERTS) >= 2
    assert sorted(data["detail"]["titles"]) == sorted(PERTS)


@pytest.mark.parametrize("name", [SCRIPT, QUOTED, "a & b", "{{ 7 * 7 }}", "\u202eabc\u2029</style>", "=1+1"])
def test_text_from_a_run_is_escaped_in_its_report(
    comparison: Comparison, split: FrozenSplit, name: str
) -> None:
    audit = [{"name": name, "message": name, "severity": "warning", "count": 1, "examples": [name]}]
    definition = {"hash": name, "key": name, "kind": "combo_ood", "cv": None}
    text = report_of(
        comparison,
        split,
        beside=Beside(training={"inner": {"phase": name, name: name}}, gene_sets=()),
        entry=name,
        model=name,
        run_id=name,
        params={name: name},
        split=definition,
        audit=audit,
        dataset={"name": name, "content_sha256": name},
        data_hash=name,
        split_hash=name,
        code={name: name},
        plugins={name: name},
    )
    assert_self_contained(text)
    page = Page(text)
    assert page.tags.count("script") == 4
    shown = "".join(page.text)
    assert f"{name} on {name}" in shown
    assert f"Audit: {name}: {name}" in shown
    assert page.row("parameters")[1] == f"{name}={name}"
    assert page.row("model")[1] == f"{name} (baseline)"
    assert data_of(text)["ruler"][0]["label"] == name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_of_a_page_hold_no_nan(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        embedded_json({"x": value})
    assert embedded_json("</script>&\u2028") == '"\\u003c/script\\u003e\\u0026\\u2028"'


# ---- the first screen -------------------------------------------------------------------------------------------


def test_the_first_screen_has_headline_verdict_coverage_and_extremes(tmp_path: Path) -> None:
    case = report_case(12, 40, tmp_path, baselines=2)
    text = case.page()
    page, shown = Page(text), " ".join("".join(Page(text).text).split())
    mine = case.table[(case.table["metric"] == "pearson_centered") & (case.table["scope"] == "global")]
    value = mine["value"].iloc[0]
    assert f"{value:.3f}" in shown
    assert "Beats the train mean (0 in a metric that is centred on it) by" in shown
    assert "and beats baseline0 (the best of 2 other baselines here) by 0.020" in shown
    assert f"It reaches {100 * value / 0.91:.0f} % of the noise-free bound (0.910)." in shown
    assert "12 of 12 test conditions predicted" in shown
    ordered = case.table[(case.table["metric"] == "pearson_centered") & (case.table["scope"] == "condition")]
    worst = ordered.sort_values("value")["key"].iloc[0]
    picks = [v for _, n, v in page.attributes if n == "data-condition"]
    assert len(picks) == 10
    assert picks[5] == worst
    marks = {m["label"]: m for m in data_of(text)["ruler"]}
    assert list(marks) == ["network", "baseline0", "train mean", "control", "half of the cells", "noise-free"]
    assert marks["train mean"]["value"] == 0
    assert (marks["network"]["low"], marks["network"]["kind"]) != (None, "entry")


def test_a_report_says_that_no_baseline_was_run(comparison: Comparison, split: FrozenSplit) -> None:
    text = "".join(Page(report_of(comparison, split)).text)
    assert "no other baseline with a value was run on this split" in text
    assert "There is no interval" in text


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        (
            {"missing_as_control": 2},
            ["1 of 3 test conditions predicted", "2 missing.", "a change of zero: 2 of 3"],
        ),
        ({"conditions_not_asked_for": 4}, ["4 further conditions were predicted"]),
        ({"unknown_conditions": 5}, ["5 conditions of the file are unknown"]),
    ],
)
def test_what_was_not_predicted_is_counted(
    comparison: Comparison, split: FrozenSplit, notes: dict[str, Any], words: list[str]
) -> None:
    text = " ".join("".join(Page(report_of(comparison, split, notes=notes)).text).split())
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"flags": {"no_signal": True, "shared_control": False}}, "no_signal: two halves"),
        ({"flags": {"no_signal": False, "shared_control": True}}, "shared_control: too few"),
        ({"alignment": "positional_unverified"}, "aligned by position, unverified"),
        ({"var_filled": True}, "came without variance"),
        ({"audit": [{"name": "odd", "message": "look"}]}, "Audit: odd: look"),
    ],
)
def test_warnings_about_a_run_are_flagged(
    comparison: Comparison, split: FrozenSplit, update: dict[str, Any], message: str
) -> None:
    flag = '<p class="flag">'
    assert flag not in report_of(comparison, split)
    text = report_of(comparison, split, **update)
    assert text.count(flag) == 1
    assert message in text.split(flag)[1].split("</p>")[0]


@pytest.mark.parametrize(
    ("of_run", "of_split", "silent"),
    [(True, False, False), (False, True, True), (True, None, True), (None, True, True)],
)
def test_signal_is_that_of_the_split_where_it_is_known(
    comparison: Comparison, split: FrozenSplit, of_run: bool | None, of_split: bool | None, silent: bool
) -> None:
    stats = STATS.model_copy(update={"no_signal": of_split})
    flags = {"no_signal": of_run, "shared_control": False}
    text = report_of(comparison, split, stats=stats, flags=flags)
    assert ("no_signal: two halves" in text) == ("The data show no signal here" in text) == silent


def test_the_number_of_conditions_of_the_headline_is_that_of_its_values(
    comparison: Comparison, split: FrozenSplit
) -> None:
    table = evaluate(comparison, ["delta"]).table()
    n = len(comparison)
    assert f"Mean over {n} test conditions." in report_of(comparison, split, table=table)
    first = (table["scope"] == "condition") & (table["key"] == str(comparison.conditions.index[0]))
    part = table.assign(status=table["status"].where(~first, "undefined"), value=table["value"].where(~first))
    text = report_of(comparison, split, table=part)
    assert f"Mean over the {n - 1} of {n} test conditions that have a value." in text


# ---- scores -----------------------------------------------------------------------------------------------------


def test_a_report_shows_values_ceilings_and_floors(comparison: Comparison, split: FrozenSplit) -> None:
    page = Page(report_of(comparison, split))
    scores = evaluate(comparison, ["delta"]).table()
    mean = scores[(scores["metric"] == "pearson") & (scores["scope"] == "global")]["value"].iloc[0]
    head = page.row("metric")
    shown = dict(zip(head, page.row("pearson"), strict=True))
    assert shown["value"] == f"{mean:.3f}"
    assert shown["better"] == "higher"
    assert (shown["ceiling (half)"], shown["noise-free"]) == ("0.812", "0.948")
    assert (shown["train mean"], shown["control"], shown["no effect"]) == ("0.250", DASH, "0.062")
    shown = dict(zip(head, page.row("rmse"), strict=True))
    assert (shown["better"], shown["ceiling (half)"], shown["noise-free"]) == ("lower", "0.375", DASH)
    assert page.row("coverage_0.9")[2] == "nominal"


def test_a_report_shows_every_grouping(comparison: Comparison, split: FrozenSplit) -> None:
    strata = {"seen": {str(comparison.conditions.index[0]): "2"}}
    table = evaluate(comparison, ["delta", "uncertainty"], strata=strata).table()
    text = report_of(comparison, split, table=table)
    tables = data_of(text)["tables"]
    wanted = dict(table.loc[table["metric"] == "pearson_centered", ["key", "value"]].to_numpy())
    for name in ("perturbations", "contexts", "strata"):
        assert tables[name]["columns"][1]["name"] == "pearson_centered"
        for key, value, *_ in tables[name]["rows"]:
            assert value == float(f"{wanted[key]:.4g}")
    assert [r[0] for r in tables["strata"]["rows"]] == ["seen=2"]
    assert Page(text).row("train") == ["train", "3", "6"]


@pytest.mark.parametrize(
    "stats", [None, STATS.model_copy(update={"ceiling": {"reason": "no cells"}, "floor": None})]
)
def test_a_report_without_ceilings_says_so(
    comparison: Comparison, split: FrozenSplit, stats: SplitStats | None
) -> None:
    text = report_of(comparison, split, stats=stats)
    assert_self_contained(text)
    assert ("No ceiling: no cells." if stats else "No ceiling is known for this metric.") in text
    assert page_row(text, "pearson")[0] == "pearson"


def page_row(text: str, first: str) -> list[str]:
    """Return a row of a static table."""
    return Page(text).row(first)


# ---- undefined --------------------------------------------------------------------------------------------------


def test_an_undefined_headline_gives_way_to_the_next_metric(ds: PerturbDataset, split: FrozenSplit) -> None:
    truth = observed(ds, split)
    mean = dict.fromkeys(truth.conditions.index, truth.train_mean)
    text = report_of(compare(ds, split, prediction_of(ds, split, mean)), split)
    assert_self_contained(text)
    row = Page(text).row("pearson_centered")
    assert row[1] == DASH
    assert row[-1].startswith("3 of 3 conditions undefined: prediction equals the train mean")
    assert data_of(text)["headline"] == "delta.pearson"
    assert "equals the train mean" in text.lower()


def test_a_report_of_nothing_but_undefined_values_says_so(comparison: Comparison, split: FrozenSplit) -> None:
    table = evaluate(comparison, ["delta", "uncertainty"]).table()
    table = table.assign(value=np.nan, status="undefined", reason="for no reason")
    text = report_of(comparison, split, table=table)
    assert_self_contained(text)
    page = Page(text)
    assert "is undefined in every condition, so there is no order to show." in "".join(page.text)
    assert "is not compared with anything" in text
    assert page.row("rmse")[1] == DASH
    assert {v for r in data_of(text)["tables"]["perturbations"]["rows"] for v in r[1:]} == {None}
    visible = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", visible, re.IGNORECASE)


def test_one_condition_has_no_best_and_worst(ds: PerturbDataset) -> None:
    split = split_one(ds, "explicit", {"folds": {"test": [f"y|{SCRIPT}|||"]}})
    truth = observed(ds, split)
    given = prediction_of(ds, split, dict(zip(truth.conditions.index, truth.observed, strict=True)))
    text = report_of(compare(ds, split, given), split)
    assert_self_contained(text)
    assert "Only condition" in text
    assert data_of(text)["components"] is None


# ---- further panels ---------------------------------------------------------------------------------------------


def test_training_scale_and_gene_sets_have_their_panels(
    comparison: Comparison, split: FrozenSplit, tmp_path: Path
) -> None:
    sets = tmp_path / "sets.gmt"
    sets.write_text("mine\tx\t" + "\t".join(f"g{i}" for i in range(8)) + "\n")
    scale = {"A": {"mae": {"baseline": 0.5, "anchor": 0.25}}, "B": {"reason": "no counts"}}
    beside = Beside(
        training=report_case(4, 10, tmp_path).beside.training,
        metrics={"vcc2026": {"scale": scale}},
        gene_sets=[sets],
    )
    text = report_of(comparison, split, beside=beside)
    page, shown = Page(text), "".join(Page(text).text)
    assert page.row("A") == ["A", "mae", "0.500", "0.250"]
    assert "B: no counts." in shown
    assert page.row("channels")[1:] == ["0.001", "0.004", "kept closed: missed by 0.003"]
    assert page.row("inner fold 1")[1].startswith("stopped early after 300 of 400 epochs; kept epoch 217")
    assert [r[0] for r in data_of(text)["sets"]] == ["mine"]
    bare = report_of(comparison, split)
    assert "vcc2026" not in bare
    assert "put a GMT file into" in bare
    assert "No training is recorded" in bare
