"""Co-expression: exact, sparse or dense, block by block, from the rows it may read and no others."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs import coexpression
from perturbfm_core.graphs.coexpression import coexpression_graph, train_coexpression
from perturbfm_core.splits.view import train_view
from tests.support.factories import grid_rows, reordered, screen, split_one, view_of, with_values


def names(G: int) -> np.ndarray:
    return np.asarray([f"g{i}" for i in range(G)])


@pytest.fixture
def X(rng) -> np.ndarray:
    """Return sparse, correlated, non-negative values [300, 40]."""
    factors = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 40))
    return np.maximum(factors + rng.normal(size=(300, 40)), 0.0).astype(np.float32)


def expected(X: np.ndarray, k: int) -> np.ndarray:
    """Return each gene's k strongest correlations, either way, by numpy."""
    C = np.corrcoef(X.astype(np.float64), rowvar=False)
    np.fill_diagonal(C, 0.0)
    kept = np.zeros_like(C, dtype=bool)
    for i, row in enumerate(np.abs(C)):
        kept[i, np.argsort(-row, kind="stable")[:k]] = True
    return np.where(kept | kept.T, C, 0.0)


@pytest.mark.parametrize("k", [1, 5, 39, 100])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_the_graph_has_the_largest_correlations(X, k, form):
    graph = coexpression_graph(form(X), names(40), top_k=k)
    found = graph.adjacency.toarray()
    wanted = expected(X, k)
    assert np.array_equal(found != 0, wanted != 0)
    assert np.allclose(found, wanted, atol=2e-6)
    assert np.array_equal(found, found.T)
    assert (found < 0).any() or k == 1


def test_blocks_do_not_change_the_graph(X, monkeypatch):
    whole = coexpression_graph(sp.csr_array(X), names(40), top_k=6).adjacency.toarray()
    monkeypatch.setattr(coexpression, "_GENE_BLOCK", 7)
    monkeypatch.setattr(coexpression, "_ROW_BLOCK", 13)
    assert np.allclose(
        coexpression_graph(sp.csr_array(X), names(40), top_k=6).adjacency.toarray(), whole, atol=2e-6
    )


def test_a_shift_of_all_values_changes_nothing(X):
    # Far from zero, products of raw values would lose the correlation.
    near, far = (coexpression_graph(X + s, names(40), top_k=5).adjacency.toarray() for s in (0.0, 100.0))
    assert np.allclose(near, far, atol=2e-4)


def test_genes_that_do_not_vary_have_no_edge(X):
    X[:, 3], X[:, 7] = 0.0, 1.7
    graph = coexpression_graph(X, names(40), top_k=5)
    assert np.diff(graph.adjacency.indptr)[[3, 7]].tolist() == [0, 0]
    assert np.delete(np.diff(graph.adjacency.indptr), [3, 7]).min() >= 5


def test_within_groups_differences_between_them_do_not_count(rng):
    groups = np.repeat([0, 1], 100)
    noise = rng.normal(size=(200, 4))
    noise[:, 1] = noise[:, 0] + 0.1 * noise[:, 1]
    # Genes 2 and 3 are independent within groups, and both higher in group 1.
    X = noise + 50.0 * groups[:, None] * np.asarray([0, 0, 1, 1])
    plain = coexpression_graph(X, names(4), top_k=3).adjacency.toarray()
    within = coexpression_graph(X, names(4), top_k=3, groups=groups).adjacency.toarray()
    assert plain[2, 3] > 0.99
    assert abs(within[2, 3]) < 0.2
    assert within[0, 1] > 0.95
    centred = X - np.stack([X[groups == g].mean(axis=0) for g in (0, 1)])[groups]
    assert within[2, 3] == pytest.approx(np.corrcoef(centred[:, 2], centred[:, 3])[0, 1], abs=1e-5)


def test_rows_are_subsampled_with_the_seed(X):
    def built(**kw):
        return coexpression_graph(X, names(40), top_k=5, max_cells=100, **kw)

    assert built(seed=1).sha256 == built(seed=1).sha256
    assert built(seed=1).sha256 != built(seed=2).sha256
    assert built().meta["rows"] == 100
    assert (
        coexpression_graph(X, names(40), max_cells=300, seed=1).sha256
        == coexpression_graph(X, names(40)).sha256
    )


def test_weak_edges_are_left_out_on_request(X):
    graph = coexpression_graph(X, names(40), top_k=39, min_weight=0.3)
    wanted = np.abs(expected(X, 39)) >= 0.3
    assert np.array_equal(graph.adjacency.toarray() != 0, wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": np.ones((2, 4))}, "at least 3 rows, found 2"),
        ({"genes": names(3)}, r"expression is \(9, 4\) for 3 genes"),
        ({"groups": np.zeros(3, dtype=int)}, "and 3 groups of rows"),
        ({"top_k": 0}, "top_k is 0"),
        ({"max_cells": 2}, "max_cells 2"),
    ],
)
def test_bad_arguments_are_refused(rng, arguments, message):
    given = {"X": rng.normal(size=(9, 4)), "genes": names(4), **arguments}
    with pytest.raises(GraphError, match=message):
        coexpression_graph(**given)


