"""Baselines for combinations, and means by cells, against values computed by hand or by plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from perturbfm_core.errors import ConfigError
from perturbfm_core.evaluation.panels.systema.baselines import matching_mean, nonctl_mean
from perturbfm_core.models.base import Model, new_model
from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, EffectTable
from perturbfm_core.models.baselines.kernels import median_distance
from perturbfm_core.splits.view import TrainView
from tests.support.factories import conditions_of, query_of, view_of

Rows = Sequence[Sequence[str]]

PAIR = [("x", "A"), ("x", "B"), ("x", "A+B")]
PAIR_DELTA = [[1, 0, 0], [0, 2, 0], [0.5, 1, 0]]
"""The pair is half its sum: <sum, delta> / <sum, sum> = (.5 + 2) / (1 + 4)."""


def fitted(name: str, view: TrainView, **params: Any) -> Model:
    """Return a fitted model."""
    model = new_model(name, params)
    model.fit(view, 0)
    return model


def means(model: Model, rows: Rows) -> np.ndarray:
    """Return what a model predicts."""
    return model.predict(query_of(rows, model.genes)).mean


# ---- scaled additive --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param(("x", "A+B"), [0.5, 1, 0], id="pair"),
        pytest.param(("y", "A+B"), [0.5, 1, 0], id="pair elsewhere"),
        pytest.param(("x", "A"), [1, 0, 0], id="a single is not scaled"),
        pytest.param(("x", "A+Q"), [0.75, 0.5, 0], id="one unseen: the mean single"),
        pytest.param(("x", "Q"), [0.5, 1, 0], id="unseen single: the mean single, not scaled"),
    ],
)
def test_scaled_additive_multiplies_sums_by_the_fitted_scale(
    requested: tuple[str, str], expected: list[float]
) -> None:
    model = fitted("scaled_additive", view_of(PAIR, PAIR_DELTA))
    assert model.training["scale"] == pytest.approx(0.5)
    np.testing.assert_allclose(means(model, [requested])[0], expected, rtol=1e-6)


def test_a_pair_whose_single_is_missing_has_no_say_in_the_scale() -> None:
    rows, delta = [*PAIR, ("x", "A+Q")], [*PAIR_DELTA, [90, -50, 70]]
    assert fitted("scaled_additive", view_of(rows, delta)).training["scale"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rows", "delta"),
    [
        pytest.param(PAIR[:2], PAIR_DELTA[:2], id="no combinations"),
        pytest.param(PAIR[2:], PAIR_DELTA[2:], id="no singles"),
        pytest.param(PAIR, [[0, 0, 0], [0, 0, 0], [1, 1, 1]], id="singles do nothing"),
    ],
)
def test_without_a_scale_to_fit_it_is_the_additive_baseline(rows: Rows, delta: list[list[float]]) -> None:
    view = view_of(rows, delta)
    model = fitted("scaled_additive", view)
    assert model.training["scale"] == 1.0
    requested = [("x", "A+B"), ("x", "A"), ("x", "A+Q")]
    np.testing.assert_array_equal(means(model, requested), means(fitted("additive", view), requested))


def test_scales_are_those_of_least_squares_for_all_or_by_number_of_parts() -> None:
    rng = np.random.default_rng(0)
    rows = [("x", p) for p in ("A", "B", "C", "D", "A+B", "A+C", "B+C", "A+B+C", "A+B+D")]
    delta = rng.normal(size=(9, 5)).astype(np.float32)
    at = {p: delta[i].astype(np.float64) for i, (_, p) in enumerate(rows)}
    sums = {p: np.sum([at[g] for g in p.split("+")], axis=0) for p in at}

    def scale(perts: Sequence[str]) -> float:
        X = np.concatenate([sums[p] for p in perts])[:, None]
        return float(np.linalg.lstsq(X, np.concatenate([at[p] for p in perts]), rcond=None)[0][0])

    combos = [p for p in at if "+" in p]
    one = fitted("scaled_additive", view_of(rows, delta))
    np.testing.assert_allclose(means(one, [("x", "C+D")])[0], scale(combos) * (at["C"] + at["D"]), rtol=1e-5)
    by_parts = fitted("scaled_additive", view_of(rows, delta), per="parts")
    for requested, like in (("C+D", combos[:3]), ("B+C+D", combos[3:]), ("A+B+C+D", combos)):
        expected = scale(like) * np.sum([at[g] for g in requested.split("+")], axis=0)
        np.testing.assert_allclose(means(by_parts, [("x", requested)])[0], expected, rtol=1e-5)
    with pytest.raises(ConfigError, match="per"):
        new_model("scaled_additive", {"per": "gene"})


# ---- means by cells ---------------------------------------------------------------------------------------

CELLS_ROWS = [("x", "A"), ("x", "B"), ("y", "A"), ("x", "B+C")]
CELLS_DELTA = [[1, 0, 0], [0, 2, 0], [4, 0, 0], [0, 0, 8]]
CELLS_N = [1, 3, 2, 2]
ALL_CELLS = [(1 + 8) / 8, 6 / 8, 16 / 8]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param(("x", "A+B"), [0.5, 1, 0], id="the mean of the parts, not the sum"),
        pytest.param(("y", "A+B"), [2, 1, 0], id="a part in the own context first"),
        pytest.param(("z", "A"), [3, 0, 0], id="single elsewhere: mean over its cells"),
        pytest.param(("x", "Q"), ALL_CELLS, id="unseen: all perturbed cells"),
        pytest.param(("x", "A+Q"), [(1 + ALL_CELLS[0]) / 2, ALL_CELLS[1] / 2, ALL_CELLS[2] / 2], id="one unseen"),
        pytest.param(("x", "B+C"), [ALL_CELLS[0] / 2, (2 + ALL_CELLS[1]) / 2, ALL_CELLS[2] / 2], id="a pair is never looked up"),
        pytest.param(("x", "A+B+Q"), [(1 + ALL_CELLS[0]) / 3, (2 + ALL_CELLS[1]) / 3, ALL_CELLS[2] / 3], id="three parts"),
    ],
)  # fmt: skip
def test_matching_mean_averages_the_parts(requested: tuple[str, str], expected: list[float]) -> None:
    model = fitted("matching_mean", view_of(CELLS_ROWS, CELLS_DELTA, n_cells=CELLS_N))
    np.testing.assert_allclose(means(model, [requested])[0], expected, rtol=1e-6)


def test_matching_mean_takes_parts_at_their_own_dose_first() -> None:
    rows = [("x", "A", "drug", "1 uM"), ("x", "A", "drug", "10 uM"), ("x", "B", "drug", "10 uM")]
    model = fitted("matching_mean", view_of(rows, [[1.0], [3.0], [5.0]], n_cells=[1, 1, 1]))
    asked = [("x", "A+B", "drug", d) for d in ("1 uM+10 uM", "10 uM+10 uM", "5 uM+10 uM")]
    np.testing.assert_allclose(means(model, asked), [[3.0], [4.0], [3.5]])


def test_matching_mean_is_that_of_systema_in_one_context() -> None:
    rng = np.random.default_rng(1)
    perts = ["A", "B", "C", "A+B", "B+D"]
    delta, n = rng.normal(size=(5, 6)), np.asarray([3, 9, 4, 7, 2])
    requested = ["A", "A+C", "B+D", "D", "A+B+C"]
    found = means(
        fitted("matching_mean", view_of([("x", p) for p in perts], delta, n_cells=n.tolist())),
        [("x", p) for p in requested],
    )
    np.testing.assert_allclose(
        found, matching_mean(requested, perts, delta, nonctl_mean(delta, n)), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param(("z", "A"), [3, 0, 0], id="by cells over contexts"),
        pytest.param(("x", "A"), [3, 0, 0], id="the own context counts no more"),
        pytest.param(("z", "B+C"), [0, 0, 8], id="a seen pair"),
        pytest.param(("z", "A+B"), ALL_CELLS, id="an unseen pair: all cells"),
    ],
)
def test_context_general_weighs_contexts_by_their_cells(
    requested: tuple[str, str], expected: list[float]
) -> None:
    model = fitted("context_general", view_of(CELLS_ROWS, CELLS_DELTA, n_cells=CELLS_N))
    np.testing.assert_allclose(means(model, [requested])[0], expected, rtol=1e-6)


def test_a_group_without_cells_is_averaged_plainly() -> None:
    table = EffectTable((("pert_id",),))
    table.fit(
        conditions_of([("x", "A"), ("y", "A"), ("x", "B")]), np.asarray([[1.0], [3.0], [5.0]]), np.zeros(3)
    )
    np.testing.assert_array_equal(table.look_up(conditions_of([("z", "A"), ("z", "B")]))[0], [[2], [5]])  # fmt: skip


def test_levels_that_group_alike_are_stored_once() -> None:
    table = EffectTable(CONTEXT_LEVELS).fit(conditions_of([("x", "A"), ("x", "B")]), np.eye(2))
    assert table.means.shape == (2, 2)
    requested = conditions_of([("y", "B"), ("x", "A"), ("x", "A", "", "9")])
    np.testing.assert_array_equal(table.look_up(requested)[0], [[0, 1], [1, 0], [1, 0]])


# ---- kernels over single effects --------------------------------------------------------------------------

KERNEL_ROWS = [(c, p) for c in "xy" for p in ("A", "B", "C", "D", "A+B", "C+D", "B+Q", "P+Q")][:-2]
KERNEL_REQUESTED = [("x", "A+C"), ("y", "B+C"), ("z", "A+D"), ("x", "Q"), ("y", "A"), ("x", "A+B+C")]


def kernel_view(inner: Sequence[Sequence[int]] = ()) -> tuple[TrainView, np.ndarray]:
    """Return a view of two contexts, one lacking two pairs, and its deltas in float64."""
    delta = np.random.default_rng(2).normal(size=(len(KERNEL_ROWS), 9)).astype(np.float32)
    return view_of(KERNEL_ROWS, delta, inner=inner), delta.astype(np.float64)


def single_effect(delta: np.ndarray, context: str, gene: str) -> np.ndarray:
    """Return a single's delta in its own context, else its mean over contexts, else zero."""
    rows = [i for i, (_, p) in enumerate(KERNEL_ROWS) if p == gene]
    own = [i for i in rows if KERNEL_ROWS[i][0] == context]
    return delta[own or rows].mean(axis=0) if rows else np.zeros(delta.shape[1])


