"""Pipelines that calibrate on what they must not: each is stopped by a guard or shows in its coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.models.base import Model, new_model
from perturbfm_core.pipeline import trained_model as calibrating
from perturbfm_core.pipeline.experiment import ModelConfig
from perturbfm_core.pipeline.prediction import predict_rows
from perturbfm_core.pipeline.trained_model import fit_calibrator
from perturbfm_core.splits import residuals as residual_sources
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import TrainView, query, train_view
from tests.support.factories import simulated, split_all

LEVEL, AT = 0.9, 2
CONFIG = ModelConfig(entry="kernel", model="ridge", params={"alphas": [0.1], "control_components": 0}, seed=0)


def world() -> tuple[PerturbDataset, list[FrozenSplit]]:
    """Return a screen of 60 perturbations with strong effects, and its folds of unseen ones."""
    ds = simulated(n_obs=9000, n_genes=60, n_contexts=1, n_perts=60, n_combos=0, effect_size=3.0, seed=4)
    return ds, split_all(ds, "perturbation_ood", {}, folds=4, calibration="inner_cv", validation="inner_cv")


Fitted = Callable[[PerturbDataset, FrozenSplit, TrainView, Model], Any]


def honest(ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model) -> Any:
    return fit_calibrator(ds, split, view, model, CONFIG)


def coverage(fit: Fitted = honest, folds: int = 4) -> np.ndarray:
    """Return the 90 % coverage of each test condition over folds, with calibrators made by `fit`."""
    ds, frozen_splits = world()
    found = []
    for split in frozen_splits[:folds]:
        view = train_view(ds, split)
        model = new_model(CONFIG.model, CONFIG.params)
        model.fit(view, 0)
        prediction = predict_rows(ds, split, model, calibrator=fit(ds, split, view, model))
        c = compare(ds, split, prediction, observed(ds, split))
        assert c.intervals is not None
        found.append(
            (np.abs(c.observed - c.predicted) <= c.intervals.half_width(AT, c.predicted_var)).mean(axis=1)
        )
    return np.concatenate(found)


def holds(values: np.ndarray) -> bool:
    """Return whether mean coverage is within three standard errors, over perturbations, of its level."""
    return bool(abs(values.mean() - LEVEL) <= 3 * values.std(ddof=1) / np.sqrt(len(values)))


def test_the_honest_pipeline_covers_what_it_says() -> None:
    values = coverage()
    assert len(values) == 60
    assert holds(values)
    assert abs(values.mean() - LEVEL) < 0.03


# ---- what calibrates -------------------------------------------------------------------------------------------


def in_sample(view: TrainView, model: Model) -> OutOfFold:
    """Return the residuals of the fit itself, dressed as out-of-fold ones."""
    assert model.oof is not None
    oof = model.oof
    rows = view.conditions.index.get_indexer(oof.conditions.index)
    made = model.predict(view.query())
    return replace(oof, truth=view.delta[rows], prediction=Prediction(made.mean[rows], made.var[rows]))


def test_residuals_of_a_refitted_model_are_stopped_by_the_guard() -> None:
    def refitted(ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model) -> Any:
        everything = frozenset(view.conditions.index)
        assert model.oof is not None
        model.oof = replace(in_sample(view, model), fitted=(everything,) * len(model.oof.fitted))
        return fit_calibrator(ds, split, view, model, CONFIG)

    with pytest.raises(SplitError, match="fitted or stopped on by the predictor"):
        coverage(refitted, folds=1)


def test_residuals_of_a_refitted_model_that_hide_it_show_in_the_coverage() -> None:
    def hidden(ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model) -> Any:
        model.oof = in_sample(view, model)
        return fit_calibrator(ds, split, view, model, CONFIG)

    values = coverage(hidden)
    assert not holds(values)
    assert values.mean() < LEVEL - 0.05


def cells_of(ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model) -> OutOfFold:
    """Return the errors of a model that was fitted on half the cells of each train perturbation, on the other half."""
    rows = split.rows(ds, "train")
    half = np.random.default_rng(0).random(len(rows)) < 0.5
    seen, rest = condition_table(ds, rows[half]), condition_table(ds, rows[~half])
    part = replace(view, delta=seen.delta["input"], s2=seen.s2_pert, inner=view.inner)
    other = new_model(CONFIG.model, CONFIG.params)
    other.fit(part, 0)
    prediction = other.predict(query(ds, rest))
    everything = frozenset(view.conditions.index)
    return OutOfFold(
        conditions=rest.conditions,
        truth=rest.delta["input"],
        prediction=prediction,
        units=[(str(k),) for k in rest.conditions.index],
        fold=np.zeros(len(rest), dtype=np.int64),
        source="out_of_fold",
        fitted=(everything,),
    )


def test_cells_of_trained_perturbations_are_stopped_by_the_guard() -> None:
    def cellwise(ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model) -> Any:
        model.oof = cells_of(ds, split, view, model)
        return fit_calibrator(ds, split, view, model, CONFIG)

    with pytest.raises(SplitError, match="fitted or stopped on by the predictor"):
        coverage(cellwise, folds=1)


def test_cells_of_trained_perturbations_that_hide_it_show_in_the_coverage(monkeypatch: Any) -> None:
    # Scored against input controls, too, as such a shortcut would be.
    monkeypatch.setattr(calibrating, "as_scored", lambda ds, split, residuals: residuals)

    def hidden(ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model) -> Any:
        found = cells_of(ds, split, view, model)
        model.oof = replace(found, fitted=(frozenset(),))
        return fit_calibrator(ds, split, view, model, CONFIG)

    values = coverage(hidden)
    assert not holds(values)
    assert values.mean() < LEVEL


@pytest.mark.parametrize("named", [True, False], ids=["said so", "as train"])
def test_test_rows_are_stopped_by_the_guard(named: bool) -> None:
    def peeking(ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model) -> Any:
        table = condition_table(ds, split.rows(ds, "test"))
        fold = replace(
            cells_of(ds, split, view, model),
            conditions=table.conditions,
            truth=table.delta["reference"],
            prediction=model.predict(query(ds, table)),
            units=[(str(k),) for k in table.conditions.index],
            fold=np.zeros(len(table), dtype=np.int64),
            source="calibration_fold" if named else "out_of_fold",
            fitted=(frozenset(view.conditions.index),),
        )
        model.oof = fold
        return fit_calibrator(ds, split, view, model, CONFIG)

    with pytest.raises(
        SplitError, match=r"test conditions are among|neither fits nor calibrates|calibration fold"
    ):
        coverage(peeking, folds=1)


# ---- what the intervals may know -------------------------------------------------------------------------------

Changed = tuple[PerturbDataset, FrozenSplit]


def other_data(ds: PerturbDataset, split: FrozenSplit, rows: np.ndarray, counts: Any) -> Changed:
    """Return some rows of a data set with other counts, and the same split of it."""
    made = PerturbDataset(
        ds.obs.iloc[rows],
        ds.genes,
        Values(counts=counts[rows]),
        ds.metadata.model_copy(update={"content_sha256": None}),
    )
    ref = split.definition.dataset.model_copy(update={"content_sha256": made.content_sha256})
    return made, FrozenSplit(split.definition.model_copy(update={"dataset": ref}))


@pytest.fixture(scope="module")
def cases() -> dict[str, Changed]:
    """Return a screen, the same with other values in test cells, and the same with half as many test cells."""
    ds, frozen_splits = world()
    split = frozen_splits[0]
    tested = split.rows(ds, "test")
    counts = ds.values.counts.copy()  # type: ignore[union-attr]
    row = np.repeat(np.arange(ds.n_obs), np.diff(counts.indptr))
    drawn = np.random.default_rng(0).integers(0, 9, size=len(row)).astype(counts.dtype)
    counts.data += np.where(np.isin(row, tested), drawn, 0).astype(counts.dtype)
    everything = np.arange(ds.n_obs)
    fewer = np.setdiff1d(everything, tested[::2])
    return {
        "plain": (ds, split),
        "values": other_data(ds, split, everything, counts),
        "number": other_data(ds, split, fewer, ds.values.counts),  # type: ignore[union-attr]
    }


Mutation = Callable[[Prediction, Any], Prediction]


def made(case: Changed, mutation: Mutation | None = None) -> Prediction:
    """Return the calibrated prediction of test conditions; a mutation gets the table of the test cells."""
    ds, split = case
    view = train_view(ds, split)
    model = new_model(CONFIG.model, CONFIG.params)
    model.fit(view, 0)
    table = condition_table(ds, split.rows(ds, "test"))
    prediction = model.predict(query(ds, table))
    if mutation is not None:
        prediction = mutation(prediction, table)
    return fit_calibrator(ds, split, view, model, CONFIG).apply(prediction, table.conditions)


def same(one: Prediction, two: Prediction) -> bool:
    """Return whether means, variances and intervals are equal to the last bit."""
    assert one.intervals is not None
    assert two.intervals is not None
    return (
        np.array_equal(one.mean, two.mean)
        and np.array_equal(one.var, two.var)
        and np.array_equal(one.intervals.factor, two.intervals.factor)
    )


@pytest.mark.parametrize("change", ["values", "number"])
def test_other_test_cells_change_no_mean_variance_or_interval(cases: dict[str, Changed], change: str) -> None:
    assert same(made(cases["plain"]), made(cases[change]))


@pytest.mark.parametrize(
    ("change", "mutation"),
    [
        pytest.param("values", lambda p, t: replace(p, var=p.var + t.s2_pert), id="variance of test cells"),
        pytest.param(
            "number", lambda p, t: replace(p, var=p.var * (1 + 1 / t.n[:, None])), id="number of test cells"
        ),
    ],
)
def test_a_variance_that_knows_the_test_cells_is_caught_by_that_check(
    cases: dict[str, Changed], change: str, mutation: Mutation
) -> None:
    assert not same(made(cases["plain"], mutation), made(cases[change], mutation))


def test_a_query_holds_neither_values_nor_numbers_of_test_cells(cases: dict[str, Changed]) -> None:
    ds, split = cases["plain"]
    requested = query(ds, condition_table(ds, split.rows(ds, "test")))
    assert set(vars(requested)) == {"conditions", "genes", "control", "cells"}
    # What is offered beside the means are input control cells, which are no test cells.
    rows = requested.cells.rows()  # type: ignore[union-attr]
    assert ds.is_control[rows].all()
    assert not set(rows.tolist()) & set(split.rows(ds, "test").tolist())


def test_the_sources_of_residuals_never_read_test_rows(monkeypatch: Any) -> None:
    ds, frozen_splits = world()
    split = frozen_splits[0]
    test = set(split.rows(ds, "test").tolist())
    read: list[int] = []

    def watched(data: PerturbDataset, rows: Any = None) -> Any:
        assert rows is not None
        read.extend(np.asarray(rows).tolist())
        return condition_table(data, rows)

    monkeypatch.setattr(residual_sources, "condition_table", watched)
    view = train_view(ds, split)
    model = new_model(CONFIG.model, CONFIG.params)
    model.fit(view, 0)
    honest(ds, split, view, model)
    assert read
    assert not test & set(read)
