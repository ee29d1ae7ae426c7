"""Reports that need nothing but themselves and show names as they are."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.leaderboard import database
from perturbfm_core.reports.html import DASH, interval, number, render
from perturbfm_core.reports.pages.leaderboard import leaderboard_page
from perturbfm_core.reports.pages.run import run_report
from perturbfm_core.reports.plots import condition as plots
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord
from tests.support.factories import (
    grid_rows,
    prediction_of,
    run_config,
    score_rows,
    screen,
    split_one,
    split_table,
    write_run,
)

SCRIPT = "<script>alert(1)</script>"
DOLLAR = "$E=mc^2$ & $\\frac{"
QUOTED = '"onmouseover="alert(1)\' http'
PERTS = [SCRIPT, DOLLAR, "A"]
CONTEXTS = ["<b>x</b>", "y"]


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[list[str]] = []
        self.text: list[str] = []
        self._in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect tags and attributes, and begin rows and cells."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.cells.append([])
        self._in_cell = tag in ("td", "th")
        if self._in_cell:
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text.append(data)
        if self._in_cell:
            self.cells[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """Return the first row that begins with a cell."""
        return next(r for r in self.cells if r and r[0] == first)


def assert_self_contained(text: str) -> None:
    """Assert that a page fetches, runs and links nothing."""
    page = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    assert not {"script", "link", "iframe", "object", "embed", "a", "form", "base"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "default-src" in v]
    assert policy.startswith("default-src 'none'; img-src data:;")


@pytest.fixture(scope="module")
def ds() -> PerturbDataset:
    """Return a screen whose names would do harm unescaped."""
    return screen(grid_rows(PERTS, CONTEXTS, reps=2, controls=4), genes=30, name="screen")


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


STATS = SplitStats(
    counts={"train": {"conditions": 3, "rows": 6}, "test": {"conditions": 3, "rows": 6}},
    row_digests={},
    ceiling={"pearson": {"half": 0.8125, "noise_free": 0.9475}, "rmse": {"half": 0.375}},
    floor={
        "train_mean": {"pearson": 0.25, "pearson_centered": None},
        "control_mean": {"pearson": None},
        "null": {"pearson": 0.0625},
    },
)


def report_of(
    comparison: Comparison,
    split: FrozenSplit,
    /,
    *,
    stats: SplitStats | None = STATS,
    table: pd.DataFrame | None = None,
    **update: Any,
) -> str:
    """Return the report of a comparison."""
    table = evaluate(comparison, ["delta", "uncertainty"]).table() if table is None else table
    return run_report(record_of(**update), table, comparison, split.definition, stats)


# ---- the report of a run ----------------------------------------------------------------------------------


def test_a_report_needs_nothing_but_itself(comparison: Comparison, split: FrozenSplit) -> None:
    text = report_of(comparison, split)
    assert_self_contained(text)
    images = [v for t, n, v in Page(text).attributes if (t, n) == ("img", "src")]
    assert len(images) == 2
    for image in images:
        assert base64.b64decode(image.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


def test_names_are_shown_and_not_interpreted(comparison: Comparison, split: FrozenSplit) -> None:
    text = report_of(comparison, split)
    page = Page(text)
    assert SCRIPT not in text
    assert CONTEXTS[0] not in text
    for name in [*PERTS, CONTEXTS[0]]:
        assert len(page.row(name)) > 1


@pytest.mark.parametrize("name", [SCRIPT, QUOTED, "a & b", "{{ 7 * 7 }}"])
def test_text_from_a_run_is_escaped_in_its_report(
    comparison: Comparison, split: FrozenSplit, name: str
) -> None:
    audit = [{"name": name, "message": name, "severity": "warning", "count": 1, "examples": []}]
    definition = {"hash": name, "key": name, "kind": "combo_ood", "cv": None}
    text = report_of(
        comparison,
        split,
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
    assert_self_contained(text.replace("http", ""))
    page = Page(text)
    assert "script" not in page.tags
    shown = "".join(page.text)
    assert f"{name} on {name}" in shown
    assert f"Audit: {name}: {name}" in shown
    assert page.row("parameters")[1] == f"{name}={name}"
    assert page.row("model")[1] == f"{name} (baseline)"


def test_a_report_shows_values_ceilings_and_floors(comparison: Comparison, split: FrozenSplit) -> None:
    page = Page(report_of(comparison, split))
    scores = evaluate(comparison, ["delta"]).table()
    mean = scores[(scores["metric"] == "pearson") & (scores["scope"] == "global")]["value"].iloc[0]
    head = page.row("metric")
    shown = dict(zip(head, page.row("pearson"), strict=True))
    assert shown["value"] == f"{mean:.3f}"
    assert shown["better"] == "higher"
    assert shown["ceiling (half)"] == "0.812"
    assert shown["noise-free"] == "0.948"
    assert (shown["train mean"], shown["no change"], shown["null"]) == ("0.250", DASH, "0.062")
    shown = dict(zip(head, page.row("rmse"), strict=True))
    assert (shown["better"], shown["ceiling (half)"], shown["noise-free"], shown["null"]) == (
        "lower",
        "0.375",
        DASH,
        DASH,
    )
    shown = dict(zip(head, page.row("coverage_0.9"), strict=True))
    assert (shown["better"], shown["ceiling (half)"]) == ("nominal", DASH)


def test_a_report_shows_every_condition_grouping(comparison: Comparison, split: FrozenSplit) -> None:
    strata = {"seen": {str(comparison.conditions.index[0]): "2"}}
    table = evaluate(comparison, ["delta", "uncertainty"], strata=strata).table()
    page = Page(report_of(comparison, split, table=table))
    pearson = dict(table.loc[table["metric"] == "pearson", ["key", "value"]].to_numpy())
    for key in (*PERTS, CONTEXTS[0], "seen=2"):
        assert page.row(key)[1] == f"{pearson[key]:.3f}"
    assert page.row("train") == ["train", "3", "6"]


def test_a_report_without_statistics_of_its_split_is_shown(
    comparison: Comparison, split: FrozenSplit
) -> None:
    text = report_of(comparison, split, stats=None)
    page = Page(text)
    assert_self_contained(text)
    assert dict(zip(page.row("metric"), page.row("pearson"), strict=True))["ceiling (half)"] == DASH
    assert [t for t in page.tags if t == "img"] == ["img"]


def test_a_ceiling_that_is_only_a_reason_is_a_dash(comparison: Comparison, split: FrozenSplit) -> None:
    reason = {"reason": "the data set has no single cells with controls"}
    stats = STATS.model_copy(update={"ceiling": reason, "floor": {"null": reason}})
    page = Page(report_of(comparison, split, stats=stats))
    shown = dict(zip(page.row("metric"), page.row("pearson"), strict=True))
    assert {shown[k] for k in ("ceiling (half)", "train mean", "no change", "null")} == {DASH}


def test_the_same_run_gives_the_same_report(comparison: Comparison, split: FrozenSplit) -> None:
    assert report_of(comparison, split) == report_of(comparison, split)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        pytest.param(
            {"flags": {"no_signal": True, "shared_control": False}}, "no_signal: two halves", id="no signal"
        ),
        pytest.param(
            {"flags": {"no_signal": False, "shared_control": True}}, "shared_control: too few", id="shared"
        ),
        pytest.param(
            {"alignment": "positional_unverified"}, "aligned by position, unverified", id="alignment"
        ),
        pytest.param({"var_filled": True}, "came without variance", id="variance"),
        pytest.param({"audit": [{"name": "odd", "message": "look"}]}, "Audit: odd: look", id="audit"),
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


# ---- undefined --------------------------------------------------------------------------------------------


def test_an_undefined_headline_gives_way_to_the_next_metric(ds: PerturbDataset, split: FrozenSplit) -> None:
    zero = dict.fromkeys(observed(ds, split).conditions.index, np.zeros(30))
    text = report_of(compare(ds, split, prediction_of(ds, split, zero)), split)
    page = Page(text)
    shown = dict(zip(page.row("metric"), page.row("pearson"), strict=True))
    assert shown["value"] == DASH
    assert shown["note"] == "3 of 3 conditions undefined: predicted or observed delta is constant over genes"
    assert "By delta.pearson_centered; every point is a gene." in text
    assert_self_contained(text)


def test_a_report_of_nothing_but_undefined_values_says_so(comparison: Comparison, split: FrozenSplit) -> None:
    table = evaluate(comparison, ["delta", "uncertainty"]).table()
    table = table.assign(value=np.nan, status="undefined", reason="for no reason")
    text = report_of(comparison, split, table=table)
    assert "delta.pearson is undefined in every condition, so there is no order to show." in text
    page = Page(text)
    assert dict(zip(page.row("metric"), page.row("rmse"), strict=True))["value"] == DASH
    assert set(page.row("A")[1:]) == {DASH}
    assert not re.search(r"\bnan\b", "".join(page.text), re.IGNORECASE)
    assert_self_contained(text)


def test_one_condition_is_worst_median_and_best(ds: PerturbDataset) -> None:
    split = split_one(ds, "explicit", {"folds": {"test": [f"y|{SCRIPT}|||"]}})
    truth = observed(ds, split)
    given = prediction_of(ds, split, dict(zip(truth.conditions.index, truth.observed, strict=True)))
    text = report_of(compare(ds, split, given), split)
    assert_self_contained(text)
    assert Page(text).row("retrieval_rank")[-1].startswith("1 of 1 conditions undefined: only one condition")


# ---- plots ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", [DOLLAR, "$", "$$", "\\$x$", SCRIPT, "a_b^c{", ""])
def test_titles_are_text_and_never_mathematics(title: str) -> None:
    x = np.linspace(-1, 1, 5)
    assert plots.scatter_panels([(title, x, x)]).startswith("data:image/png;base64,")
    assert plots.bars([title, "other"], [1.0, 2.0], "rows").startswith("data:image/png;base64,")


def test_a_dollar_is_drawn_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def keep(figure: Any) -> str:
        texts = [figure.axes[0].title, *figure.axes[0].get_yticklabels()]
        drawn.extend(t.get_text().replace(r"\$", "$") for t in texts)
        assert not any(t._preprocess_math(t.get_text())[1] for t in texts)
        return ""

    monkeypatch.setattr(plots, "image", keep)
    plots.scatter_panels([(DOLLAR, np.zeros(2), np.zeros(2))])
    plots.bars([DOLLAR], [1.0], "rows")
    assert drawn.count(DOLLAR) == 2


# ---- the leaderboard page ---------------------------------------------------------------------------------

HASH = "a" * 64


def board_of(tmp_path: Path, *runs: tuple[str, list[float], dict[str, Any]], **splits: Any) -> pd.DataFrame:
    """Return the view of a leaderboard with the runs (entry, values, configuration)."""
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for entry, values, update in runs:
        config = run_config("e" + str(len(entry)), **update) | {"entry": entry}
        scores = [
            score_rows(
                config, {f"x|G{i}|||": v for i, v in enumerate(values)}, metric=metric, direction=direction
            )
            for metric, direction in (("pearson", "max"), ("rmse", "min"))
        ]
        write_run(store, config, pd.concat(scores))
    table = split_table(HASH, **splits)
    database.rebuild(store, lambda: table, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    return database.query(store, "SELECT * FROM leaderboard")


def test_the_page_needs_nothing_but_itself_and_ranks_entries(tmp_path: Path) -> None:
    board = board_of(
        tmp_path, ("ridge", [0.2] * 5, {}), ("network", [0.1, 0.3, 0.5, 0.7, 0.9], {"family": "learned"})
    )
    text = leaderboard_page(board, n_runs=2)
    assert_self_contained(text)
    page = Page(text)
    head = page.row("rank")
    assert head[:4] == ["rank", "entry", "family", "delta.pearson"]
    assert page.row("1")[:4] == ["1", "network", "learned", "0.500"]
    ridge = ["2", "ridge", "baseline", "0.200", "0.200 to 0.200", "0.000", "0.000 to 0.000", "0.200"]
    assert page.row("2") == ridge
    assert page.row("1")[5] == "0.300"
    assert " to " in page.row("1")[4]
    assert "from 2 runs" in text
    assert "5 conditions, 5 units" in text


def test_names_on_the_page_are_shown_and_not_interpreted(tmp_path: Path) -> None:
    board = board_of(tmp_path, (SCRIPT, [0.2] * 5, {}), board="<i>board</i> & more")
    text = leaderboard_page(board, n_runs=1)
    assert_self_contained(text)
    page = Page(text)
    assert page.row("1")[1] == SCRIPT
    assert "<i>board</i> & more" in page.text
    assert "i" not in page.tags


def test_undefined_conditions_are_starred(tmp_path: Path) -> None:
    runs = [("whole", [0.2] * 5, {}), ("partly", [0.9] * 4 + [np.nan], {}), ("nothing", [np.nan] * 5, {})]
    text = leaderboard_page(board_of(tmp_path, *runs), n_runs=3)
    page = Page(text)
    assert page.row("1")[1:4] == ["whole", "baseline", "0.200"]
    assert page.row("2")[1:4] == ["partly", "baseline", "0.900*"]
    assert page.row(DASH)[1:5] == ["nothing", "baseline", f"{DASH}*", DASH]
    assert "* undefined in some conditions" in text


def test_without_signal_nothing_is_ranked_on_the_page(tmp_path: Path) -> None:
    text = leaderboard_page(
        board_of(tmp_path, ("ridge", [0.2] * 5, {"no_signal": True, "shared_control": True})), n_runs=1
    )
    assert Page(text).row(DASH)[1:4] == ["ridge", "baseline", "0.200"]
    assert "no_signal: two halves" in text
    assert "shared_control: truth and models" in text


def test_the_page_shows_ceilings_and_floors(tmp_path: Path) -> None:
    bounds = {"ceiling": STATS.ceiling, "floor": STATS.floor}
    text = leaderboard_page(board_of(tmp_path, ("ridge", [0.2] * 5, {}), **bounds), n_runs=1)
    shown = "ceiling 0.812 (noise-free predictor 0.948), train mean 0.250, control mean"
    assert shown in text
    assert ", null floor 0.062" in text.split(shown)[1].splitlines()[0]
    assert "no_signal" not in text


def test_a_page_without_runs_says_so(tmp_path: Path) -> None:
    text = leaderboard_page(board_of(tmp_path), n_runs=0)
    assert_self_contained(text)
    assert "No runs yet." in text


# ---- numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-1, "-1.000"),
        (None, DASH),
        (float("nan"), DASH),
        (123456.0, "1.23e+05"),
        (0, "0.000"),
    ],
)
def test_numbers_are_short_and_undefined_ones_a_dash(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.1, 0.2, "0.100 to 0.200"), (None, 0.2, DASH), (0.1, float("nan"), DASH), (None, None, DASH)],
)
def test_an_interval_needs_both_ends(low: float | None, high: float | None, text: str) -> None:
    assert interval(low, high) == text


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="n_runs"):
        render("leaderboard.html", boards=[], made="now")
