"""The calibrated metrics of the peer: every record, and faults that must show."""

from __future__ import annotations

import json
import shutil
import zipfile

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import ttest_ind_from_stats

from perturbfm_core.evaluation.panels.calibrated import parity_arrays
from perturbfm_core.evaluation.panels.calibrated.parity import compare
from perturbfm_core.evaluation.parity import KINDS, run_case
from perturbfm_core.evaluation.parity_npz import read_arrays
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


def with_arrays(folder, change):
    """Return what the comparison gives of a copy of the case whose arrays are changed."""
    shutil.copytree(FOLDER, folder)
    np.savez(folder / "predictions.npz", **change(read_arrays(folder / "predictions.npz")))
    return run_case(folder)


def as_objects(arrays):
    return arrays | {name: arrays[name].astype(object) for name in ("conditions", "genes")}


def other_order(arrays):
    n = len(arrays["genes"])
    return {name: A[..., ::-1] if A.shape[-1] == n else A for name, A in arrays.items()}


def some_conditions(arrays):
    # A condition that the case does not score is among the rest that others are tested against.
    rows = slice(0, 11)
    return {name: A[rows] if len(A) == 12 else A for name, A in arrays.items()}


@pytest.mark.parametrize("change", [as_objects, other_order])
def test_names_may_be_objects_and_genes_in_another_order(tmp_path, change):
    found = with_arrays(tmp_path / "case", change)
    assert (found["compared"], found["skipped"], found["failed"]) == (5740, 0, 0)


@pytest.mark.parametrize(
    "given",
    [
        [print, "P00"],
        ["P00", 3],
        ["P00", None],
        [["P00"], "P01"],
        [("P00", "P01"), "P02"],
        [1.5],
        [b"P00"],
        [np.bytes_(b"P")],
        [{"P": 1}],
    ],
)
def test_an_array_of_other_objects_is_not_read(tmp_path, given):
    objects = np.empty(len(given), dtype=object)
    objects[:] = given
    found = with_arrays(tmp_path / "case", lambda a: a | {"conditions": objects})
    assert found["compared"] == 0
    assert "array 'conditions' holds Python objects other than text" in next(iter(found["reasons"]))


@pytest.mark.parametrize("code", [b".", b"\x80\x02.", b"\x80\x02].", b"\x80\x02K\x01R.", b"\x80\x02h\x05."])
def test_instructions_that_numpy_does_not_write_are_no_text(tmp_path, code):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("names.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        member.write(code)
    with pytest.raises(ValueError, match="array 'names' holds Python objects other than text"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "given",
    [
        ["a", "b", "a", "ü x"] * 700,
        ["one"],
        [["a", "b"], ["a", "c"]],
        [],
        [*np.asarray(["ab", "ü", "ab"]), "x"] * 2,
    ],
    ids=["long", "one", "table", "none", "of numpy"],
)
def test_names_saved_as_objects_are_the_same_text(tmp_path, given):
    """Also what occurs again, which a pickle names once."""
    names = np.asarray(given, dtype=object)
    for lies in (names, np.asfortranarray(names)):
        np.savez(tmp_path / "a.npz", names=lies, numbers=np.arange(3.0))
        found = read_arrays(tmp_path / "a.npz")
        assert found["names"].tolist() == names.tolist()
        assert found["numbers"].tolist() == [0.0, 1.0, 2.0]


def test_a_condition_that_is_not_scored_is_part_of_the_rest(tmp_path):
    found = with_arrays(tmp_path / "case", some_conditions)
    made = {name: m for name, m in found["metrics"].items() if name.startswith("input_")}
    assert len(made) == 7
    assert sum(m["failed"] for m in made.values()) == 0


def test_the_interpolation_is_by_the_p_values_that_the_case_names(tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(FOLDER, folder)
    expected = json.loads((folder / "expected.json").read_text())
    expected["notes"] = expected["notes"].replace("1 - unadjusted p", "1 - adjusted p")
    (folder / "expected.json").write_text(json.dumps(expected))
    assert {r.metric for r in compare(folder) if not r.ok} == {
        "input_alpha",
        "input_pred_interpolated_duplicate",
    }


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


def by_the_peer(X, label, q):
    """Return (t, p) of the peer for one condition, of which all cells are of the first half."""
    sides = [X[label == q], X[label != q]]
    mean = [side.mean(axis=0, dtype=np.float64) for side in sides]
    spread = [
        np.sqrt(((side * side).mean(axis=0, dtype=np.float64) - m**2) * len(side) / (len(side) - 1))
        for side, m in zip(sides, mean, strict=True)
    ]
    n = len(sides[0])
    t, p = ttest_ind_from_stats(mean[0], spread[0], n, mean[1], spread[1], n, equal_var=False)
    return np.where(np.isnan(t), 0.0, t), np.where(np.isnan(p), 1.0, p)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_gene_that_hardly_varies_is_tested_as_by_the_peer(rng, dtype, form):
    label = np.repeat(np.asarray(["a", "b", "c"]), [5, 7, 9])
    X = rng.normal(2, 1, (21, 9))
    X[:, 0] = label == "a"
    X[:, 1] = np.where(label == "b", np.log1p(3), np.log1p(7))
    X[label == "c", 2:7] = rng.random(5)
    X[:, 7] = 5 + 1e-3 * rng.normal(size=21)
    X = X.astype(dtype)
    found, doubt = parity_arrays.half_contrast(
        X.astype(np.float64), label, ["a", "b", "c"], np.ones(21, dtype=bool), form(X)
    )
    assert found.t[0, 0] == np.inf
    for i, q in enumerate("abc"):
        t, p = by_the_peer(X, label, q)
        np.testing.assert_allclose(found.t[i], t, rtol=1e-5)
        np.testing.assert_allclose(found.p[i], p, rtol=1e-5)
    # Rounding decides where neither the values nor their squares are exact.
    assert not doubt[:, [0, 8]].any()
    assert (doubt[:, 7] == (dtype == np.float32)).all()
    assert doubt[:, 1].all()
    assert doubt[2, 2:7].all()


def test_a_number_that_rounding_decides_is_not_compared_where_it_differs():
    numbers = {"alpha": np.asarray([[0.5, 0.25]])}
    doubt = np.asarray([[True, True]])
    made = parity_arrays.array_records(
        "alpha", np.asarray([[0.5, 1.0]]), numbers, ["q"], ["a", "b"], (np.zeros((1, 2)), 0.0), doubt
    )
    same, other = made
    assert same.ok
    assert same.skipped is None
    assert other.skipped.startswith("ill_conditioned")
