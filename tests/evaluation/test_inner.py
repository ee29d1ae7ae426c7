"""Scores on inner folds, by hand."""

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.evaluation.inner import inner_scores


def residuals(truth, mean, source="out_of_fold"):
    n = len(truth)
    return OutOfFold(
        conditions=pd.DataFrame(index=[f"k{i}" for i in range(n)]),
        truth=np.asarray(truth, dtype=np.float32),
        prediction=Prediction(mean=np.asarray(mean, dtype=np.float32), var=np.ones((n, 3), dtype=np.float32)),
        units=[(str(i),) for i in range(n)],
        fold=np.zeros(n, dtype=np.int64),
        source=source,
        unit="perturbation",
        fitted=(frozenset(),),
    )


def test_the_mean_over_conditions_as_they_are_and_centred():
    center = np.asarray([1.0, 0.0, 0.0])
    truth = [[1, 2, 3], [2, 1, 0]]
    mean = [[2, 4, 6], [0, 1, 2]]
    found = inner_scores(residuals(truth, mean), center)
    assert found["pearson"] == pytest.approx(0.0)
    centred = [
        np.corrcoef(np.subtract(a, center), np.subtract(b, center))[0, 1]
        for a, b in zip(truth, mean, strict=True)
    ]
    assert found["pearson_centered"] == pytest.approx(np.mean(centred))


def test_a_constant_prediction_counts_as_no_correlation():
    found = inner_scores(residuals([[1, 2, 3], [1, 2, 3]], [[0, 0, 0], [1, 2, 3]]), np.zeros(3))
    assert found == pytest.approx({"pearson": 0.5, "pearson_centered": 0.5})


def test_only_inner_folds_count():
    assert inner_scores(None, np.zeros(3)) == {}
    assert inner_scores(residuals([[1, 2, 3]], [[1, 2, 3]], "calibration_fold"), np.zeros(3)) == {}
