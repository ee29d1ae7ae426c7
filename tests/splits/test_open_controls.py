"""Rows whose batch has no controls, where other batches are held out: which controls a fit subtracts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.audit.own import fit_records
from perturbfm_core.splits.audit.run import RunEvidence
from perturbfm_core.splits.view import train_view
from tests.support.factories import screen, split_one


def _without_controls_in(*batches: str) -> PerturbDataset:
    """Return a screen of three batches, some of which have no control row."""
    rows: list[Any] = []
    for batch in ("b0", "b1", "b2"):
        controls = [] if batch in batches else ["control"] * 3
        rows += [(p, "x", {"batch_id": batch}) for p in [*controls, *"ABCDEF"]]
    return screen(rows)


@pytest.mark.parametrize("transductive", [False, True])
def test_rows_without_own_controls_are_matched_to_those_of_open_batches(*, transductive: bool) -> None:
    ds = _without_controls_in("b2")
    split = split_one(ds, "batch_ood", {"holdout": ["b0"]}, transductive=transductive)
    view = train_view(ds, split)
    X, batch = np.asarray(ds.expression), ds.obs[schema.BATCH_ID].astype(str).to_numpy()
    pert = ds.obs[schema.PERT_ID].astype(str).to_numpy()
    fallback = ds.is_control if transductive else ds.is_control & (batch == "b1")
    own = X[ds.is_control & (batch == "b1")].mean(axis=0)
    for key, delta in zip(view.conditions[schema.PERT_ID].astype(str), view.delta, strict=True):
        first, second = (X[(pert == key) & (batch == b)].mean(axis=0) for b in ("b1", "b2"))
        assert np.allclose(delta, (first - own + second - X[fallback].mean(axis=0)) / 2, atol=1e-6)
    run = RunEvidence(fit_records(ds, split, view, "ridge"))
    assert [f.name for f in audit(ds, split, run) if f.severity == "blocking"] == []


def test_rows_that_have_none_but_held_out_controls_are_refused() -> None:
    ds = _without_controls_in("b1", "b2")
    split = split_one(ds, "batch_ood", {"holdout": ["b0"]})
    with pytest.raises(SplitError, match=r"batch 'b1' of train has no control row.*--transductive"):
        train_view(ds, split)
    assert len(train_view(ds, split_one(ds, "batch_ood", {"holdout": ["b1"]}))) == 6
