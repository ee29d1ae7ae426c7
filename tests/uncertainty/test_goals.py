"""The goals of coverage and width on a small screen, with the tolerances that its size implies.

The whole size is `tests.benchmarks.claims.uncertainty`. Here a mean over test conditions scatters by its standard
error over perturbations, and that of the calibration units, of which there are about as many, comes on top.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.evaluation.panels.uncertainty.clusters import by_cluster
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.prediction import predict_rows, query_of_test
from perturbfm_core.pipeline.trained_model import fit_calibrator
from perturbfm_core.splits.view import train_view
from tests.support.coverage import LEVELS, TERCILES, Measured, measure
from tests.support.factories import simulated, split_all

SCREEN: dict[str, Any] = {
    "n_obs": 7000,
    "n_genes": 80,
    "n_contexts": 1,
    "n_perts": 40,
    "n_combos": 80,
    "effect_size": 2.5,
}
TASKS = ("combo_ood", "perturbation_ood")
MARGINAL, TERCILE, WIDTH = 0.02, 0.07, 0.9
FLAT = {"conformal": {"method": "pooled"}}


@lru_cache(maxsize=4)
def measured(kind: str, model: str) -> Measured:
    """Return what the intervals of an entry do on three folds."""
    folds = split_all(simulated(**SCREEN), kind, {}, folds=3, calibration="inner_cv", validation="inner_cv")
    # Networks are switched off for speed: without a graph the gate closes here anyway.
    extra: dict[str, Any] = {"uncertainty": FLAT} if model == "global_mean" else {"params": {"gate": "off"}}
    return measure(simulated(**SCREEN), folds, model, **extra)


def tolerance(hits: Any, perts: Any) -> Any:
    """Return [levels], three standard errors over perturbations, of test and of calibration units."""
    n = [by_cluster(hits[:, i], perts) for i in range(hits.shape[1])]
    return 3 * np.sqrt(2) * np.asarray([x.std(ddof=1) / np.sqrt(len(x)) for x in n])


@pytest.mark.parametrize("kind", TASKS)
def test_marginal_coverage(kind: str) -> None:
    found = measured(kind, "perturbfm-v2")
    gap = np.abs(found.hits.mean(axis=0) - LEVELS)
    allowed = MARGINAL + tolerance(found.hits, found.perts)
    assert (gap <= allowed).all()
    # What the size implies must still refuse a variance that is right by chance only.
    assert allowed[0] < 0.12


@pytest.mark.parametrize("kind", TASKS)
def test_coverage_in_each_tercile_of_predicted_effect(kind: str) -> None:
    found = measured(kind, "perturbfm-v2")
    for name in TERCILES:
        mine = found.tercile == name
        gap = np.abs(found.hits[mine].mean(axis=0) - LEVELS)
        assert (gap <= TERCILE + tolerance(found.hits[mine], found.perts[mine])).all(), name


@pytest.mark.parametrize("kind", TASKS)
def test_intervals_are_narrower_than_those_of_the_train_mean(kind: str) -> None:
    ours, mean = measured(kind, "perturbfm-v2"), measured(kind, "global_mean")
    ratio = ours.widths.mean(axis=0) / mean.widths.mean(axis=0)
    assert ratio[LEVELS.tolist().index(0.9)] <= WIDTH


@pytest.mark.parametrize("kind", TASKS)
def test_the_uncertainty_finds_large_errors(kind: str) -> None:
    found = measured(kind, "perturbfm-v2")
    # A fold has about 30 conditions: the mean over folds is judged.
    assert float(np.mean(found.detection)) > 0.6
    assert float(np.mean(found.excess_aurc)) < 0.8


def test_the_stages_that_predict_get_neither_number_nor_variance_of_test_cells() -> None:
    ds = simulated(**SCREEN)
    (split, *_) = split_all(ds, "combo_ood", {}, folds=3, calibration="inner_cv", validation="inner_cv")
    (config,) = model_configs(ModelEntry(name="e", description="x", model="additive"))
    view, model = train_view(ds, split), config.new_model()
    model.fit(view, config.seed)
    requested: list[Any] = []
    plain, calibrator = model.predict, fit_calibrator(ds, split, view, model, config)
    calibrated = type(calibrator).apply

    def predict(query: Any) -> Any:
        requested.append(query)
        return plain(query)

    def apply(self: Any, prediction: Any, conditions: Any) -> Any:
        requested.append(conditions)
        return calibrated(self, prediction, conditions)

    model.predict = predict  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(calibrator), "apply", apply)
        predict_rows(ds, split, model, calibrator=calibrator)
    query, conditions = requested
    assert set(vars(query)) == {"conditions", "genes", "control", "cells"}
    assert conditions is query.conditions
    assert list(query.conditions.columns) == list(ds.conditions.columns)
    # The controls are the contexts' own, the same for whatever cells the test conditions have.
    assert np.array_equal(query.control, query_of_test(ds, split).control)
    assert len(np.unique(query.control, axis=0)) <= len(ds.obs["context_id"].unique()) * max(
        len(ds.obs["batch_id"].unique()), 1
    )
