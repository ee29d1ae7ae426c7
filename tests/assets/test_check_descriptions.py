"""What a failed check says of itself, beside its metadata."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.splits.audit.core import Finding
from perturbfm_core.splits.folder import SplitFolder
from tests.support.asset_runs import CONTEXT, alone


def test_a_check_without_problems_says_nothing(here):
    verdict = here.module("show").verdict
    assert (verdict("x", [], {}).passed, verdict("x", [], {}).description) == (True, None)
    found = verdict("x", ["one", "two"], {"n": 2})
    assert (found.passed, found.description, found.metadata["n"].value) == (False, "one; two", 2)


def test_a_split_says_which_leak_it_has_and_what_changed(here, monkeypatch):
    module = here.module("assets.split")
    leaks = [
        Finding("shared_rows", "blocking", 3, ("a",), "3 rows are in two folds"),
        Finding("few_cells", "warning", 1, (), "few cells"),
    ]
    monkeypatch.setattr(module, "audit", lambda *_: leaks)
    monkeypatch.setattr(
        SplitFolder, "verify", lambda *_: SimpleNamespace(ok=False, problems=("the file was edited",))
    )
    said = {
        e.check_name: e.description
        for e in alone(here, "split", CONTEXT["key"]).get_asset_check_evaluations()
    }
    assert said == {"hash_lock": "the file was edited", "leakage": "shared_rows: 3 rows are in two folds"}


def test_scores_say_what_is_missing(here):
    rows = [(name, m.name) for name, panel in PANELS.items() for m in panel.metrics]
    frame = pd.DataFrame(rows[1:], columns=["panel", "metric"]).assign(status="ok", value=1.0, reason=None)
    frame.loc[0, "value"] = np.nan
    (found,) = here.module("assets.metric_panel")._check([], [SimpleNamespace(table=frame)])
    assert found.description == f"missing: {'.'.join(rows[0])}; 1 values are undefined and give no reason"


def test_a_prediction_says_what_is_not_covered(here, monkeypatch, tmp_path):
    module = here.module("assets.prediction")
    found = SimpleNamespace(idx=np.array([1]), mean=np.array([[np.inf]]), var=np.ones((1, 1)))
    monkeypatch.setattr(module, "read_prediction", lambda _: found)
    experiment = SimpleNamespace(split=SimpleNamespace(rows=lambda *_: np.array([1, 2, 3])), dataset=None)
    (result,) = module._check([experiment], [SimpleNamespace(path=tmp_path)])
    assert result.description == "2 test rows are not predicted; some values are not finite"
