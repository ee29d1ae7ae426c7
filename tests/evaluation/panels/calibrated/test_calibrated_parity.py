"""The calibrated metrics of the peer: every record, and faults that must show."""

from __future__ import annotations

import json
import shutil

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.calibrated import parity_arrays
from perturbfm_core.evaluation.panels.calibrated.parity import compare
from perturbfm_core.evaluation.parity import KINDS, run_case
from tests.support.paths import TESTS

FOLDER = TESTS / "parity" / "calibrated" / "synth_a"


def test_every_record_is_the_peers():
    records = list(compare(FOLDER))
    assert len(records) == 5 * 13 * 12 + 5 * 12 * 80 + 2 * 80
    assert [r for r in records if not r.ok] == []
    assert not any(r.skipped for r in records)


def test_the_case_is_found_by_its_files():
    assert [k.name for _, k in KINDS.items() if k.matches(FOLDER)] == ["calibrated"]


def test_a_changed_number_fails(tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(FOLDER, folder)
    expected = json.loads((folder / "expected.json").read_text())
    expected["values"]["noisy"]["wmse"]["P00"] *= 1 + 1e-9
    expected["values"]["control"]["pearson_deltactrl"]["P01"] = 0.0
    (folder / "expected.json").write_text(json.dumps(expected))
    wrong = [(r.metric, r.key) for r in compare(folder) if not r.ok]
    assert wrong == [("pearson_deltactrl", "control|P01"), ("wmse", "noisy|P00")]


def with_cells(folder, change):
    """Return the records of a copy of the case whose cells are changed."""
    shutil.copytree(FOLDER, folder)
    table = anndata.read_h5ad(folder / "cells.h5ad")
    change(table)
    table.write_h5ad(folder / "cells.h5ad")
    return run_case(folder)


def sparse(table):
    table.X = sp.csr_matrix(table.X)


def single(table):
    table.X = table.X.astype(np.float32)


def other_label(table):
    table.obs["condition"] = table.obs["condition"].astype(str).replace("control", "NT")


@pytest.mark.parametrize("change", [sparse, single, other_label])
def test_cells_may_be_sparse_or_in_single_precision_and_controls_have_another_label(tmp_path, change):
    found = with_cells(tmp_path / "case", change)
    assert (found["compared"], found["skipped"], found["failed"]) == (5740, 0, 0)


def test_a_prediction_that_is_absent_leaves_the_others_compared(tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(FOLDER, folder)
    with np.load(folder / "predictions.npz", allow_pickle=False) as given:
        arrays = {name: given[name] for name in given.files if name not in ("pred_train_mean", "genes")}
    np.savez(folder / "predictions.npz", **arrays)
    found = run_case(folder)
    assert (found["compared"], found["skipped"], found["failed"]) == (5740 - 13 * 12, 1, 0)
    (reason,) = found["reasons"]
    assert "pred_train_mean" in reason


@pytest.mark.parametrize("name", ["cells.h5ad", "predictions.npz", "expected.json"])
def test_an_incomplete_case_is_not_of_this_kind(tmp_path, name):
    folder = tmp_path / "case"
    shutil.copytree(FOLDER, folder)
    (folder / name).unlink()
    assert not KINDS.get("calibrated").matches(folder)


def test_a_gene_that_is_listed_twice_has_its_larger_weight_in_both_places():
    weights = np.asarray([[0.25, 1.0, 0.5], [0.75, 0.0, 0.25]])
    np.testing.assert_array_equal(
        parity_arrays.largest_by_name(weights, ["b", "a", "b"]), [[0.5, 1.0, 0.5], [0.75, 0.0, 0.75]]
    )
    np.testing.assert_array_equal(parity_arrays.largest_by_name(weights, ["b", "a", "c"]), weights)