def median_gap(points: Sequence[np.ndarray]) -> float:
    """Return the median of the non-zero squared distances."""
    gaps = [float(((a - b) ** 2).sum()) for a in points for b in points]
    return float(np.median([g for g in gaps if g > 1e-9]))


def radial(a: np.ndarray, b: np.ndarray, width: float) -> float:
    """Return exp(-d^2 / width)."""
    return float(np.exp(-((a - b) ** 2).sum() / width))


@pytest.mark.parametrize(("components", "alpha"), [(3, 1.5), (60, 0.2)])
def test_set_kernel_ridge_is_its_definition(components: int, alpha: float) -> None:
    view, delta = kernel_view()
    model = fitted("set_kernel_ridge", view, components=components, alphas=(alpha,))

    axes = PCA(n_components=min(components, 8), svd_solver="full").fit(delta).components_
    if components > 8:
        axes = np.eye(9)  # All nine genes: distances are those of the deltas.

    def parts(row: Sequence[str]) -> list[np.ndarray]:
        return [axes @ single_effect(delta, row[0], g) for g in row[1].split("+")]

    train = [parts(row) for row in KERNEL_ROWS]
    sum_width = median_gap([np.sum(p, axis=0) for p in train])
    distinct = np.unique(np.round([e for p in train for e in p], 6), axis=0)
    part_width = median_gap(list(distinct))

    def kernel(S: list[np.ndarray], T: list[np.ndarray]) -> float:
        pairs = sum(radial(a, b, part_width) for a in S for b in T)
        return radial(np.sum(S, axis=0), np.sum(T, axis=0), sum_width) + pairs

    K = np.asarray([[kernel(s, t) for t in train] for s in train])
    requested = np.asarray([[kernel(parts(row), t) for t in train] for row in KERNEL_REQUESTED])
    mean = delta.mean(axis=0)
    expected = mean + requested @ np.linalg.solve(K + alpha * np.eye(len(K)), delta - mean)
    np.testing.assert_allclose(means(model, KERNEL_REQUESTED), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.3, 3.0])
