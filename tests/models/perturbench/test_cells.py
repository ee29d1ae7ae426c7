"""Cells that PerturBench's networks train on, and the controls they are paired with."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata, Normalization
from perturbfm_core.data.obs import make_obs
from perturbfm_core.errors import SplitError
from perturbfm_core.models.base import new_model
from perturbfm_core.models.perturbench.controls import control_spread, has_cells
from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.models.perturbench.pairs import CellPairs, ConditionPairs
from perturbfm_core.models.perturbench.predicting import Predictor
from perturbfm_core.splits.view import TrainView, train_view
from tests.support.factories import grid_rows, query_of, screen, split_one
from tests.support.perturbench_networks import BASE, GENES, NETWORKS, world


def all_but_t(ds: PerturbDataset) -> TrainView:
    """Return the train view of a split that tests the perturbation T."""
    return train_view(ds, split_one(ds, "explicit", {"folds": {"test": ["T"]}}, val_frac=0))


# ---- cells and their controls ----------------------------------------------------------------------------------


def batches(values: object = None) -> PerturbDataset:
    """Return a data set of two contexts and two batches, whose expression is the number of its row."""
    obs = [
        (p, c, b)
        for c in ("x", "y")
        for b in ("b0", "b1")
        for p in (schema.CONTROL, schema.CONTROL, "A", "B")
        if (p, c, b) != (schema.CONTROL, "y", "b1")
    ] + [("T", "x", "b0")]
    columns = dict(
        zip((schema.PERT_ID, schema.CONTEXT_ID, schema.BATCH_ID), zip(*obs, strict=True), strict=True)
    )
    X = np.repeat(np.arange(len(obs), dtype=np.float32)[:, None], 3, axis=1) if values is None else values
    meta = DatasetMetadata(name="batches")
    return PerturbDataset(
        make_obs({k: list(v) for k, v in columns.items()}, [f"r{i}" for i in range(len(obs))]),
        ["g0", "g1", "g2"],
        Values(expression=X),
        meta,
    )


def test_a_cell_is_paired_with_controls_of_its_batch_else_of_its_context() -> None:
    ds = batches()
    view = all_but_t(ds)
    pairs = CellPairs(view, None, 0)
    assert len(pairs) == 8
    batch, context = ds.obs[schema.BATCH_ID].astype(str), ds.obs[schema.CONTEXT_ID].astype(str)
    drawn: dict[int, set[int]] = {}
    torch.manual_seed(0)
    for _ in range(40):
        cells, controls = pairs.read(np.arange(len(pairs)))
        for i, (cell, control) in enumerate(zip(cells[:, 0], controls[:, 0], strict=True)):
            key = ds.conditions.index[ds.condition_codes[int(cell)]]
            assert view.conditions.index[pairs.condition[i]] == key
            drawn.setdefault(int(cell), set()).add(int(control))
    for cell, controls in drawn.items():
        same = ds.is_control & (context == context.iloc[cell]).to_numpy()
        if (context.iloc[cell], batch.iloc[cell]) != ("y", "b1"):
            same &= (batch == batch.iloc[cell]).to_numpy()
        # Every control of the pool is drawn at some time, none of another.
        assert controls == set(np.flatnonzero(same))


def test_a_subset_draws_no_control_of_a_context_that_it_lacks() -> None:
    _, view = world()
    part = view.subset((view.conditions[schema.CONTEXT_ID] == "x").to_numpy())
    pairs = CellPairs(part, None, 0)
    _, controls = pairs.read(np.arange(len(pairs)))
    np.testing.assert_allclose(controls.mean(axis=0), BASE["x"], atol=0.1)
    assert set(control_spread(part, 5, 0)) == {"x"}
    with pytest.raises(SplitError, match="must not read"):
        part.expression(np.flatnonzero(view.fit_rows & ~part.fit_rows))


def test_a_cap_draws_cells_once_and_by_the_seed() -> None:
    _, view = world()
    first, again, other = (CellPairs(view, 50, seed) for seed in (1, 1, 2))
    assert len(first) == 50
    np.testing.assert_array_equal(first.condition, again.condition)
    assert not np.array_equal(first.condition, other.condition)


def test_sparse_counts_are_read_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = grid_rows(["A", "B", "A+B", "T"], ["x", "y"], reps=20, controls=12)
    rng = np.random.default_rng(3)
    columns = {schema.PERT_ID: [r[0] for r in rows], schema.CONTEXT_ID: [r[1] for r in rows]}
    counts = sp.csr_matrix(rng.poisson(0.5, size=(len(rows), 8)).astype(np.float32))
    meta = DatasetMetadata(name="counts", space="counts", normalization=Normalization(target_sum=10.0))
    ds = PerturbDataset(
        make_obs(columns, [f"r{i}" for i in range(len(rows))]),
        [f"g{i}" for i in range(8)],
        Values(counts=counts),
        meta,
    )
    view = all_but_t(ds)
    made: list[int] = []
    dense = sp.csr_matrix.toarray
    kind = type(ds.expression)
    monkeypatch.setattr(kind, "toarray", lambda m, *a, **k: made.append(m.shape[0]) or dense(m, *a, **k))
    for name in NETWORKS:
        new_model(name, {"epochs": 1, "batch_size": 10, "control_cells": 8}).fit(view, 0)
    assert made
    assert max(made) <= 10


def test_means_of_conditions_are_used_without_cells() -> None:
    ds = screen([(p, "x") for p in (schema.CONTROL, "A", "B", "T")], level="condition")
    view = all_but_t(ds)
    assert not has_cells(view)
    assert has_cells(world()[1])
    model = new_model("latent_additive", {"epochs": 2})
    model.fit(view, 0)
    assert model.training["training"]["on"] == "conditions"
    perturbed, control = ConditionPairs(view).read(np.asarray([1, 0]))
    np.testing.assert_allclose(perturbed, ds.expression[[2, 1]], atol=1e-6)
    np.testing.assert_allclose(control, ds.expression[[0, 0]], atol=1e-6)


def test_a_prediction_is_the_mean_over_control_cells() -> None:
    class Square(torch.nn.Module):
        def forward(self, control: torch.Tensor, p: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return control**2 + p[:, :1]

    query = query_of(
        [("x", "A"), ("z", "A"), ("y", "B"), ("x", "B")], 1, control=[[2.0], [2.0], [1.0], [0.0]]
    )
    spread = {"x": np.asarray([[-1.0], [1.0]], np.float32), "y": np.asarray([[-3.0], [3.0]], np.float32)}
    predictor = Predictor(Design(("A|",)), spread, torch.device("cpu"))
    # Mean square = mean^2 + variance: 1 in x, 9 in y; z has every other cell of x and y (-1, -3), less their mean.
    expected = [[4 + 1 + 1 - 2], [4 + 1 + 1 - 2], [1 + 9 - 1], [0 + 1 - 0]]
    np.testing.assert_allclose(predictor.delta(Square(), query), expected, atol=1e-6)
    plain = Predictor(Design(("A|",)), {}, torch.device("cpu"))
    np.testing.assert_allclose(plain.delta(Square(), query), [[3.0], [3.0], [0.0], [0.0]], atol=1e-6)


def test_control_cells_are_centred_and_few() -> None:
    for name, cells in control_spread(world()[1], 16, 0).items():
        assert name in ("x", "y")
        assert cells.shape == (16, GENES)
        np.testing.assert_allclose(cells.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(cells.std(), 0.3, atol=0.05)
