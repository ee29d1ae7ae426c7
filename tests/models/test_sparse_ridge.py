"""Ridge regression on indicator columns: as scikit-learn's on the dense matrix, and as found by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from perturbfm_core.models.baselines import sparse_ridge
from perturbfm_core.models.baselines.effects import distinct_rows
from perturbfm_core.models.baselines.sparse_ridge import Columns, fit_ridge
from tests.support.factories import view_of


def columns(kind: str, seed: int) -> Columns:
    """Return columns of 60 rows: genes perturbed alone, in pairs that chain, or in pairs of one hub; with dense ones."""
    rng = np.random.default_rng(seed)
    n, p = 60, 18
    M = np.zeros((n, p))
    M[np.arange(n), rng.integers(0, p, n)] = 1.0
    if kind == "pairs":
        pairs = rng.integers(0, 6, (20, 2)) + rng.choice([0, 6], (20, 1))
        for i, pair in enumerate(pairs):
            M[i, pair] = rng.random(2)
    if kind == "hub":
        M[:30, 0] = rng.random(30)
    if kind == "no columns":
        M = M[:, :0]
    dense = rng.normal(2.0, 1.0, (n, 0 if kind == "no dense" else 3))
    if kind == "constant":
        dense[:, 1] = 7.0
    return Columns(sp.csr_array(M), dense)


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("kind", ["singles", "pairs", "hub", "no columns", "no dense", "constant"])
def test_it_is_ridge_regression(kind: str, penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_ridge, "_BLOCK", 4)
    x = columns(kind, 3)
    Y = np.random.default_rng(4).normal(1.0, 1.0, (60, 11))
    coef, intercept = fit_ridge(x, Y, penalty)
    dense = np.column_stack([x.sparse.toarray(), x.dense])
    if not dense.shape[1]:
        assert intercept == pytest.approx(Y.mean(axis=0))
        return
    expected = Ridge(alpha=penalty).fit(dense, Y)
    assert coef == pytest.approx(expected.coef_.T, rel=1e-5, abs=1e-7)
    assert x.product(coef, intercept) == pytest.approx(expected.predict(dense), rel=1e-6, abs=1e-6)


def test_by_hand() -> None:
    """One gene, two conditions: with penalty 1 the effect 3 - 1 shrinks by a third, and the mean is kept."""
    x = Columns(sp.csr_array([[0.0], [1.0]]), np.zeros((2, 0)))
    coef, intercept = fit_ridge(x, np.asarray([[1.0], [3.0]]), 1.0)
    # Centred columns are -1/2 and 1/2: 2 * (1/2) / (1/2 + 1).
    assert coef == pytest.approx(np.asarray([[2 / 3]]))
    assert intercept == pytest.approx([2.0 - 1 / 3])


@pytest.mark.parametrize("kind", ["singles", "pairs", "no dense"])
def test_a_part_of_a_view_is_fitted_as_its_deltas(kind: str) -> None:
    x = columns(kind, 5)
    Y = np.random.default_rng(6).normal(size=(90, 1_100)).astype(np.float32)
    view = view_of([("c", f"P{i}") for i in range(90)], Y)
    mask = np.arange(90) % 3 > 0
    part = view.subset(mask)
    for found, expected in zip(fit_ridge(x, part, 1.0), fit_ridge(x, Y[mask], 1.0), strict=True):
        np.testing.assert_array_equal(found, expected)
    # Its deltas were never copied as a whole.
    assert "delta" not in vars(part)


def test_rows_that_are_equal_are_found_once() -> None:
    A = np.asarray([[1, 2], [3, 4], [1, 2], [1, 2.5]], dtype=np.float32)
    rows, which = distinct_rows(A)
    assert len(rows) == 3
    assert np.array_equal(rows[which], A)