def test_combo_kernel_ridge_is_its_definition(alpha: float) -> None:
    view, delta = kernel_view()
    model = fitted("combo_kernel_ridge", view, components=100, alphas=(alpha,))
    added = fitted("scaled_additive", view)
    combos = [row for row in KERNEL_ROWS if "+" in row[1]]
    at = [KERNEL_ROWS.index(row) for row in combos]
    singles = delta[[i for i in range(len(KERNEL_ROWS)) if i not in at]]
    axes = np.linalg.svd(singles - singles.mean(axis=0), full_matrices=False)[2][:7]

    def point(row: Sequence[str]) -> np.ndarray:
        return axes @ np.sum([single_effect(delta, row[0], g) for g in row[1].split("+")], axis=0)

    train = [point(row) for row in combos]
    width = median_gap(train)
    K = np.asarray([[radial(a, b, width) for b in train] for a in train])
    coef = np.linalg.solve(K + alpha * np.eye(len(K)), delta[at] - means(added, combos))
    expected = means(added, KERNEL_REQUESTED).astype(np.float64)
    for i, row in enumerate(KERNEL_REQUESTED):
        if "+" in row[1]:
            expected[i] += np.asarray([radial(point(row), b, width) for b in train]) @ coef
    np.testing.assert_allclose(means(model, KERNEL_REQUESTED), expected, rtol=1e-3, atol=1e-4)
    # Singles have no interaction, whatever the penalty.
    np.testing.assert_array_equal(means(model, [("x", "A")]), means(added, [("x", "A")]))


