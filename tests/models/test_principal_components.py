"""Leading principal components: the same by products of the shorter side as by singular values."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.models import principal_components as module
from perturbfm_core.models.principal_components import principal_components


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (50, 50)])
def test_both_ways_agree(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    X = rng.normal(size=shape) * np.linspace(3, 0.1, shape[1]) + 2.0
    exact = principal_components(X, 6)
    monkeypatch.setattr(module, "_SMALL", 1)
    found = principal_components(X, 6)
    assert found.mean == pytest.approx(exact.mean)
    assert found.variance == pytest.approx(exact.variance, rel=1e-9)
    assert found.axes == pytest.approx(exact.axes, abs=1e-8)
    assert found.axes @ found.axes.T == pytest.approx(np.eye(6), abs=1e-10)
    assert (found.axes.max(axis=1) >= -found.axes.min(axis=1)).all()
    assert found.scores(X).var(axis=0, ddof=1) == pytest.approx(found.variance)


def test_rows_that_are_all_equal_have_no_axis_of_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL", 1)
    found = principal_components(np.ones((30, 80)), 2)
    assert not found.variance.any()
    assert np.isfinite(found.axes).all()
