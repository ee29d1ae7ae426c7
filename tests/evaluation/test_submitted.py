"""Predictions of any file brought to deltas of the test conditions: kinds of data sets, labels and cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.pipeline.submission import read_submission
from tests.support.factories import grid_rows, screen, split_one


def written(ds, values, name="f.csv", **labels):
    """Write a table of values with labels and return its path."""
    table = pd.DataFrame(values, columns=list(ds.genes))
    for key in reversed(labels):
        table.insert(0, key, labels[key])
    table.to_csv(name, index=False)
    return Path(name)


def read(ds, split, path, **options):
    """Return (delta by condition key, what was read)."""
    out = read_submission(ds, split, path, **options)
    c = compare(ds, split, out.prediction)
    return dict(zip(c.conditions.index, c.predicted, strict=True)), out


def cells_of(ds, split, path, **options):
    """Return {condition key: its predicted cells}."""
    made = compare(ds, split, read_submission(ds, split, path, **options).prediction).cells
    return {key: made.predicted(i) for i, key in enumerate(made.keys)}


# ---- data sets of differences, of one context, of doses ----------------------------------------------------------


def test_data_of_differences_have_no_control_to_look_like():
    ds = screen(
        [(p, c) for c in "xy" for p in ("A", "B") for _ in range(2)], space="delta", level="condition"
    )
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    values = np.full((2, 6), 5.0)
    values[1] = -3
    path = written(ds, values, perturbation=["A", "B"], context=["x", "x"])
    deltas, out = read(ds, split, path)
    assert (out.notes["kind"], out.warnings) == ("delta", ["2 of 2 predictions are constant over genes"])
    assert (deltas["x|A|||"] == 5).all()
    assert out.prediction.cells is None
    with pytest.raises(PredictionError, match="the data set has no controls to subtract"):
        read(ds, split, path, kind="expression")


@pytest.mark.parametrize("n", [3, 6, 20], ids=["fewer", "as many", "more"])
def test_a_file_of_columns_is_one_of_rows(one_context, tmp_path, n):
    ds, split = one_context
    tested = observed(ds, split).conditions["pert_id"].tolist()
    rng = np.random.default_rng(n)
    cells = rng.normal(0, 0.3, size=(n * len(tested), 6)) * rng.integers(0, 2, size=(n * len(tested), 6))
    found = []
    for kind in (sp.csr_matrix, sp.csc_matrix, np.asarray):
        adata = anndata.AnnData(
            kind(cells),
            obs=pd.DataFrame({"perturbation": tested * n}, index=[f"c{i}" for i in range(len(cells))]),
            var=pd.DataFrame(index=list(ds.genes)),
        )
        adata.write_h5ad(tmp_path / "f.h5ad")
        found.append(read(ds, split, tmp_path / "f.h5ad", kind="delta")[0])
    for other in found[1:]:
        for key, values in found[0].items():
            np.testing.assert_allclose(other[key], values, rtol=1e-6, atol=1e-7, err_msg=key)


@pytest.fixture
def one_context():
    ds = screen(grid_rows(["A", "B", "A+B"], ["all"], reps=4, controls=120), seed=1)
    return ds, split_one(ds, "perturbation_ood", {"holdout": ["A"]})


def test_the_only_context_need_not_be_named(one_context):
    ds, split = one_context
    tested = observed(ds, split).conditions["pert_id"].tolist()
    values = np.arange(len(tested) * 6).reshape(-1, 6) / 50 - 0.2
    for labels in ({}, {"context": "all"}, {"cell_type": "T cell"}):
        deltas, _ = read(ds, split, written(ds, values, perturbation=tested, **labels))
        np.testing.assert_allclose(deltas[f"all|{tested[-1]}|||"], values[-1], rtol=1e-6)
    with pytest.raises(PredictionError, match=r"unknown to the data set, e.g. .'A.B, T cell'"):
        read(
            ds,
            split,
            written(ds, values, perturbation=tested, cell_type="T cell"),
            columns=LabelColumns(context="cell_type"),
        )


@pytest.mark.parametrize(
    ("label", "other"),
    [("B+A", "A"), ("A+B+ctrl", "A+ctrl"), (" A+B ", "A")],
    ids=["order", "control", "spaces"],
)
def test_combinations_are_known_in_any_order(one_context, label, other):
    ds, split = one_context
    deltas, _ = read(ds, split, written(ds, [[0.5] * 6, [-0.5] * 6], perturbation=[label, other]))
    assert (deltas["all|A+B|||"] == 0.5).all()
    assert (deltas["all|A|||"] == -0.5).all()


def test_doses_tell_conditions_apart():
    rows = [("control", "x", {}) for _ in range(120)]
    rows += [("drug", "x", {"doses": d}) for d in ("0.1", "10") for _ in range(3)] + [
        ("other", "x", {"doses": "1"})
    ] * 3
    ds = screen(rows, seed=2)
    split = split_one(ds, "perturbation_ood", {"holdout": ["drug"]})
    values = np.asarray([[0.25] * 6, [-0.25] * 6])
    deltas, _ = read(ds, split, written(ds, values, perturbation=["drug"] * 2, dose=["10.0", "0.10"]))
    assert (deltas["x|drug||10|"] == 0.25).all()
    with pytest.raises(
        PredictionError,
        match=r"'drug' fits 2 conditions of the data set that differ in doses \('0.1', '10'\)",
    ):
        read(ds, split, written(ds, values, perturbation=["drug"] * 2, context="x"))
    # Numbers in single precision are written as imports write them.
    table = pd.DataFrame(values, columns=list(ds.genes))
    table.insert(0, "perturbation", "drug")
    for doses in (np.float32([10.0, 0.1]), pd.Categorical(np.float32([10.0, 0.1]))):
        table.assign(dose=doses).to_parquet("f.parquet")
        assert (read(ds, split, Path("f.parquet"))[0]["x|drug||0.1|"] == -0.25).all()
    # Another dose is another condition.
    with pytest.raises(PredictionError, match="lacks 3 of 6 test rows"):
        read(ds, split, written(ds, values, perturbation=["drug"] * 2, dose=["10", "0.3"]))


# ---- cells -------------------------------------------------------------------------------------------------------


@pytest.fixture
def batches():
    """A screen of two batches of unequal controls."""
    rng = np.random.default_rng(5)
    rows = [("control", "x", {"batch_id": b}) for b in "uv" for _ in range(120)]
    rows += [(p, "x", {"batch_id": b}) for p in ("A", "B", "C") for b in "uv" for _ in range(5)]
    X = rng.random((len(rows), 6)) + np.asarray([[3.0 * (r[2]["batch_id"] == "v")] for r in rows])
    ds = screen(rows, X=X)
    return ds, split_one(ds, "perturbation_ood", {"holdout": ["A", "B"]})


@pytest.mark.parametrize("kind", ["delta", "expression"])
def test_cells_are_those_of_the_data_whichever_the_kind(batches, kind):
    ds, split = batches
    rows = split.rows(ds, "test")
    X = np.asarray(ds.expression[rows])
    # In any order, with rows of train and with controls, which are left out.
    order = np.random.default_rng(0).permutation(ds.n_obs)
    values = np.asarray(ds.expression)[order] if kind == "expression" else ds.delta(order)
    np.savez("f.npz", mean=values, idx=order, genes=ds.genes)
    cells = cells_of(ds, split, Path("f.npz"), kind=kind)
    for key, code in (("x|A|||", 0), ("x|B|||", 1)):
        mine = X[ds.condition_codes[rows] == code]
        assert np.array_equal(np.sort(cells[key], axis=0), np.sort(mine, axis=0)) or kind == "delta"
        np.testing.assert_allclose(np.sort(cells[key], axis=0), np.sort(mine, axis=0), atol=1e-6)
    deltas, _ = read(ds, split, Path("f.npz"), kind=kind)
    np.testing.assert_allclose(
        deltas["x|A|||"], ds.delta(rows)[ds.condition_codes[rows] == 0].mean(axis=0), atol=1e-5
    )


def test_another_number_of_cells_sparse(batches):
    ds, split = batches
    rng = np.random.default_rng(3)
    X = sp.random_array((37, 6), density=0.5, rng=rng, format="csr", dtype=np.float32)
    X.data += 3
    pert = ["A"] * 30 + ["B"] * 7
    a = anndata.AnnData(
        X,
        obs=pd.DataFrame({"perturbation": pert}, index=[f"c{i}" for i in range(37)]),
        var=pd.DataFrame(index=list(ds.genes)),
    )
    a.write_h5ad("f.h5ad")
    cells = cells_of(ds, split, Path("f.h5ad"), kind="expression")
    assert {k: len(v) for k, v in cells.items()} == {"x|A|||": 30, "x|B|||": 7}
    assert np.array_equal(cells["x|B|||"], X.toarray()[30:])


def test_rows_that_do_not_differ_are_no_cells(batches):
    """A mean per condition, or per batch, repeated for its cells."""
    ds, split = batches
    rows = split.rows(ds, "test")
    code = ds.condition_codes[rows]
    batch = (ds.obs["batch_id"].astype(str).to_numpy() == "v")[rows]
    for mean in (code[:, None] - 0.5 + np.zeros(6), (code + 0.1 * batch)[:, None] - 0.5 + np.zeros(6)):
        np.savez("f.npz", mean=mean, idx=rows, genes=ds.genes)
        out = read_submission(ds, split, Path("f.npz"))
        assert out.prediction.cells is None
        assert compare(ds, split, out.prediction).cells.n_own == 0


def test_condition_level_data_average_the_rows_of_a_file():
    ds = screen(grid_rows(["A", "B", "C"], ["x"], reps=3, controls=4), level="condition", seed=4)
    split = split_one(ds, "perturbation_ood", {"holdout": ["A"]})
    values = np.random.default_rng(0).normal(size=(3, 6)) / 10
    deltas, out = read(ds, split, written(ds, values, perturbation=["A"] * 3))
    np.testing.assert_allclose(deltas["x|A|||"], values.mean(axis=0), rtol=1e-5)
    assert out.prediction.cells is None
    assert out.notes["rows_averaged"] == 3


# ---- variance ----------------------------------------------------------------------------------------------------


def test_variance_of_a_table_and_of_missing_conditions(batches):
    ds, split = batches
    a = anndata.AnnData(
        np.asarray([[-0.2] * 6, [0.3] * 6], dtype=np.float32),
        obs=pd.DataFrame({"perturbation": ["A", "Q"]}, index=["a", "q"]),
        var=pd.DataFrame(index=list(ds.genes)[::-1]),
    )
    a.layers["var"] = np.asarray([np.arange(6) + 1.0, np.full(6, np.nan)], dtype=np.float32)
    a.write_h5ad("f.h5ad")
    out = read_submission(ds, split, Path("f.h5ad"), missing="control")
    c = compare(ds, split, out.prediction)
    assert not c.var_filled
    np.testing.assert_allclose(c.predicted_var, np.tile(np.arange(6, 0, -1.0), (2, 1)))
    np.testing.assert_allclose(c.predicted, [[-0.2] * 6, [0.0] * 6], rtol=1e-6)
    assert out.notes["missing_as_control"] == out.notes["unknown_conditions"] == 1
    a.layers["var"] = -np.abs(np.nan_to_num(a.layers["var"]))
    a.write_h5ad("f.h5ad")
    with pytest.raises(PredictionError, match=r"negative variance in 1 conditions, e.g. .'x.A"):
        read_submission(ds, split, Path("f.h5ad"), missing="control")
    a.layers["var"] = np.full((2, 6), np.nan, dtype=np.float32)
    a.write_h5ad("f.h5ad")
    with pytest.raises(PredictionError, match=r"the variance of the prediction is NaN or infinite in 1 cond"):
        read_submission(ds, split, Path("f.h5ad"), missing="control")


def test_expression_that_declares_itself_is_not_compared_as_a_delta(batches):
    ds, split = batches
    rows = split.rows(ds, "test")
    np.savez("f.npz", mean=np.asarray(ds.expression[rows]), idx=rows, genes=ds.genes, kind=["expression"])
    from perturbfm_core.data.prediction import read_prediction

    with pytest.raises(PredictionError, match="prediction declares expression"):
        compare(ds, split, read_prediction(Path("f.npz")))
    assert read_submission(ds, split, Path("f.npz")).prediction.kind == "delta"
