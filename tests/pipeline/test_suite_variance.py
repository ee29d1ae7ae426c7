"""Where the variance of external models comes from, below the table of a suite."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.pipeline.suite_variance import variance_note
from perturbfm_core.store.artifacts import ArtifactStore

FIT = {"source": "calibration conditions", "conditions": 9}
CONSTANT = {"source": "a declared constant", "value": 0.05, "conditions": 0}
RUNS = [
    ("b1", "external-gears", FIT),
    ("b2", "external-gears", CONSTANT),
    ("b1", "external-scgen", FIT),
    ("b1", "ridge", {"source": "out_of_fold"}),
    ("b9", "external-cpa", FIT),
    ("b2", "external-state", None),
]
TITLES = {
    **{
        (board, entry): "demo, combo_ood" if board == "b1" else "demo, context_ood"
        for board, entry, _ in RUNS
    },
}


def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[tuple]) -> str:
    """Return the note on runs of a store."""
    store = ArtifactStore(tmp_path / "home")
    for i, (*_, variance) in enumerate(runs):
        store.run(f"r{i}").mkdir(parents=True)
        if variance is not None:
            (store.run(f"r{i}") / "training.json").write_text(json.dumps({"variance": variance}))
    table = pd.DataFrame(
        [(b, e, f"r{i}") for i, (b, e, _) in enumerate(runs)], columns=["board", "entry", "run_id"]
    )
    monkeypatch.setattr(database, "query", lambda *_: table)
    titles = {key: title for key, title in TITLES.items() if key[0] != "b9"}
    return variance_note(store, titles)


def test_each_origin_is_named_with_its_entries_and_boards(tmp_path, monkeypatch):
    assert note(tmp_path, monkeypatch, RUNS) == (
        "Variance of models that run in environments of their own: calibration conditions for `external-gears` (demo, "
        "combo_ood), `external-scgen`; a declared constant of 0.05 for `external-gears` (demo, context_ood); unknown for "
        "`external-state`."
    )


def test_boards_alone_are_named_where_their_models_have_the_same(tmp_path, monkeypatch):
    assert note(tmp_path, monkeypatch, [RUNS[0], RUNS[1], RUNS[2], ("b2", "external-scgen", CONSTANT)]) == (
        "Variance of models that run in environments of their own: calibration conditions on *demo, combo_ood*; "
        "a declared constant of 0.05 on *demo, context_ood*."
    )


def test_without_external_models_nothing_is_said(tmp_path, monkeypatch):
    assert note(tmp_path, monkeypatch, RUNS[3:5]) == ""