# ---- of a train view ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ds() -> PerturbDataset:
    """Return 3 contexts with controls of both roles, 6 perturbations of 12 cells each."""
    rows = grid_rows(list("ABCDEF"), ["c0", "c1", "c2"], reps=12, controls=120)
    rng = np.random.default_rng(1)
    X = rng.gamma(2.0, size=(len(rows), 3)) @ rng.random((3, 12)) + rng.random((len(rows), 12))
    return screen(rows, X=X, genes=12)


def graph_of(ds, split):
    return train_coexpression(train_view(ds, split), split.hash)


@pytest.fixture(scope="module")
def split(ds):
    return split_one(
        ds, "perturbation_ood", {"holdout": ["A"]}, val_frac=0.3, validation="fold", calibration="inner_cv"
    )


def changed(ds, rows):
    X = np.array(ds.expression)
    X[rows] = X[rows][:, ::-1] ** 2
    return with_values(ds, X)


def rows_of(ds, split):
    """Return {what: rows} of everything in the data set."""
    from perturbfm_core.data.controls import INPUT, REFERENCE

    return {
        **{fold: split.rows(ds, fold) for fold in ("train", "val", "test")},
        "input": np.flatnonzero(ds.controls.roles == INPUT),
        "reference": np.flatnonzero(ds.controls.roles == REFERENCE),
    }


@pytest.mark.parametrize("what", ["train", "input", "val", "test", "reference"])
def test_only_train_cells_and_their_input_controls_are_read(ds, split, what):
    rows = rows_of(ds, split)[what]
    assert len(rows)
    other = changed(ds, rows)
    # The other data have another content hash; the view is made with the rows of the first.
    view = train_view(ds, split)
    object.__setattr__(view, "dataset", other)
    same = train_coexpression(view, split.hash).sha256 == graph_of(ds, split).sha256
    assert same == (what in ("val", "test", "reference"))


def test_controls_of_a_held_out_context_are_not_read(ds):
    split = split_one(ds, "context_ood", {"holdout": ["c1"]})
    view = train_view(ds, split)
    contexts = ds.obs["context_id"].astype(str).to_numpy()
    assert set(contexts[view.fit_rows]) == {"c0", "c2"}
    held = changed(ds, np.flatnonzero(contexts == "c1"))
    object.__setattr__(view, "dataset", held)
    assert train_coexpression(view, split.hash).sha256 == graph_of(ds, split).sha256


def test_an_inner_fold_leaves_its_held_out_cells_out(ds, split):
    view = train_view(ds, split)
    mask = np.asarray([key.split("|")[1] != "B" for key in view.conditions.index])
    inner = view.subset(mask)
    perts = ds.obs["pert_id"].astype(str).to_numpy()
    assert "B" in set(perts[view.fit_rows])
    assert "B" not in set(perts[inner.fit_rows])
    assert train_coexpression(inner, split.hash).sha256 != graph_of(ds, split).sha256


def test_cells_are_chosen_by_their_ids_whatever_the_order_of_rows(ds, split):
    order = np.random.default_rng(2).permutation(ds.n_obs)
    moved = reordered(ds, order.tolist())
    assert moved.content_sha256 == ds.content_sha256
    one, two = (
        train_coexpression(train_view(d, split), split.hash, max_cells=60).adjacency.toarray()
        for d in (ds, moved)
    )
    assert np.allclose(one, two, atol=2e-6)
    assert not np.allclose(one, graph_of(ds, split).adjacency.toarray(), atol=2e-6)


def test_the_graph_is_bound_to_its_split(ds, split):
    graph = graph_of(ds, split)
    assert graph.split_hash == split.hash
    assert graph.meta["made_from"] == "cells"
    graph.require_split(split.hash)
    other = split_one(ds, "perturbation_ood", {"holdout": ["B"]})
    with pytest.raises(GraphError, match=f"train rows of split {split.hash[:12]} and must not be used with"):
        graph.require_split(other.hash)


def test_data_by_condition_give_correlations_of_their_deltas(rng):
    rows = [(f"p{i}", "c") for i in range(9)]
    X = rng.normal(size=(9, 5))
    ds = screen(rows, X=X, genes=5, space="delta", level="condition")
    split = split_one(
        ds,
        "perturbation_ood",
        {"holdout": ["p0"]},
        validation="none",
        calibration="none",
        val_frac=0,
        calib_frac=0,
    )
    graph = graph_of(ds, split)
    wanted = np.corrcoef(X[1:], rowvar=False)
    np.fill_diagonal(wanted, 0)
    assert np.allclose(graph.adjacency.toarray(), wanted, atol=1e-5)
    assert graph.meta["made_from"] == "condition deltas"
    by_hand = view_of([("c", f"p{i}") for i in range(1, 9)], X[1:])
    assert train_coexpression(by_hand, "x").sha256 == graph.sha256


def test_sparse_data_are_read_as_dense_ones(ds, split):
    sparse = PerturbDataset(ds.obs, ds.genes, Values(expression=sp.csr_array(ds.expression)), ds.metadata)
    assert graph_of(sparse, split).sha256 == graph_of(ds, split).sha256
