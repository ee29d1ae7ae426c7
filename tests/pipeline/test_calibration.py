"""Calibration as part of a run: what is fitted, saved, applied, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.models.base import load_model
from perturbfm_core.models.ensemble import Ensemble
from perturbfm_core.pipeline.dataset import import_dataset
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.prediction import predict_rows
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.submission import evaluate_file
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.uncertainty.calibrator import load_calibrator
from tests.support.factories import simulated
from tests.support.stages import publish

DATA = {"n_obs": 2400, "n_genes": 60, "n_contexts": 1, "n_perts": 60, "n_combos": 0, "control_fraction": 0.1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    import_dataset(store, simulated(**DATA), storage="npz")
    return store


def run_of(store: ArtifactStore, calibration: str = "inner_cv", model: str = "ridge", **block: Any) -> Path:
    """Return the run of one entry on a split with the given policy of calibration."""
    ds = simulated(**DATA)
    fields: dict[str, Any] = {"calib_frac": 0.4} if calibration == "fold" else {}
    spec = SplitSpec(
        kind="perturbation_ood", folds=3, fold=0, calibration=calibration, validation="inner_cv", **fields
    )
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    entry = ModelEntry(
        name=f"{model}-{len(json.dumps(block))}", description="x", model=model, uncertainty=block
    )
    (config,) = model_configs(entry)
    return publish(store, ds, split, config)


def calibration_of(run: Path) -> Any:
    return read_json(run / schema.CALIBRATION_FILE)


def test_every_run_is_calibrated_and_says_how(store: ArtifactStore) -> None:
    run = run_of(store)
    found = calibration_of(run)
    assert (found["method"], found["residuals"], found["unit"]) == ("mondrian", "out_of_fold", "perturbation")
    assert found["n_units"] == found["n_conditions"] == 40
    assert found["groups"] == [{"group": "single:seen-0", "n_units": 40, "own_quantiles": True}]
    assert found["guarantee"].startswith("none in finite samples")
    assert found["effective_units"] == {"min": 40, "median": 40, "n_widened": 0}
    assert found["n_test_conditions"] == 20
    metrics = read_json(run / schema.METRICS_FILE)["uncertainty"]
    assert found["conformal_coverage"] == metrics["conformal_coverage"]
    assert all(v is not None for v in found["conformal_coverage"].values())
    assert found["clustered"]["after"]["0.9"]["n_clusters"] == 20
    prediction = read_prediction(run / schema.PREDICTIONS_FILE)
    assert prediction.intervals is not None
    assert prediction.intervals.levels.tolist() == list(schema.COVERAGE_LEVELS)
    assert len(prediction.intervals.gene_bin) == 60


def test_a_run_has_its_calibrator_beside_its_model(store: ArtifactStore) -> None:
    run = run_of(store)
    prediction = read_prediction(run / schema.PREDICTIONS_FILE)
    model, calibrator = load_model(run), load_calibrator(run)
    ds = simulated(**DATA)
    split = SplitFolder(store.split_dir).load((run / schema.SPLIT_HASH_FILE).read_text().strip())
    again = predict_rows(ds, split, model, calibrator=calibrator)
    np.testing.assert_array_equal(again.var, prediction.var)
    np.testing.assert_array_equal(again.intervals.factor, prediction.intervals.factor)  # type: ignore[union-attr]


def test_scoring_the_file_of_a_run_tells_the_same(store: ArtifactStore, tmp_path: Path) -> None:
    run = run_of(store)
    ds = simulated(**DATA)
    split = SplitFolder(store.split_dir).load((run / schema.SPLIT_HASH_FILE).read_text().strip())
    scores = evaluate_file(store, ds, split, run / schema.PREDICTIONS_FILE, tmp_path / "out")
    assert scores.calibration == calibration_of(run)


def test_a_calibration_fold_is_used_and_gives_a_guarantee(store: ArtifactStore) -> None:
    found = calibration_of(run_of(store, "fold", conformal={"method": "hierarchical"}))
    assert (found["residuals"], found["n_units"]) == ("calibration_fold", 16)
    assert found["scaling"]["residuals"] == "inner folds"
    assert found["guarantee"]["0.9"] == "at least 0.9 for a random gene of a new perturbation"
    assert found["guarantee"]["0.95"] == "none: 16 units cannot reach 0.95, 19 would"
    assert found["conformal_coverage"]["0.95"] is None
    assert found["conformal_coverage"]["0.9"] is not None
    assert found["notes"]["after.0.95"].startswith("no interval of this level")


def test_a_split_that_calibrates_on_nothing_leaves_predictions_as_they_are(store: ArtifactStore) -> None:
    run = run_of(store, "none")
    found = calibration_of(run)
    assert found["method"] == "none"
    assert found["reason"] == "the split has neither a calibration fold nor inner folds"
    assert read_prediction(run / schema.PREDICTIONS_FILE).intervals is None
    notes = read_json(run / schema.METRICS_FILE)["notes"]
    assert "no calibrated interval" in notes["uncertainty.global.conformal_coverage_0.9"]


def test_an_entry_may_be_an_ensemble(store: ArtifactStore) -> None:
    run = run_of(store, ensemble=3, scale=True, conformal={"method": "mondrian", "groups": ["stratum"]})
    model = load_model(run)
    assert isinstance(model, Ensemble)
    assert (model.params.model, model.params.members, model.params.bag) == ("ridge", 3, 0.8)
    prediction = read_prediction(run / schema.PREDICTIONS_FILE)
    assert prediction.var_epistemic is not None
    assert (prediction.var_epistemic > 0).any()
    assert (prediction.var_epistemic <= prediction.var * (1 + 1e-5)).all()
    config = read_json(run / schema.CONFIG_FILE)
    assert (config["model"], config["uncertainty"]["ensemble"]) == ("ridge", 3)


@pytest.mark.parametrize("calibration", ["inner_cv", "fold"])
def test_runs_are_the_same_again(store: ArtifactStore, calibration: str, tmp_path: Path) -> None:
    first = read_prediction(run_of(store, calibration, ensemble=2) / schema.PREDICTIONS_FILE)
    other = ArtifactStore(tmp_path, tmp_path / "splits")
    import_dataset(other, simulated(**DATA), storage="npz")
    second = read_prediction(run_of(other, calibration, ensemble=2) / schema.PREDICTIONS_FILE)
    for name in ("mean", "var", "var_epistemic"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert np.array_equal(first.intervals.factor, second.intervals.factor)  # type: ignore[union-attr]
