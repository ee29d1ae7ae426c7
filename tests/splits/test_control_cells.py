"""Control cells of a query: of the input role, of its contexts, read when they are asked for, and on record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.errors import SplitError
from perturbfm_core.models.similarity import take
from perturbfm_core.pipeline.prediction import query_of_test
from perturbfm_core.splits import control_cells
from perturbfm_core.splits.audit.own import query_reads
from perturbfm_core.splits.audit.records import QUERY_FIELDS
from perturbfm_core.splits.view import train_view
from tests.support.factories import grid_rows, screen, simulated, split_one

KINDS = {
    "context": ("context_ood", {"holdout": ["C0"]}, {}),
    "genes": ("perturbation_ood", {}, {"folds": 3, "fold": 1}),
    "rows": ("iid", {}, {}),
    "batch": ("batch_ood", {"holdout": ["B1"]}, {}),
}


def dense(X):
    return X.toarray() if hasattr(X, "toarray") else np.asarray(X)


def world(kind: str):
    ds = simulated(n_obs=900, n_genes=20, n_contexts=3, n_perts=6, n_combos=3, n_batches=2)
    name, params, spec = KINDS[kind]
    if kind == "batch":
        params = {"holdout": [str(ds.obs["batch_id"].astype(str).unique()[0])]}
    return ds, split_one(ds, name, params, **spec)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_of_the_reference_role_are_never_reached(kind):
    ds, split = world(kind)
    query = query_of_test(ds, split)
    view = train_view(ds, split)
    hidden = set(split.rows(ds, "test", "calib", "unused"))
    for asked in (query, view.query(), view.subset(np.arange(len(view)) % 2 == 0).query()):
        for context in asked.cells.contexts:
            rows = asked.cells.rows(context)
            assert len(rows)
            assert ds.controls.has_role("input")[rows].all()
            assert ds.is_control[rows].all()
            assert not set(rows) & hidden
            assert (ds.obs["context_id"].astype(str).to_numpy()[rows] == context).all()
            np.testing.assert_array_equal(dense(asked.control_cells(context)), dense(ds.expression[rows]))
        assert set(asked.cells.contexts) == set(asked.conditions["context_id"].astype(str))
        assert set(asked.cells.rows()) == {int(r) for c in asked.cells.contexts for r in asked.cells.rows(c)}
        with pytest.raises(SplitError, match="has no conditions of context 'elsewhere'"):
            asked.control_cells("elsewhere")
    # A train view reads no controls that it may not read as rows either.
    allowed = set(np.flatnonzero(view.allowed_rows))
    assert set(view.query().cells.rows()) <= allowed


def test_cells_are_read_when_they_are_asked_for_and_then_on_record(monkeypatch):
    ds, split = world("context")
    calls = []
    taken = control_cells.take_rows
    monkeypatch.setattr(control_cells, "take_rows", lambda X, rows: calls.append(len(rows)) or taken(X, rows))
    query = query_of_test(ds, split)
    some = take(query, slice(0, 2))
    assert not calls
    assert query_reads(query) == ("conditions", "genes", "control")
    some.control_cells("C0")
    assert calls == [len(query.cells.rows("C0"))]
    assert query_reads(some) == query_reads(query) == ("conditions", "genes", "control", "control_cells")
    assert set(query_reads(query)) <= QUERY_FIELDS


def test_data_without_single_control_cells_has_none():
    ds = screen(grid_rows(["A", "B", "C"], ["x", "y"], controls=0, reps=2), space="delta")
    query = query_of_test(ds, split_one(ds, "context_ood", {"holdout": ["x"]}))
    assert query.cells is None
    with pytest.raises(SplitError, match="has no control cells"):
        query.control_cells("x")
    whole, split = world("genes")
    with pytest.raises(SplitError, match="has no control cells"):
        replace(query_of_test(whole, split), cells=None).control_cells("C0")
