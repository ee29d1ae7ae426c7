"""Large screens: which conditions stand for all, approximate components, kernel baselines by inducing rows."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.models.base import new_model
from perturbfm_core.models.nystrom import inducing_coefficients, inverse_root
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.scale import Scale, sample_of, some_held, some_rows
from tests.support.factories import view_of
from tests.support.large_screens import screen


def test_drawn_rows_are_distinct_sorted_and_the_same_at_every_call() -> None:
    drawn = some_rows(50, 20)
    assert len(set(drawn.tolist())) == 20
    assert (np.diff(drawn) > 0).all()
    assert (some_rows(50, 20) == drawn).all()
    assert some_rows(7, 20).tolist() == list(range(7))


def test_a_sample_keeps_combinations_with_their_singles_and_genes_with_their_contexts() -> None:
    perts = [f"p{i}" for i in range(30)]
    rows = [(c, p) for c in "cd" for p in perts] + [("c", f"p{i}+p{j}") for i in range(30) for j in range(i)]
    view = view_of(rows, np.zeros((len(rows), 2)), inner=[range(0, len(rows), 2), range(1, len(rows), 2)])
    part = sample_of(view, 200)
    assert 100 <= len(part) <= 200
    kept = part.conditions
    genes = {g for p in kept["pert_id"] for g in p.split("+")}
    assert {(c, g) for c in "cd" for g in genes} <= set(zip(kept["context_id"], kept["pert_id"], strict=True))
    assert len(part.inner) == 2
    assert sample_of(part, 500) is part


def test_a_sample_of_few_genes_in_many_contexts_is_of_conditions() -> None:
    rows = [(f"c{i}", p) for i in range(100) for p in ("a", "b")]
    part = sample_of(view_of(rows, np.zeros((200, 2))), 60)
    assert len(part) == 60
    assert set(part.conditions["pert_id"]) == {"a", "b"}


@pytest.mark.parametrize(("k", "expected"), [(20, [10, 10]), (100, [25, 25]), (1, [1, 1])])
def test_held_out_conditions_are_thinned_alike_in_every_fold(k: int, expected: list[int]) -> None:
    inner = [list(range(25)), list(range(25, 50))]
    view = view_of([("c", f"p{i}") for i in range(60)], np.zeros((60, 2)), inner=inner)
    thinned = some_held(view, k)
    assert [int(held.sum()) for _, held in thinned.inner] == expected
    for (fit, held), (fit2, held2) in zip(view.inner, thinned.inner, strict=True):
        assert (fit == fit2).all()
        assert not (held2 & ~held).any()


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (250, 250)])
def test_iterated_components_are_the_exact_ones_where_they_stand_out(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    X = (rng.normal(size=(shape[0], 8)) * np.arange(8, 0, -1)) @ rng.normal(size=(8, shape[1]))
    X = (X + 0.1 * rng.normal(size=shape) + 3.0).astype(np.float32)
    exact, found = principal_components(X, 8), principal_components(X, 8, exact=100)
    assert found.mean == pytest.approx(exact.mean, rel=1e-4)
    assert found.variance == pytest.approx(exact.variance, rel=1e-3)
    assert np.abs((found.axes * exact.axes).sum(axis=1)) == pytest.approx(1.0, abs=1e-3)
    assert found.axes @ found.axes.T == pytest.approx(np.eye(8), abs=1e-5)
    flat = principal_components(np.full(shape, 2.0, dtype=np.float32), 3, exact=100)
    assert not flat.axes.any()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_all_rows_inducing_is_kernel_ridge(alpha: float) -> None:
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(40, 3)), rng.normal(size=(40, 5))
    K = np.exp(-((X[:, None] - X[None]) ** 2).sum(axis=2))
    expected = np.linalg.solve(K + alpha * np.eye(40), Y)
    found = inducing_coefficients(K, K, np.diag(K), Y, alpha)
    assert K @ found == pytest.approx(K @ expected, abs=1e-4)


def test_equal_inducing_rows_are_one() -> None:
    K = np.ones((4, 4))
    root = inverse_root(K)
    assert root.shape == (4, 1)
    assert K @ root @ root.T @ K == pytest.approx(K)


@pytest.mark.parametrize(
    ("name", "kind", "params"),
    [
        ("kernel_ridge", "genes", {"gene_features": ("traits",), "alphas": (0.3, 3.0)}),
        ("set_kernel_ridge", "combos", {}),
        ("set_kernel_ridge", "contexts", {}),
        ("combo_kernel_ridge", "combos", {"alphas": (0.3, 3.0)}),
        ("knn", "genes", {"gene_features": ("traits",), "neighbours": (5, 20)}),
        ("gene_embedding_ridge", "genes", {"gene_features": ("traits", "coexpression"), "alphas": (10.0,)}),
    ],
)
def test_baselines_of_many_conditions_keep_their_skill(
    name: str, kind: str, params: dict[str, object]
) -> None:
    case = screen(kind, 400, 120, test=100)
    scores = []
    # Exactly; with every condition inducing; with half of them.
    for scale in (Scale(), Scale(exact=100, inducing=1000), Scale(exact=100, inducing=250)):
        model = new_model(name, params)
        model.side_info, model.scale = case.info, scale  # type: ignore[attr-defined]
        model.fit(case.view, 0)
        prediction = model.predict(case.query)
        scores.append(case.pearson(prediction.mean))
        assert case.squared_z(prediction) == pytest.approx(1.0, abs=0.25)
    assert scores[1] == pytest.approx(scores[0], abs=0.002)
    assert scores[2] == pytest.approx(scores[0], abs=0.01)
