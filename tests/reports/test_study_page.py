"""The page of a tuning study."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest

from perturbfm_core.reports.html import DASH
from perturbfm_core.reports.pages.study import StudyRecord, TrialRecord, study_page
from tests.support.pages import Page

OWN = TrialRecord(-1, "complete", 0.4, 0.2, {"alphas": [0.1, 1.0], "per": "data"}, 1.5)
TRIALS = (
    TrialRecord(0, "complete", 0.3, 0.25, {"alphas": [10.0], "per": "parts"}, 2.0),
    TrialRecord(1, "pruned", None, None, {"alphas": [99.0], "per": "data"}, 0.5),
    TrialRecord(2, "complete", 0.45, 0.19, {"alphas": [0.01234], "per": "data"}, 2.0),
    TrialRecord(3, "failed", None, None, {"alphas": [5.0], "per": "$x$"}, 0.1, reason="<b>not finite</b>"),
    TrialRecord(4, "complete", -0.1, 0.9, {"alphas": [77.0], "per": "parts"}, 2.0),
)
STUDY = StudyRecord(
    name="ridge.abc",
    entry="<ridge>",
    model="ridge",
    dataset="screen",
    split_key="screen.context_ood.abc",
    split_hash="a" * 64,
    seed=3,
    policy="inner_cv",
    unit="context",
    folds=4,
    conditions=20,
    units=5,
    own=OWN,
    trials=TRIALS,
    selected=TRIALS[2],
    gain=0.05,
    gain_se=0.01,
    importances={"alphas": 0.8, "per": 0.2},
    log=frozenset({"alphas"}),
)


def images(page: Page) -> list[str]:
    return [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]


def test_the_page_shows_what_was_selected_and_every_trial():
    page = Page(study_page(STUDY))
    assert page.row("alphas") == ["alphas", "0.1, 1", "0.01234"]
    assert page.row("mean centred Pearson") == ["mean centred Pearson", "0.4000", "0.4500"]
    assert page.row("mean squared error") == ["mean squared error", "0.2000", "0.1900"]
    # Best first; what has no value comes last.
    table = page.cells[-8:-2] if page.cells[-1][0] == "split" else []
    assert [row[0] for row in page.cells if row and row[0] in {"own", "2 (selected)", "0", "4", "1", "3"}] == [
        "2 (selected)", "own", "0", "4", "1", "3",
    ]  # fmt: skip
    assert table
    assert page.row("1") == ["1", "pruned", DASH, DASH, "99", "data", "0.5", ""]
    assert page.row("3") == ["3", "failed", DASH, DASH, "5", "$x$", "0.1", "<b>not finite</b>"]
    text = " ".join(" ".join(page.text).split())
    assert "3 trials complete, 1 pruned, 1 failed" in text
    assert "0.0500 \N{PLUS-MINUS SIGN} 0.0100 (standard error over 5 units, paired)" in text
    assert "inner_cv, 4 folds, 20 conditions" in text
    assert "flag" not in [value for _, name, value in page.attributes if name == "class"]


def test_the_page_needs_nothing_but_itself_and_is_the_same_each_time():
    text = study_page(STUDY)
    assert text == study_page(STUDY)
    page = Page(text)
    assert len(images(page)) == 3
    for source in images(page):
        kind, content = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert base64.b64decode(content).startswith(b"<?xml")
    assert "script" not in page.tags
    assert not re.search(r"https?://", text)
    assert "&lt;ridge&gt;" in text
    assert "<ridge>" not in text


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"selected": OWN, "gain": 0.0}, "its own parameters stay"),
        ({"gain_se": 0.03}, "less than two standard errors"),
        (
            {"own": replace(OWN, undefined=7)},
            "in 7 conditions for the entry itself and in 0 for the selected",
        ),
    ],
    ids=["own", "chance", "undefined"],
)
def test_warnings_about_a_study_are_flagged(change, flag):
    assert flag in " ".join(Page(study_page(replace(STUDY, **change))).text)


def test_a_study_without_trials_or_importances_has_a_page():
    study = replace(STUDY, trials=(), selected=OWN, gain=0.0, gain_se=None, importances={})
    page = Page(study_page(study))
    assert images(page) == []
    assert "No trial is complete." in page.text
    few = Page(study_page(replace(STUDY, importances={})))
    assert len(images(few)) == 2
