"""Intervals as part of a prediction: what is valid, what is written, and how they are aligned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import (
    OutOfFold,
    Prediction,
    RowPrediction,
    read_prediction,
    write_prediction,
)
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import compare, observed
from tests.support.factories import conditions_of, prediction_of, screen, split_one

LEVELS = np.asarray([0.5, 0.9])


def intervals(rows: int = 3, **fields: Any) -> Intervals:
    """Return intervals of 2 levels, some rows, 2 bins and 4 genes, every factor different."""
    factor = np.arange(2 * rows * 2, dtype=np.float32).reshape(2, rows, 2)
    given: dict[str, Any] = {
        "levels": LEVELS,
        "factor": factor,
        "gene_bin": np.asarray([0, 1, 1, 0], dtype=np.int16),
    }
    return Intervals(**{**given, **fields})


def rows_of(**fields: Any) -> RowPrediction:
    given = {
        "mean": np.zeros((3, 4)),
        "var": np.full((3, 4), 4.0),
        "idx": np.arange(3),
        "intervals": intervals(),
    }
    return RowPrediction(**{**given, **fields})  # type: ignore[arg-type]


def test_the_half_width_is_the_factor_of_the_genes_bin_times_the_standard_deviation() -> None:
    found = intervals().half_width(1, np.full((3, 4), 4.0))
    assert found.tolist() == [[12, 14, 14, 12], [16, 18, 18, 16], [20, 22, 22, 20]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"levels": np.asarray([0.5, 1.0])}, "between 0 and 1", id="level 1"),
        pytest.param({"levels": np.asarray([0.5])}, r"must be \[1 levels, rows, bins\]", id="too few levels"),
        pytest.param({"gene_bin": np.asarray([0, 1, 2, 0])}, "outside the 2 bins", id="unknown bin"),
        pytest.param({"gene_bin": np.zeros(4)}, "must be int16", id="bins no integers"),
        pytest.param({"factor": np.full((2, 3, 2), -1.0)}, "negative or infinite", id="negative"),
        pytest.param({"factor": np.full((2, 3, 2), np.inf)}, "negative or infinite", id="infinite"),
        pytest.param({"flag": np.zeros(2, dtype=bool)}, "each of 3 rows", id="flag"),
        pytest.param({"effective": np.zeros(4)}, "each of 3 rows", id="effective"),
    ],
)
def test_malformed_intervals_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        intervals(**fields)


def test_intervals_must_fit_the_prediction() -> None:
    with pytest.raises(PredictionError, match="intervals are of 2 rows and 4 genes"):
        rows_of(intervals=intervals(2))
    with pytest.raises(PredictionError, match="intervals are of 3 rows and 2 genes"):
        rows_of(intervals=intervals(gene_bin=np.asarray([0, 1])))


def test_a_prediction_file_keeps_intervals(tmp_path: Path) -> None:
    given = intervals(flag=np.asarray([True, False, False]), effective=np.asarray([1.5, 30, 40]))
    write_prediction(rows_of(intervals=given), tmp_path / "p.npz")
    found = read_prediction(tmp_path / "p.npz").intervals
    assert found is not None
    for name in ("levels", "factor", "gene_bin", "flag", "effective"):
        assert np.array_equal(getattr(found, name), getattr(given, name)), name
    assert (found.levels.dtype, found.factor.dtype, found.gene_bin.dtype) == (
        np.float64,
        np.float32,
        np.int16,
    )


def test_a_prediction_file_without_intervals_is_read(tmp_path: Path) -> None:
    write_prediction(rows_of(intervals=None), tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as file:
        assert not {"interval_levels", "interval_factor", "gene_bin"} & set(file)
    assert read_prediction(tmp_path / "p.npz").intervals is None


@pytest.mark.parametrize("missing", ["interval_levels", "interval_factor", "gene_bin"])
def test_half_an_interval_is_refused(tmp_path: Path, missing: str) -> None:
    write_prediction(rows_of(), tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as file:
        arrays = {k: file[k] for k in file if k != missing}
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(PredictionError, match="intervals need interval_levels, interval_factor, gene_bin"):
        read_prediction(tmp_path / "p.npz")


def test_a_comparison_has_intervals_in_its_own_order_of_conditions_and_genes() -> None:
    ds = screen([("control", "c")] * 4 + [(p, "c") for p in "ABCDEF"], genes=4)
    split = split_one(ds, "perturbation_ood", {}, folds=3, fold=0)
    truth = observed(ds, split)
    n = len(truth.conditions)
    given = prediction_of(ds, split, dict(zip(truth.conditions.index, truth.observed, strict=True)))
    made = intervals(n, effective=np.arange(n) + 1.0, flag=np.arange(n) == 0)
    plain = compare(ds, split, replace(given, intervals=made), truth).intervals
    genes, rows = np.asarray([2, 0, 3, 1]), np.arange(n)[::-1]
    moved = RowPrediction(
        mean=given.mean[rows][:, genes],
        var=given.var[rows][:, genes],
        idx=given.idx[rows],
        genes=given.genes[genes],  # type: ignore[index]
        row_id=given.row_id[rows],  # type: ignore[index]
        intervals=replace(made.rows(rows), gene_bin=made.gene_bin[genes]),
    )
    found = compare(ds, split, moved, truth).intervals
    assert plain is not None
    assert found is not None
    for name in ("levels", "factor", "gene_bin", "flag", "effective"):
        assert np.array_equal(getattr(found, name), getattr(plain, name)), name
    assert np.array_equal(plain.factor, made.factor)


def test_rows_of_one_condition_have_the_mean_of_their_factors() -> None:
    rows = [("control", "c")] * 4 + [("A", "c"), ("A", "c"), ("B", "c"), ("C", "c"), ("D", "c")]
    ds = screen(rows, genes=4)
    split = split_one(ds, "explicit", {"folds": {"test": ["A"]}}, validation="none", calibration="none")
    zeros = np.zeros((2, 4), dtype=np.float32)
    given = RowPrediction(mean=zeros, var=zeros + 1, idx=split.rows(ds, "test"), intervals=intervals(2))
    found = compare(ds, split, given).intervals
    assert found is not None
    assert np.array_equal(found.factor, intervals(2).factor.mean(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"truth": np.zeros((2, 5))}, "truth, mean and var must be", id="genes"),
        pytest.param({"units": [("a",)]}, "1 units and 2 folds for 2 conditions", id="units"),
        pytest.param({"fold": np.asarray([0, 1])}, "fold must point into the 1 entries", id="folds"),
    ],
)
def test_malformed_out_of_fold_predictions_are_refused(fields: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "conditions": conditions_of([("c", "A"), ("c", "B")]),
        "truth": np.zeros((2, 4)),
        "prediction": Prediction(np.zeros((2, 4)), np.ones((2, 4))),
        "units": [("A",), ("B",)],
        "fold": np.zeros(2, dtype=np.int64),
        "source": "out_of_fold",
        "fitted": (frozenset(),),
    }
    with pytest.raises(PredictionError, match=message):
        OutOfFold(**{**given, **fields})
