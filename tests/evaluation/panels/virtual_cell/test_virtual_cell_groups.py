"""Groups of cells of the panel `virtual_cell`: sparse and dense, in and out of order, equal groups."""

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.virtual_cell import differential as module
from perturbfm_core.evaluation.panels.virtual_cell.differential import differential_expression
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.panels.virtual_cell.profiles import ControlCells

ATTRIBUTES = ("statistic", "p", "fdr", "lfc", "target_mean", "mean")


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(4)
    X = np.where(rng.random((90, 25)) < 0.3, rng.gamma(2.0, 1.0, (90, 25)), 0.0).astype(np.float32)
    X[:, 3] = 0.0
    X[20:25, 6] = -1.5
    X[:, 8] = np.round(X[:, 8])
    return X


ROWS = {
    "in order": [np.arange(40, 60), np.arange(60, 61), np.arange(61, 90)],
    "out of order": [np.arange(59, 39, -1), np.asarray([60]), np.arange(61, 90)[::2]],
    "repeated": [np.asarray([41, 41, 42]), np.arange(60, 70), np.asarray([5, 6, 8])],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_sparse_dense_and_blocks_give_the_same(monkeypatch, cells, rows, block):
    monkeypatch.setattr(module, "_BLOCK_VALUES", block)
    found = [
        differential_expression(CellGroups.of_rows(X, rows), ControlCells(X[:40]).ranked)
        for X in (cells, sp.csr_array(cells))
    ]
    stored = sp.csr_array(cells)
    # A stored zero is a zero, and the data set keeps it.
    stored.data[::5] = 0.0
    kept = stored.copy()
    zeros = differential_expression(CellGroups.of_rows(stored, rows), ControlCells(stored[:40]).ranked)
    dense = stored.toarray()
    found += [
        zeros,
        differential_expression(CellGroups.of_rows(dense, rows), ControlCells(dense[:40]).ranked),
    ]
    for a, b in (found[:2], found[2:]):
        for name in ATTRIBUTES:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert stored.nnz == kept.nnz


def test_equal_groups_are_compared_once(cells):
    sizes = np.asarray([3, 20, 3, 7, 20])
    control = ControlCells(cells[:40]).ranked

    def of(sizes):
        return CellGroups(sizes, 25, lambda i: np.repeat(cells[50][None], sizes[i], axis=0))

    distinct, place = np.unique(sizes, return_inverse=True)
    once, each = (
        differential_expression(of(distinct), control).take(place),
        differential_expression(of(sizes), control),
    )
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(getattr(once, name), getattr(each, name))
    np.testing.assert_array_equal(once.rank, each.rank)
