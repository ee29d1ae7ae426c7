"""Every leak, planted at least two ways into a clean split or run: the audit names each one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.prediction import write_prediction
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.audit.core import CHECKS, RUN_CHECKS, audit, report, require_clean
from perturbfm_core.splits.audit.run import RunEvidence, read_run
from tests.support.audit_screen import CELLS, CONTEXT, GENE, ROWS, SINGLES, Planted
from tests.support.factories import grid_rows, screen, split_one, with_metadata, with_values
from tests.support.planted_leaks import (
    LEAKS,
    observed_truth,
    with_label_features,
    with_prediction,
    with_sister_combinations,
    with_sister_guides,
)

PLANTS = [
    pytest.param(leak, plant, id=f"{leak}-{how}")
    for leak, ways in LEAKS.items()
    for how, plant in ways.items()
]


@pytest.mark.parametrize(("leak", "plant"), PLANTS)
def test_a_planted_leak_is_named(leak: str, plant: Callable[[], Planted]) -> None:
    assert leak in plant().names()


def test_every_check_is_planted_at_least_two_ways() -> None:
    assert set(LEAKS) == set(CHECKS.names()) | set(RUN_CHECKS.names())
    assert min(len(ways) for ways in LEAKS.values()) >= 2


def test_features_that_name_the_condition_block_unless_they_are_accepted() -> None:
    planted = with_label_features("values")
    with pytest.raises(SplitError, match=r"label_naming_features: 3 of 40 features name the condition"):
        require_clean(planted.ds, planted.split)
    accepted = with_metadata(planted.ds, notes={"columns": {"accept": ["label_naming_features"]}})
    assert [f.name for f in require_clean(accepted, planted.split)] == ["label_naming_features"]


def test_one_gene_that_a_perturbation_switches_on_is_no_label() -> None:
    X = np.array(CELLS.values.expression)
    perts = CELLS.obs[schema.PERT_ID].astype(str).to_numpy()
    X[:, 0] = np.where(perts == "A", 2.0, 0.0)
    ds = with_values(CELLS, X.astype(np.float32))
    assert audit(ds, split_one(ds, "context_ood", {"holdout": ["x"]})) == []
    # The perturbed genes themselves may be on in their own condition only.
    genes = [*SINGLES, *(str(g) for g in CELLS.genes[len(SINGLES) :])]
    for i, pert in enumerate(SINGLES):
        X[:, i] = np.where(perts == pert, 2.0, 0.0)
    own = PerturbDataset(CELLS.obs, genes, Values(expression=X.astype(np.float32)), CELLS.metadata)
    assert audit(own, split_one(own, "context_ood", {"holdout": ["x"]})) == []


def test_a_combination_shares_single_guides_but_no_pair_of_genes_with_train() -> None:
    planted = with_sister_combinations("g0_1+g2_1")
    assert audit(planted.ds, planted.split) == []


def test_guides_of_controls_that_are_kept_as_perturbations_are_not_one_condition() -> None:
    ds = screen(grid_rows(["NT_1", "NT_2", "A", "B"], ["x", "y"]))
    assert audit(ds, split_one(ds, "perturbation_ood", {"holdout": ["NT_1"]})) == []


def test_guides_held_out_together_are_no_sisters() -> None:
    ds = with_sister_guides("name").ds
    split = split_one(ds, "perturbation_ood", {"holdout": ["g0_1", "g0_2"]})
    assert audit(ds, split) == []


@pytest.mark.parametrize(
    ("kind", "params", "status"),
    [
        ("covariate_transfer", {"perturbations": ["g0_1"], "values": ["x"]}, "blocking"),
        ("covariate_transfer", {"perturbations": ["g0_1", "g0_2"], "values": ["x"]}, "clean"),
        ("covariate_transfer", {"perturbations": ["B"], "values": ["x"]}, "clean"),
        ("explicit", {"folds": {"test": ["x|g0_1"]}}, "blocking"),
        ("context_ood", {"holdout": ["x"]}, "clean"),
        # Seed 0 draws one of the guides.
        ("context_ood", {"holdout": ["x"], "few_shot_frac": 0.2}, "warning"),
        ("batch_ood", {"holdout": ["b0"]}, "not_applicable"),
    ],
)
def test_pairs_of_a_guide_are_seen_by_its_sister(kind: str, params: dict[str, Any], status: str) -> None:
    rows = grid_rows(["g0_1", "g0_2", "B", "C"], ["x", "y"], reps=4, controls=12)
    ds = screen([(*row, {"batch_id": f"b{i % 2}"}) for i, row in enumerate(rows)], genes=12)
    (found,) = [o for o in report(ds, split_one(ds, kind, params)) if o.check == "sister_guides"]
    assert found.status == status
    if status == "blocking":
        assert [f.examples for f in found.findings] == [("x|g0_1||| = x|g0_2||| of train",)]


# ---- what the audit says --------------------------------------------------------------------------------------


def test_a_check_that_is_not_applicable_gives_its_reason() -> None:
    reasons = {o.check: o.reason for o in report(CELLS, ROWS, RunEvidence()) if o.status == "not_applicable"}
    assert (
        reasons["condition_in_train_and_test"] == "the split holds out rows of conditions that train may have"
    )
    assert reasons["replicates_in_two_folds"] == "the data set has cells, not replicates"
    assert reasons["made_on_other_rows"] == "the run does not declare what it was made from (made)"
    assert reasons["truth_in_predictions"] == "the run has no predictions"
    assert reasons["test_rows_read"].startswith("the run does not declare the rows it read")
    without = {o.check for o in report(CELLS, ROWS) if o.reason == "no run is audited"}
    assert without == set(RUN_CHECKS.names())


def test_a_run_is_read_from_its_directory(tmp_path: Path) -> None:
    planted = with_prediction(observed_truth()[0])
    assert planted.run is not None
    assert planted.run.prediction is not None
    write_prediction(planted.run.prediction, tmp_path / schema.PREDICTIONS_FILE)
    records = {"made": [{"what": "graph", "split_hash": GENE.hash}], "predict_reads": ["conditions"]}
    (tmp_path / "audit.json").write_text(json.dumps(records))
    run = read_run(tmp_path)
    assert {f.name for f in audit(CELLS, CONTEXT, run)} == {"truth_in_predictions", "made_on_other_rows"}
    with pytest.raises(SplitError, match="is no directory of a run"):
        read_run(tmp_path / "nowhere")
