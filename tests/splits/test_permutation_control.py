"""The permutation control: models fitted on shuffled labels, honest ones and ones that know the test cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.audit.permutation import permutation_control
from perturbfm_core.splits.view import query, train_view
from tests.support.audit_screen import CELLS, CONTEXT


def _fit_predict(name: str) -> Callable[..., Any]:
    def run(view: Any, requested: Any, seed: int) -> Any:
        model = new_model(name, {})
        model.fit(view, seed)
        return model.predict(requested).mean

    return run


def _view_query_and_truth() -> tuple[Any, Any, Any]:
    table = condition_table(CELLS, CONTEXT.rows(CELLS, "test"))
    return train_view(CELLS, CONTEXT), query(CELLS, table), table.delta["reference"]


@pytest.mark.parametrize("name", ["global_mean", "per_perturbation_mean", "additive", "linear"])
def test_shuffled_labels_do_not_beat_the_floor(name: str) -> None:
    control = permutation_control(*_view_query_and_truth(), _fit_predict(name), n=6)
    assert control.ok
    assert len(control.shuffled) == 6
    if name == "per_perturbation_mean":
        assert control.true > control.floor + 0.1


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_an_entry_that_knows_the_test_cells_beats_the_floor_with_shuffled_labels(share: float) -> None:
    view, requested, truth = _view_query_and_truth()
    honest = _fit_predict("per_perturbation_mean")

    def cheat(v: Any, q: Any, seed: int) -> Any:
        return share * truth + (1 - share) * honest(v, q, seed)

    control = permutation_control(view, requested, truth, cheat, n=6)
    assert [f.name for f in control.findings] == ["permutation_control"]
    assert np.mean(control.shuffled) > control.floor


def test_an_entry_that_memorised_the_test_names_beats_the_floor() -> None:
    view, requested, truth = _view_query_and_truth()
    known = dict(zip(requested.conditions.index, truth, strict=True))

    def memorised(v: Any, q: Any, seed: int) -> Any:
        return np.asarray([known[k] for k in q.conditions.index]) + v.delta.mean(axis=0)

    assert not permutation_control(view, requested, truth, memorised, n=4).ok


def test_too_few_conditions_cannot_be_shuffled() -> None:
    view, requested, truth = _view_query_and_truth()
    small = replace(view.subset(np.arange(len(view)) < 2), inner=[])
    with pytest.raises(SplitError, match="at least 3 train conditions, found 2; use a larger split"):
        permutation_control(small, requested, truth, _fit_predict("global_mean"))
