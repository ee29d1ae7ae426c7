"""Normalisation of counts by blocks of rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data.matrix import normalize_log1p


@pytest.mark.parametrize("rows", [0, 1, 8192, 8193])
def test_rows_of_every_block_are_scaled_by_their_own_total(rows: int) -> None:
    rng = np.random.default_rng(rows)
    counts = sp.csr_array(rng.integers(0, 3, size=(rows, 4)).astype(np.int32))
    total = counts.toarray().sum(axis=1, keepdims=True)
    expected = np.log1p(counts.toarray() / np.maximum(total, 1) * 100.0)
    np.testing.assert_allclose(normalize_log1p(counts, 100.0).toarray(), expected, rtol=1e-6)
