"""Clean splits and honest runs, in which the audit finds nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.splits.audit.core import audit, report, require_clean
from perturbfm_core.splits.audit.run import FitRecord, RunEvidence, RunRecords, rows_record
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view
from tests.support.audit_screen import CELLS, CONTEXT
from tests.support.factories import grid_rows, screen, split_one
from tests.support.planted_leaks import honest_prediction, with_prediction


def _random_split(seed: int) -> tuple[PerturbDataset, FrozenSplit]:
    rng = np.random.default_rng(seed)
    contexts = [f"c{i}" for i in range(int(rng.integers(3, 5)))]
    perts = [f"P{i}" for i in range(int(rng.integers(5, 8)))]
    perts += [f"P{i}+P{i + 1}" for i in range(3)]
    rows: list[Any] = []
    for pert, context in grid_rows(perts, contexts, reps=int(rng.integers(2, 5)), controls=12):
        dose = "" if pert == "control" else ("1 uM", "5 uM")[int(rng.integers(2))]
        rows.append((pert, context, {"doses": dose, "batch_id": f"b{rng.integers(3)}"}))
    ds = screen(rows, genes=30, seed=seed)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("context_ood", {"holdout": [contexts[0]]}),
        ("context_ood", {"holdout": [contexts[1]], "few_shot_frac": 0.3}),
        ("perturbation_ood", {"holdout": [perts[int(rng.integers(3))]]}),
        ("combo_ood", {"holdout": [perts[-1]]}),
        ("covariate_transfer", {"test_frac": 0.2}),
        ("dose_ood", {}),
        ("context_perturbation_ood", {"contexts": [contexts[0]], "perturbations": [perts[0]]}),
        ("batch_ood", {"holdout": ["b1"]}),
        ("iid", {"test_frac": 0.3}),
        ("explicit", {"folds": {"test": [perts[4]], "unused": [perts[0]]}}),
    ]
    kind, params = kinds[seed % len(kinds)]
    return ds, split_one(ds, kind, params, seed=seed)


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_found_in_a_clean_random_split_with_an_honest_run(seed: int) -> None:
    ds, split = _random_split(seed)
    fit = split.rows(ds, *split.fit_folds)
    view = train_view(ds, split)
    assert view.allowed_rows is not None
    assert view.fit_rows is not None
    test = split.rows(ds, "test")
    mean = np.tile(view.delta.mean(axis=0), (len(test), 1))
    records = RunRecords(
        made=(
            FitRecord(what="pca", rows_sha256=rows_record(ds, fit)),
            FitRecord(what="scaler", rows_sha256=rows_record(ds, np.flatnonzero(view.fit_rows))),
            FitRecord(what="graph", split_hash=split.hash),
            FitRecord(what="statistics", rows="fit"),
            FitRecord(what="encoder", rows="external", content_sha256="e" * 64),
        ),
        rows_read=tuple(int(i) for i in np.flatnonzero(view.allowed_rows)),
        control_roles=("input",),
        predict_reads=("conditions", "genes", "control"),
    )
    run = RunEvidence(records, RowPrediction(mean=mean, var=np.ones_like(mean), idx=test))
    assert require_clean(ds, split, run) == []
    states = {o.check: o.status for o in report(ds, split, run)}
    assert set(states.values()) <= {"clean", "not_applicable"}
    assert (
        states["identical_profiles"]
        == states["truth_in_predictions"]
        == states["made_on_other_rows"]
        == "clean"
    )


def test_an_honest_prediction_of_an_easy_context_has_no_finding_of_copied_truth() -> None:
    mean, rows = honest_prediction()
    assert with_prediction(mean, rows=rows).names() == set()


def test_conditions_of_one_row_do_not_shift_the_halves_that_predictions_are_compared_with() -> None:
    # One test condition, first in order, keeps a single row: the odd rows alone have fewer conditions.
    key = sorted(CONTEXT.definition.folds.table["test"])[0]  # type: ignore[union-attr]
    code = CELLS.conditions.index.get_loc(key)
    rows = np.flatnonzero(CELLS.condition_codes == code)
    kept = np.setdiff1d(np.arange(CELLS.n_obs), rows[1:])
    X = CELLS.expression
    assert X is not None
    obs = CELLS.obs.iloc[kept]
    few = screen(
        [
            (str(p), str(c), {"batch_id": str(b)})
            for p, c, b in zip(obs[schema.PERT_ID], obs[schema.CONTEXT_ID], obs[schema.BATCH_ID], strict=True)
        ],
        X=np.asarray(X.toarray() if hasattr(X, "toarray") else X)[kept],
        genes=40,
    )
    split = split_one(few, "context_ood", {"holdout": ["x", "y"]})
    test = split.rows(few, "test")
    table = condition_table(few, test).delta["reference"]
    _, codes = np.unique(few.condition_codes[test], return_inverse=True)
    jitter = np.random.default_rng(0).normal(0, 0.01, table.shape)
    view = train_view(few, split)
    perts = view.conditions[schema.PERT_ID].astype(str).to_numpy()
    wanted = few.obs[schema.PERT_ID].astype(str).to_numpy()[test]
    honest = np.asarray([view.delta[perts == p].mean(axis=0) for p in wanted])
    for mean, names in ((honest, set()), ((table + jitter)[codes], {"truth_in_predictions"})):
        run = RunEvidence(prediction=RowPrediction(idx=test, mean=mean, var=np.ones_like(mean)))
        assert {f.name for f in audit(few, split, run)} == names


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.99, 1.0, 3.0])
def test_a_copy_of_the_truth_at_another_amplitude_is_one_without_cells_as_well(factor: float) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"P{i}", "x") for i in range(8)]
    ds = screen(rows, X=rng.normal(0, 1, (8, 12)), genes=12, space="delta", level="condition")
    split = split_one(ds, "perturbation_ood", {"holdout": ["P0", "P1", "P2"]})
    test = split.rows(ds, "test")
    mean = factor * np.asarray(ds.delta(test))
    run = RunEvidence(prediction=RowPrediction(idx=test, mean=mean, var=np.ones_like(mean)))
    assert {f.name for f in audit(ds, split, run)} == ({"truth_in_predictions"} if factor else set())


def test_a_transductive_split_of_contexts_and_perturbations_names_its_contexts() -> None:
    params = {"contexts": ["x"], "perturbations": ["A"]}
    split = split_one(CELLS, "context_perturbation_ood", params, transductive=True)
    assert [f.examples for f in audit(CELLS, split) if f.name == "transductive"] == [("x",)]
