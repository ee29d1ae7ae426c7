"""The scale of a panel is computed once for a split, by whoever comes first, and again for other code."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panels.cell_eval2 import scale as scale_module
from perturbfm_core.leaderboard.headline import marks_of
from perturbfm_core.pipeline import metric_panel, panel_scale
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.split import freeze_split, stats_with_bounds
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.code import Code
from tests.support.counts_screen import GENES, counts_dataset, counts_screen

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bounds_computed")]
HELD = list(GENES[12:16])


@pytest.fixture
def made(tmp_path):
    store = ArtifactStore(tmp_path, tmp_path / "splits")
    import_dataset(store, counts_dataset(counts_screen()), storage="npz")
    ds = open_dataset(store.dataset("counts-screen"))
    spec = SplitSpec(kind="perturbation_ood", params={"holdout": HELD})
    ((split, _, _),) = freeze_split(store, ds, spec)
    metric_panel._OBSERVED.clear()
    return store, ds, split


@pytest.fixture
def computed(monkeypatch):
    """Return a list that grows with every computed replicate anchor."""
    calls = []
    real = scale_module.anchor_splits

    def counted(*args, **options):
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(scale_module, "anchor_splits", counted)
    return calls


def run(made, entry):
    store, ds, split = made
    (path,) = run_entry(store, split, ModelEntry(name=entry, description=entry, model=entry), data=ds)
    return path, json.loads((path / schema.METRICS_FILE).read_text())["vcc2026"]


def new_process():
    """Forget what a process keeps of a split."""
    metric_panel._OBSERVED.clear()


def objects(store):
    return sorted(p.parent.name for p in store.objects.glob(f"*/*/{panel_scale.SCALE_FILE}"))


def test_entries_and_processes_share_one_scale(made, computed):
    store, ds, split = made
    _, first = run(made, "global_mean")
    assert len(computed) == 1
    kept = objects(store)
    assert len(kept) == 1
    # The bounds beside the split have read the same.
    assert [p.parent.name for p in store.objects.glob("*/*/bounds.json")]
    _, second = run(made, "control_only")
    new_process()
    path, third = run(made, "ridge")
    assert len(computed) == 1
    assert objects(store) == kept
    assert first["scale"] == second["scale"] == third["scale"]
    ends = third["scale"]["A549"]["pds_cosine"]
    assert set(ends) == {"baseline", "anchor"}
    scores = [m["global"]["vcc2026_score"] for m in (first, second, third)]
    assert scores[0] != scores[1]
    assert np.isfinite(scores).all()
    # Both ends stand beside the split, where boards find them.
    stats = stats_with_bounds(store, ds, split)
    for metric, expected in (("pds_cosine", tuple(ends.values())), ("vcc2026_score", (0.0, 1.0))):
        marks = marks_of(stats.ceiling, stats.floor, METRICS.get(f"vcc2026.{metric}"))
        assert (marks.baseline, marks.anchor) == expected
    # Predictions made elsewhere are scored on it as well.
    new_process()
    prediction = read_prediction(path / schema.PREDICTIONS_FILE)
    stats = stats_with_bounds(store, ds, split)
    again = metric_panel.score_prediction(ds, split, prediction, stats, store=store)
    # A run's file leaves out what scores.parquet has.
    found = {k: v for k, v in again.metrics["vcc2026"].items() if k != "per_perturbation"}
    assert found == third
    assert len(computed) == 1
    # So are they without a store, at the cost of computing it.
    new_process()
    alone = metric_panel.score_prediction(ds, split, prediction, stats, panels=["vcc2026"])
    assert alone.metrics["vcc2026"]["scale"] == third["scale"]
    assert len(computed) == 2


def test_other_code_makes_another_scale(made, computed, monkeypatch):
    store = made[0]
    run(made, "global_mean")
    kept = objects(store)
    assert len(computed) == 1
    real = panel_scale.code_of

    def changed(*modules):
        found = real(*modules)
        return Code({**found.modules, "perturbfm_core.changed": "1"}, found.libraries)

    monkeypatch.setattr(panel_scale, "code_of", changed)
    new_process()
    run(made, "control_only")
    assert len(computed) == 2
    assert set(kept) < set(objects(store))
    assert len(objects(store)) == 2


def test_the_code_of_a_scale_is_what_it_is_computed_by():
    found = panel_scale.code_of(scale_module.__name__).modules
    for name in ("anchor", "baseline", "catalog", "scores", "samples", "evaluation"):
        assert f"perturbfm_core.evaluation.panels.cell_eval2.{name}" in found
    assert not [m for m in found if ".panel_scale" in m or m.startswith("perturbfm_core.pipeline")]


def test_another_split_has_another_scale(made, computed):
    store, ds = made[:2]
    run(made, "global_mean")
    spec = SplitSpec(kind="perturbation_ood", params={"holdout": list(GENES[10:13])})
    ((other, _, _),) = freeze_split(store, ds, spec)
    _, found = run((store, ds, other), "global_mean")
    assert len(computed) == 2
    assert len(objects(store)) == 2
    assert set(found["scale"]) == {"A549"}


def test_a_damaged_scale_is_reported_in_one_line(made):
    store, _, _ = made
    run(made, "global_mean")
    (place,) = store.objects.glob(f"*/*/{panel_scale.SCALE_FILE}")
    place.write_text("{")
    new_process()
    with pytest.raises(Exception, match=str(place)) as raised:
        run(made, "control_only")
    assert "\n" not in str(raised.value)
