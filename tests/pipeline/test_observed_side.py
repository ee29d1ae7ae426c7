"""The observed side of a split that is kept for the next entry: of the same rows in the same order only."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.pipeline import metric_panel
from perturbfm_core.pipeline.metric_panel import observed_side
from tests.support.factories import screen, split_one


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_panel, "_OBSERVED", {})


def test_it_is_kept_for_the_same_data_and_made_anew_for_another_order_of_rows() -> None:
    rows = [(p, "k", {"modality": "CRISPRi"}) for p in ("P0", "P1", "P2", "P3") for _ in range(5)] + [
        ("control", "k")
    ] * 8
    X = np.random.default_rng(3).random((len(rows), 6)).astype(np.float32)
    ds = screen(rows, X=X, row_ids=[f"c{i}" for i in range(len(rows))], space="log1p")
    split = split_one(ds, "perturbation_ood", folds=2, fold=0)
    first = observed_side(ds, split)
    assert observed_side(ds, split) is first
    for seed in (0, 1):
        order = np.random.default_rng(seed).permutation(ds.n_obs)
        other = screen([rows[i] for i in order], X=X[order], row_ids=[f"c{i}" for i in order], space="log1p")
        assert other.content_sha256 == ds.content_sha256
        mine = observed_side(other, split)
        assert set(other.row_ids[mine.rows]) == set(ds.row_ids[first.rows])
        assert set(ds.row_ids[first.rows]) != set(other.row_ids[first.rows])
        np.testing.assert_array_equal(mine.observed, first.observed)
