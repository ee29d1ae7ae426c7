"""Scores do not depend on the order of genes, whatever ties there are."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.evaluation.metric import METRICS
from tests.support.degenerate_screen import plain, shuffled


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", METRICS.names())
def test_the_order_of_columns_never_matters(name: str, seed: int) -> None:
    before, after = plain().loc[name], shuffled(seed).loc[name]
    np.testing.assert_allclose(
        after["value"].to_numpy(float), before["value"].to_numpy(float), rtol=1e-5, atol=1e-6
    )
    assert after["status"].tolist() == before["status"].tolist()
    assert after["reason"].tolist() == before["reason"].tolist()