def test_without_combinations_the_combo_kernel_is_the_additive_baseline() -> None:
    view = view_of(PAIR[:2], PAIR_DELTA[:2])
    requested = [("x", "A+B"), ("x", "Q")]
    np.testing.assert_array_equal(
        means(fitted("combo_kernel_ridge", view), requested), means(fitted("additive", view), requested)
    )


def test_an_interaction_is_carried_over_to_a_similar_pair() -> None:
    """B2 does alone what B does; with A, B cancels itself. Only the kernel knows it of A+B2."""
    rows = [("x", p) for p in ("A", "B", "B2", "C", "A+B", "B+C", "A+C")]
    delta = np.asarray([[4, 0, 0], [0, 4, 0], [0, 4, 0.1], [0, 0, 4], [4, 0, 0], [0, 4, 4], [4, 0, 4]])
    view = view_of(rows, delta)
    truth = np.asarray([4, 0, 0])
    errors = {
        name: float(np.abs(means(fitted(name, view, **params), [("x", "A+B2")])[0] - truth).max())
        for name, params in (("additive", {}), ("combo_kernel_ridge", {"alphas": (0.01,)}))
    }
    assert errors["additive"] == pytest.approx(4, abs=0.2)
    assert errors["combo_kernel_ridge"] < 0.5


def test_a_singles_own_effect_is_no_feature_where_it_is_held_out() -> None:
    """Pure noise is fitted in part, but nothing of it is known where features are made without the row."""
    rng = np.random.default_rng(3)
    rows = [("x", f"P{i}") for i in range(24)]
    delta = rng.normal(size=(24, 60))
    view = view_of(rows, delta, inner=[list(range(i, 24, 4)) for i in range(4)])
    model = fitted("set_kernel_ridge", view)
    in_sample = np.square(means(model, rows) - delta).mean()
    out_of_fold = model.predict(query_of([("x", "P0")], model.genes)).var.mean()
    assert in_sample < 0.75
    assert out_of_fold > 0.95


def test_the_median_ignores_equal_points() -> None:
    points = np.asarray([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert median_distance(points) == pytest.approx(np.median([25, 25, 1, 1, 18]))
    assert median_distance(np.ones((5, 3)) * 0.1) == 1.0
    assert median_distance(np.zeros((0, 3))) == 1.0
