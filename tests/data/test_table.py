"""The condition table against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data import pseudobulk
from perturbfm_core.data import table as table_module
from perturbfm_core.data.controls import ROLES
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.pseudobulk import SHRINK_CELLS, group_moments, group_sums, shrink_variance
from perturbfm_core.data.table import ConditionTable, condition_table

Make = Callable[..., PerturbDataset]
DELTA = {"space": "delta", "control_policy": "none", "level": "condition"}


def dense(ds: PerturbDataset) -> np.ndarray:
    X = ds.expression
    return np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float64)


def pools_of(ds: PerturbDataset, role: str) -> list[np.ndarray]:
    """Return the control rows that match each row: those of its context and batch, else of its context."""
    context, batch = (ds.obs[c].astype(str).to_numpy() for c in ("context_id", "batch_id"))
    mine = ds.controls.has_role(role)
    known: dict[tuple[str, str], np.ndarray] = {}
    for c, b in set(zip(context, batch, strict=True)):
        near = mine & (context == c) & (batch == b)
        known[c, b] = np.flatnonzero(near if near.any() else mine & (context == c))
    return [known[pair] for pair in zip(context, batch, strict=True)]


def check_against_numpy(ds: PerturbDataset, table: ConditionTable, rows: np.ndarray) -> None:
    """Compare every part of a condition table of cells with its definition, condition by condition."""
    X = dense(ds)
    keys = ds.conditions.index.to_numpy()
    members = {k: rows[ds.condition_codes[rows] == list(keys).index(k)] for k in table.conditions.index}
    assert all(len(m) for m in members.values())
    assert sum(len(m) for m in members.values()) == (ds.condition_codes[rows] >= 0).sum()
    context = table.conditions["context_id"].to_numpy()
    dof = np.array([len(m) - 1 for m in members.values()], dtype=np.float64)[:, None]
    own = np.stack(
        [X[m].var(axis=0, ddof=1) if len(m) > 1 else np.zeros(ds.n_genes) for m in members.values()]
    )
    pools = {role: pools_of(ds, role) for role in ROLES}
    for i, (key, mine) in enumerate(members.items()):
        assert table.n[i] == len(mine)
        same = context == context[i]
        pooled = (own * dof)[same].sum(axis=0) / dof[same].sum()
        s2 = (own[i] * dof[i] + SHRINK_CELLS * pooled) / (dof[i] + SHRINK_CELLS) / len(mine)
        np.testing.assert_allclose(table.s2_pert[i], s2, rtol=2e-4, atol=1e-7, err_msg=key)
        for role in ROLES:
            matched = [pools[role][row] for row in mine]
            control = np.mean([X[p].mean(axis=0) for p in matched], axis=0)
            np.testing.assert_allclose(table.control[role][i], control, rtol=1e-5, atol=1e-6, err_msg=key)
            delta = X[mine].mean(axis=0) - control
            np.testing.assert_allclose(table.delta[role][i], delta, rtol=1e-4, atol=2e-6, err_msg=key)
            share: dict[bytes, list[np.ndarray]] = {}
            for p in matched:
                share.setdefault(p.tobytes(), []).append(p)
            s2_control = sum(
                (len(ps) / len(mine)) ** 2 * X[ps[0]].var(axis=0, ddof=1) / len(ps[0])
                for ps in share.values()
            )
            np.testing.assert_allclose(
                table.s2_control[role][i], s2_control, rtol=2e-4, atol=1e-7, err_msg=key
            )


# ---- cells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["counts", "csr", "dense"])
def test_table_of_cells(synth: PerturbDataset, make_dataset: Make, form: str) -> None:
    ds = synth
    if form != "counts":
        labels = {c: ds.obs[c].array for c in ("pert_id", "context_id", "batch_id", "modality")}
        X = ds.expression.toarray() if form == "dense" else ds.expression
        ds = make_dataset(X, **labels, row_ids=list(ds.obs.index))
    table = condition_table(ds)
    assert len(table) == len(ds.conditions) == 3 * (8 + 4)
    assert table.s2_source == "cells"
    assert table.fallback_rows == 0
    check_against_numpy(ds, table, np.arange(ds.n_obs))


def test_table_of_some_rows(synth: PerturbDataset, rng: np.random.Generator) -> None:
    rows = rng.permutation(synth.n_obs)[:400]
    table = condition_table(synth, rows)
    assert (table.n < condition_table(synth).n[: len(table)]).any()
    check_against_numpy(synth, table, rows)


def test_table_with_shared_controls(synth_shared: PerturbDataset) -> None:
    table = condition_table(synth_shared)
    assert np.array_equal(table.delta["input"], table.delta["reference"])
    check_against_numpy(synth_shared, table, np.arange(synth_shared.n_obs))


def test_table_with_fallback(make_dataset: Make, rng: np.random.Generator) -> None:
    X = rng.random((12, 5)).astype(np.float32)
    labels = ["control"] * 6 + ["A"] * 3 + ["B"] * 3
    batch = ["b1", "b1", "b1", "b2", "b2", "b2", "b1", "b2", "bare", "bare", "bare", "b2"]
    ds = make_dataset(X, labels, batch_id=batch)
    table = condition_table(ds)
    assert table.fallback_rows == 3
    check_against_numpy(ds, table, np.arange(12))


def test_control_is_matched_by_the_composition_of_batches(make_dataset: Make) -> None:
    # Batch b1 has controls at 1 and 3, b2 at 10; the condition has three cells in b1 and one in b2.
    X = np.array([[1], [3], [10], [5], [5], [5], [21]], dtype=np.float32)
    batch = ["b1", "b1", "b2", "b1", "b1", "b1", "b2"]
    table = condition_table(make_dataset(X, ["control"] * 3 + ["A"] * 4, batch_id=batch))
    assert table.control["input"].tolist() == [[0.75 * 2 + 0.25 * 10]]
    assert table.delta["input"].tolist() == [[9.0 - 4.0]]
    # Control variance 2 of two cells, with weight 0.75; the one cell of b2 has no variance and takes that of b1.
    assert table.s2_control["input"].tolist() == [[0.75**2 * 2 / 2 + 0.25**2 * 2 / 1]]
    # One condition only: its own variance 64 is the pooled one.
    assert table.s2_pert.tolist() == [[64 / 4]]


def test_weights_of_cells(make_dataset: Make, rng: np.random.Generator) -> None:
    X = rng.random((6, 4)).astype(np.float32)
    w = np.array([1.0, 2.0, 5.0, 1.0, 3.0, 4.0])
    table = condition_table(
        make_dataset(X, ["control"] * 3 + ["A"] * 3, batch_id=["b1", "b1", "b2", "b1", "b2", "b2"], weight=w)
    )
    first = (X[0] + 2 * X[1]) / 3
    control = (first * 1 + X[2] * 7) / 8
    np.testing.assert_allclose(table.control["input"][0], control, rtol=1e-6)
    np.testing.assert_allclose(table.delta["input"][0], w[3:] @ X[3:] / 8 - control, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block", [1, 7, 100_000])
def test_blocks_do_not_change_the_table(
    synth: PerturbDataset, make_dataset: Make, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    whole = condition_table(synth)
    monkeypatch.setattr(pseudobulk, "_BLOCK", block)
    labels = {c: synth.obs[c].array for c in ("pert_id", "context_id", "batch_id", "modality")}
    for X in (synth.expression, synth.expression.toarray()):
        table = condition_table(make_dataset(X, **labels, row_ids=list(synth.obs.index)))
        assert table.conditions.index.tolist() == whole.conditions.index.tolist()
        for role in ROLES:
            np.testing.assert_allclose(table.delta[role], whole.delta[role], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(table.s2_pert, whole.s2_pert, rtol=1e-5, atol=1e-8)


def test_order_of_rows_does_not_change_the_table(synth: PerturbDataset, rng: np.random.Generator) -> None:
    order = rng.permutation(synth.n_obs)
    moved = PerturbDataset(
        synth.obs.iloc[order], synth.genes, Values(counts=synth.values.counts[order]), synth.metadata
    )
    a, b = condition_table(synth), condition_table(moved)
    assert a.conditions.index.tolist() == b.conditions.index.tolist()
    np.testing.assert_allclose(a.delta["reference"], b.delta["reference"], rtol=1e-5, atol=1e-6)


def test_single_cells_take_the_variance_of_their_context(make_dataset: Make) -> None:
    X = np.array([[1], [1], [2], [4], [9], [0], [6]], dtype=np.float32)
    labels = ["control", "control", "A", "A", "B", "A", "A"]
    ds = make_dataset(X, labels, context_id=["x", "y", "x", "x", "x", "y", "y"])
    table = condition_table(ds)
    assert table.conditions.index.tolist() == ["x|A|||", "x|B|||", "y|A|||"]
    np.testing.assert_allclose(table.s2_pert[:, 0], [2 / 2, 2 / 1, 18 / 2], rtol=1e-6)


def test_contexts_of_single_cells_take_the_variance_of_all(make_dataset: Make) -> None:
    X = np.array([[1], [1], [2], [4], [9]], dtype=np.float32)
    ds = make_dataset(X, ["control", "control", "A", "A", "A"], context_id=["x", "y", "x", "x", "y"])
    np.testing.assert_allclose(condition_table(ds).s2_pert[:, 0], [2 / 2, 2 / 1], rtol=1e-6)


def test_one_cell_each_has_no_variance(make_dataset: Make) -> None:
    X = np.array([[1], [2], [4]], dtype=np.float32)
    table = condition_table(make_dataset(X, ["control", "A", "B"]))
    assert table.s2_source == "unknown"
    assert table.s2_pert.tolist() == [[0.0], [0.0]]


# ---- differences and replicates --------------------------------------------------------------------------


def test_replicates_are_combined(make_dataset: Make) -> None:
    D = np.array([[1, -1], [3, -3], [-2, 5], [6, 0]], dtype=np.float32)
    ds = make_dataset(D, ["A", "A", "B", "A"], values=Values(delta=D), metadata=DELTA)
    table = condition_table(ds)
    assert table.n.tolist() == [3, 1]
    assert table.s2_source == "replicates"
    assert table.control == {}
    assert table.shared_control.all()
    for role in ROLES:
        np.testing.assert_allclose(table.delta[role], [D[[0, 1, 3]].mean(axis=0), D[2]], rtol=1e-6)
        assert not table.s2_control[role].any()
    var = D[[0, 1, 3]].var(axis=0, ddof=1)
    np.testing.assert_allclose(table.s2_pert, [var / 3, var], rtol=1e-6)


def test_replicates_are_weighted(make_dataset: Make) -> None:
    D = np.array([[1, -1], [3, -3], [-2, 5]], dtype=np.float32)
    ds = make_dataset(D, ["A", "A", "B"], values=Values(delta=D), metadata=DELTA, weight=[1.0, 3.0, 2.0])
    np.testing.assert_allclose(condition_table(ds).delta["input"], [[2.5, -2.5], [-2, 5]], rtol=1e-6)


def test_replicate_variance_is_pooled_over_contexts(make_dataset: Make) -> None:
    D = np.array([[-1], [1], [4]], dtype=np.float32)
    ds = make_dataset(D, ["A", "A", "A"], context_id=["x", "x", "y"], values=Values(delta=D), metadata=DELTA)
    np.testing.assert_allclose(condition_table(ds).s2_pert[:, 0], [2 / 2, 2 / 1], rtol=1e-6)


def test_differences_without_replicates_have_unknown_variance(make_dataset: Make) -> None:
    D = np.array([[-1], [1]], dtype=np.float32)
    table = condition_table(make_dataset(D, ["A", "B"], values=Values(delta=D), metadata=DELTA))
    assert table.s2_source == "unknown"


@pytest.mark.parametrize("given", ["x_control", "expression"])
def test_control_of_the_file_is_averaged(make_dataset: Make, given: str) -> None:
    D = np.array([[-1, 1], [1, 3], [0, 2]], dtype=np.float32)
    C = np.array([[4, 4], [2, 2], [8, 1]], dtype=np.float32)
    values = Values(delta=D, x_control=C) if given == "x_control" else Values(delta=D, expression=D + C)
    ds = make_dataset(D, ["A", "A", "B"], values=values, metadata={"control_policy": "file"})
    table = condition_table(ds)
    for role in ROLES:
        assert table.control[role].tolist() == [[3, 3], [8, 1]]
        assert table.delta[role].tolist() == [[0, 2], [0, 2]]


# ---- choosing --------------------------------------------------------------------------------------------


def test_control_rows_are_ignored(synth: PerturbDataset) -> None:
    treated = np.flatnonzero(~synth.is_control)
    a, b = condition_table(synth), condition_table(synth, treated)
    assert np.array_equal(a.delta["input"], b.delta["input"])
    assert np.array_equal(a.n, b.n)


def test_table_of_no_condition(synth: PerturbDataset) -> None:
    table = condition_table(synth, np.flatnonzero(synth.is_control))
    assert len(table) == 0
    assert table.delta["input"].shape == table.control["reference"].shape == (0, synth.n_genes)


def test_select(synth: PerturbDataset) -> None:
    table = condition_table(synth)
    part = table.select(np.array([5, 2]))
    assert part.conditions.index.tolist() == [table.conditions.index[5], table.conditions.index[2]]
    assert part.n.tolist() == [table.n[5], table.n[2]]
    for name in ("delta", "control", "s2_control"):
        for role in ROLES:
            assert np.array_equal(getattr(part, name)[role], getattr(table, name)[role][[5, 2]])
    assert np.array_equal(part.s2_pert, table.s2_pert[[5, 2]])
    assert part.s2_source == table.s2_source


def small(make_dataset: Make) -> PerturbDataset:
    X = np.random.default_rng(0).random((60, 4)).astype(np.float32)
    return make_dataset(X, ["control"] * 6 + ["A", "B", "C"] * 18)


@pytest.mark.parametrize("rows", [None, np.arange(40), np.arange(10, 60)], ids=["all", "first", "middle"])
def test_a_table_that_is_asked_for_again_is_made_once_and_nobody_elses_changes_show(
    make_dataset: Make, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = small(make_dataset)
    first = condition_table(ds, rows)
    expected = {role: first.delta[role].copy() for role in ROLES}
    for array in (first.delta["input"], first.s2_pert, first.n):
        array[...] = -9
    monkeypatch.setattr(table_module, "_computed", None)
    again = condition_table(ds, rows)
    for role in ROLES:
        np.testing.assert_array_equal(again.delta[role], expected[role])
    assert (again.n > 0).all()
    assert list(again.conditions.index) == list(first.conditions.index)
    with pytest.raises(TypeError):
        condition_table(ds, np.arange(5, 50))
    # Another data set has another table.
    with pytest.raises(TypeError):
        condition_table(small(make_dataset), rows)


@pytest.mark.parametrize(("most", "tables", "left"), [(0, 8, 0), (500_000, 2, 2), (500_000, 8, 3)])
def test_few_and_small_tables_are_kept(
    make_dataset: Make, monkeypatch: pytest.MonkeyPatch, most: int, tables: int, left: int
) -> None:
    monkeypatch.setattr(table_module, "_MOST_KEPT", most)
    monkeypatch.setattr(table_module, "_TABLES_KEPT", tables)
    ds = small(make_dataset)
    for n in (30, 40, 50):
        condition_table(ds, np.arange(n))
    assert len(table_module._KEPT[ds]) == left


# ---- sums and moments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("power", [1, 2])
def test_group_sums(rng: np.random.Generator, form: Callable[..., Any], weighted: bool, power: int) -> None:
    X = rng.random((30, 6)) * (rng.random((30, 6)) < 0.4)
    codes = rng.integers(-1, 5, size=30)
    w = rng.random(30) if weighted else None
    expected = np.zeros((6, 6))
    for i, code in enumerate(codes):
        if code >= 0:
            expected[code] += (1.0 if w is None else w[i]) * X[i] ** power
    np.testing.assert_allclose(group_sums(form(X), codes, 6, w, power=power), expected, rtol=1e-12)


def test_group_moments_of_empty_and_single_groups() -> None:
    moments = group_moments(np.array([[1.0], [3.0], [7.0]]), np.array([0, 0, 2]), 3)
    assert moments.n.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(moments.mean[:, 0], [2.0, np.nan, 7.0])
    np.testing.assert_array_equal(moments.var[:, 0], [2.0, np.nan, np.nan])


def test_shrinkage_weighs_own_and_pooled_variance(rng: np.random.Generator) -> None:
    X = rng.random((25, 3))
    codes = np.repeat([0, 1, 2], [20, 4, 1])
    moments = group_moments(X, codes, 3)
    a, b = X[:20].var(axis=0, ddof=1), X[20:24].var(axis=0, ddof=1)
    pooled = (19 * a + 3 * b) / 22
    out = shrink_variance(moments, np.zeros(3, dtype=np.int64))
    np.testing.assert_allclose(out, [(19 * a + 10 * pooled) / 29, (3 * b + 10 * pooled) / 13, pooled])
    assert np.isnan(shrink_variance(moments, np.array([0, 0, 1]))[2]).all()
