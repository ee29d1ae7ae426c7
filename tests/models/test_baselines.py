"""The baselines against tables small enough to compute by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from perturbfm_core.data.condition import part_id
from perturbfm_core.evaluation.comparison import compare
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.pipeline.prediction import predict_rows
from perturbfm_core.splits.view import TrainView, train_view
from tests.support.factories import query_of, simulated, split_one, view_of
from tests.support.fitted_baselines import fitted

#        context  perturbation   g0 g1 g2
TABLE = [
    (("x", "A"), [1, 0, 0]),
    (("y", "A"), [3, 0, 0]),
    (("x", "B"), [0, 2, 0]),
    (("y", "B+C"), [0, 4, 6]),
]
MEAN = [1.0, 1.5, 1.5]


def table_view(inner: Sequence[Sequence[int]] = (), **fields: Any) -> TrainView:
    """Return the train view of the table above."""
    return view_of([r for r, _ in TABLE], [d for _, d in TABLE], inner=inner, **fields)


def means(name: str, view: TrainView, rows: Sequence[Sequence[str]], **params: Any) -> list[list[float]]:
    """Return the means that a freshly fitted model predicts."""
    return fitted(name, view, **params).predict(query_of(rows, [str(g) for g in view.genes])).mean.tolist()


# ---- means ------------------------------------------------------------------------------------------------


def test_control_only_predicts_no_change() -> None:
    assert means("control_only", table_view(), [("x", "A"), ("z", "Q")]) == [[0, 0, 0]] * 2


def test_global_mean_counts_every_condition_once() -> None:
    assert means("global_mean", table_view(), [("x", "A"), ("z", "Q")]) == [MEAN] * 2


def test_global_mean_can_count_cells() -> None:
    view = table_view(n_cells=[1, 1, 0, 2])
    assert means("global_mean", view, [("x", "A")], weights="cells") == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param(("x", "A"), [2, 0, 0], id="seen here and elsewhere"),
        pytest.param(("z", "A"), [2, 0, 0], id="seen elsewhere"),
        pytest.param(("y", "B"), [0, 2, 0], id="seen in one context"),
        pytest.param(("x", "B+C"), [0, 4, 6], id="combination seen"),
        pytest.param(("x", "C"), MEAN, id="part of a combination only"),
        pytest.param(("x", "Q"), MEAN, id="unseen"),
    ],
)
def test_per_perturbation_mean_averages_contexts(requested: tuple[str, str], expected: list[float]) -> None:
    assert means("per_perturbation_mean", table_view(), [requested]) == [expected]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param(("x", "A"), [1, 0, 0], id="seen here"),
        pytest.param(("y", "A"), [3, 0, 0], id="seen there"),
        pytest.param(("z", "A"), [2, 0, 0], id="seen elsewhere"),
        pytest.param(("y", "B"), [0, 2, 0], id="seen in one other context"),
        pytest.param(("y", "Q"), MEAN, id="unseen"),
    ],
)
def test_per_perturbation_context_mean_prefers_the_context(
    requested: tuple[str, str], expected: list[float]
) -> None:
    assert means("per_perturbation_context_mean", table_view(), [requested]) == [expected]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param(("x", "A", "", "1"), [1, 0, 0], id="the dose"),
        pytest.param(("x", "A", "", "10"), [3, 0, 0], id="the other dose"),
        pytest.param(("x", "A", "", "100"), [2, 0, 0], id="all doses"),
        pytest.param(("z", "A", "", "1"), [2, 0, 0], id="the dose elsewhere"),
    ],
)
def test_doses_are_averaged_only_where_the_dose_is_new(
    requested: tuple[str, ...], expected: list[float]
) -> None:
    rows = [("x", "A", "", "1"), ("x", "A", "", "10"), ("y", "A", "", "1"), ("y", "A", "", "10")]
    delta = [[1, 0, 0], [3, 0, 0], [3, 0, 0], [1, 0, 0]]
    assert means("per_perturbation_context_mean", view_of(rows, delta), [requested]) == [expected]


def test_covariates_are_looked_up_before_they_are_averaged() -> None:
    rows = [("x", "A", "", "", '{"time":"1"}'), ("x", "A", "", "", '{"time":"2"}')]
    view = view_of(rows, [[1, 0, 0], [3, 0, 0]])
    requested = [*rows, ("x", "A", "", "", '{"time":"3"}')]
    assert means("per_perturbation_context_mean", view, requested) == [[1, 0, 0], [3, 0, 0], [2, 0, 0]]


# ---- additive ---------------------------------------------------------------------------------------------

MEAN_SINGLE = [4 / 3, 2 / 3, 0.0]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param(("x", "A"), [1, 0, 0], id="single here"),
        pytest.param(("z", "A"), [2, 0, 0], id="single elsewhere"),
        pytest.param(("x", "A+B"), [1, 2, 0], id="both here"),
        pytest.param(("y", "A+B"), [3, 2, 0], id="one here, one elsewhere"),
        pytest.param(("z", "A+B"), [2, 2, 0], id="both elsewhere"),
        pytest.param(("x", "A+Q"), [1 + 4 / 3, 2 / 3, 0], id="one unseen: the mean single"),
        pytest.param(("x", "P+Q"), [8 / 3, 4 / 3, 0], id="both unseen: twice the mean single"),
        pytest.param(("x", "Q"), MEAN_SINGLE, id="unseen single: the mean single"),
        pytest.param(("y", "B+C"), [4 / 3, 2 + 2 / 3, 0], id="its own combination is not looked up"),
        pytest.param(("x", "A+B+Q"), [1 + 4 / 3, 2 + 2 / 3, 0], id="three parts"),
    ],
)
def test_additive_sums_singles_down_its_ladder(requested: tuple[str, str], expected: list[float]) -> None:
    np.testing.assert_allclose(means("additive", table_view(), [requested])[0], expected, rtol=1e-6)


def test_additive_shares_combinations_out_where_there_are_no_singles() -> None:
    view = view_of([("x", "A+B"), ("x", "A+B+C")], [[2, 0, 0], [0, 3, 6]])
    expected = [(1 + 0) / 2, (0 + 1) / 2, (0 + 2) / 2]
    np.testing.assert_allclose(means("additive", view, [("x", "Q")])[0], expected)
    np.testing.assert_allclose(means("additive", view, [("x", "A+B")])[0], 2 * np.asarray(expected))


def test_additive_takes_each_part_at_its_own_dose() -> None:
    rows = [("x", "A", "", "1"), ("x", "A", "", "9"), ("x", "B", "", "1"), ("x", "B", "", "9")]
    view = view_of(rows, [[1, 0, 0], [5, 0, 0], [0, 2, 0], [0, 7, 0]])
    assert means("additive", view, [("x", "A+B", "", "1+9"), ("x", "A+B", "", "9+1")]) == [
        [1, 7, 0],
        [5, 2, 0],
    ]


@pytest.mark.parametrize(
    "name", ["per_perturbation_mean", "per_perturbation_context_mean", "additive", "latent_shift"]
)
def test_a_gene_switched_on_and_off_is_never_averaged(name: str) -> None:
    rows = [("x", "A", "CRISPRa"), ("x", "A", "CRISPRi"), ("x", "B", "CRISPRi")]
    view = view_of(rows, [[4, 0, 0], [-2, 0, 0], [0, 3, 0]])
    on, off, other = means(name, view, [("z", "A", "CRISPRa"), ("z", "A", "CRISPRi"), ("z", "A", "KO")])
    np.testing.assert_allclose(on, [4, 0, 0], atol=1e-5)
    np.testing.assert_allclose(off, [-2, 0, 0], atol=1e-5)
    # A modality without data falls back to all conditions, not to the same gene's others.
    np.testing.assert_allclose(other, np.mean(view.delta, axis=0), atol=1e-5)


def test_ridge_keeps_modalities_apart() -> None:
    rows = [("x", "A", "CRISPRa"), ("x", "A", "CRISPRi")]
    view = view_of(rows, [[4, 0, 0], [-2, 0, 0]])
    on, off, other = means("ridge", view, [*rows, ("x", "A", "KO")], alphas=(1e-9,))
    np.testing.assert_allclose(on, [4, 0, 0], atol=1e-5)
    np.testing.assert_allclose(off, [-2, 0, 0], atol=1e-5)
    np.testing.assert_allclose(other, [1, 0, 0], atol=1e-5)


# ---- latent shift -----------------------------------------------------------------------------------------


def test_latent_shift_with_all_components_is_the_mean_shift_and_adds_up() -> None:
    found = means("latent_shift", table_view(), [("x", "A"), ("z", "B+C"), ("x", "A+B"), ("x", "Q")])
    np.testing.assert_allclose(found[0], [2, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found[1], [0, 4, 6], atol=1e-5)
    np.testing.assert_allclose(found[2], [1, 2, 0], atol=1e-5)
    np.testing.assert_allclose(found[3], MEAN_SINGLE, atol=1e-5)


def test_latent_shift_keeps_what_its_components_span() -> None:
    rng = np.random.default_rng(0)
    control, delta = rng.normal(size=(8, 5)), rng.normal(size=(8, 5))
    rows = [("x", f"P{i}") for i in range(8)]
    model = fitted("latent_shift", view_of(rows, delta, control=control), components=2)
    found = model.predict(query_of(rows, 5, control)).mean
    states = np.concatenate([control, control + delta])
    axes = np.linalg.svd(states - states.mean(axis=0))[2][:2]
    np.testing.assert_allclose(found, delta @ axes.T @ axes, atol=1e-5)


# ---- linear -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("components", "penalty"), [(2, 0.1), (5, 0.1), (3, 7.0)])
def test_linear_is_its_closed_form(components: int, penalty: float) -> None:
    rng = np.random.default_rng(1)
    genes = [f"g{i}" for i in range(12)]
    rows = [*[("x", g) for g in genes[:6]], ("x", "g1+g7"), ("x", "elsewhere")]
    Y = rng.normal(size=(12, len(rows))).astype(np.float32).astype(np.float64)
    model = fitted("linear", view_of(rows, Y.T, genes=genes), components=components, penalty=penalty)
    requested = [("x", "g0"), ("x", "g9"), ("y", "g2+g3"), ("x", "elsewhere"), ("x", "g4+elsewhere")]
    found = model.predict(query_of(requested, genes)).mean

    G = PCA(n_components=components, svd_solver="full").fit_transform(Y)
    at = {g: i for i, g in enumerate(genes)}

    def embed(pert: str) -> np.ndarray:
        parts = [G[at[g]] for g in pert.split("+") if g in at]
        return np.sum(parts, axis=0) if parts else np.zeros(components)

    P = np.stack([embed(p) for _, p in rows])
    b = Y.mean(axis=1, keepdims=True)
    ridge = penalty * np.eye(components)
    W = np.linalg.inv(G.T @ G + ridge) @ G.T @ (Y - b) @ P @ np.linalg.inv(P.T @ P + ridge)
    expected = np.stack([G @ W @ embed(p) for _, p in requested]) + b.T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[3], b[:, 0], rtol=1e-5)
    assert model.training["perturbed_genes_measured"] == 7


def test_linear_finds_measured_genes_whose_names_have_signs() -> None:
    rng = np.random.default_rng(3)
    delta = rng.normal(size=(5, 6))
    plain, signs = [f"g{i}" for i in range(6)], ["a+b", "c|d", "e%f", "g3", "g4", "g5"]
    found = []
    for genes in (plain, signs):
        perts = [*map(part_id, genes[:4]), f"{part_id(genes[0])}+{part_id(genes[1])}"]
        model = fitted("linear", view_of([("x", p) for p in perts], delta, genes=genes), components=3)
        assert model.training["perturbed_genes_measured"] == 5
        found.append(model.predict(query_of([("x", part_id(genes[0])), ("x", perts[4])], genes)).mean)
    np.testing.assert_array_equal(*found)


# ---- ridge ------------------------------------------------------------------------------------------------

RIDGE_ROWS = [("x", "A"), ("x", "B"), ("y", "A"), ("y", "C"), ("y", "A+C"), ("z", "B+C")]


@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_ridge_on_perturbed_genes_is_that_of_scikit_learn(alpha: float) -> None:
    delta = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    found = means(
        "ridge", view_of(RIDGE_ROWS, delta), [*RIDGE_ROWS, ("x", "A+B"), ("x", "Q")], alphas=(alpha,)
    )

    def multi_hot(rows: Sequence[tuple[str, str]]) -> np.ndarray:
        # Without doses every part counts log(1 + 1) / log(1 + 1) = 1.
        return np.asarray([[float(g in p.split("+")) for g in "ABC"] for _, p in rows])

    reference = Ridge(alpha=alpha).fit(multi_hot(RIDGE_ROWS), delta.astype(np.float64))
    expected = reference.predict(multi_hot([*RIDGE_ROWS, ("x", "A+B"), ("x", "Q")]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ridge_scales_genes_by_log_dose_relative_to_the_largest_of_each() -> None:
    rows = [("x", "A", "", "9 uM"), ("x", "A+B", "", "4+9"), ("x", "B", "", "0.5")]
    delta = np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32)
    found = means("ridge", view_of(rows, delta), [*rows, ("x", "A", "", "99")], alphas=(0.5,))
    # No perturbation has several doses alone; beyond its largest a gene gains what the logarithm does.
    log = {d: np.log1p(d) / np.log1p(9) for d in (0.5, 4, 99)}
    X = np.asarray([[1, 0], [1, 1], [0, log[0.5]], [1 + log[99] - log[4], 0]])
    expected = Ridge(alpha=0.5).fit(X[:3], delta.astype(np.float64)).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ridge_adds_components_of_the_controls_on_one_scale() -> None:
    rng = np.random.default_rng(4)
    delta, control = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    control[2] = control[3]
    model = fitted("ridge", view_of(RIDGE_ROWS, delta, control=control), alphas=(1.0,), control_components=2)
    requested = rng.normal(size=(6, 4)).astype(np.float32)
    found = model.predict(query_of(RIDGE_ROWS, 4, requested)).mean

    distinct = np.unique(control.astype(np.float64), axis=0)
    assert len(distinct) == 5
    pca = PCA(n_components=2, svd_solver="full").fit(distinct)

    def features(C: np.ndarray) -> np.ndarray:
        hot = np.asarray([[float(g in p.split("+")) for g in "ABC"] for _, p in RIDGE_ROWS])
        return np.concatenate([hot, pca.transform(C) / np.sqrt(pca.explained_variance_[0])], axis=1)

    reference = Ridge(alpha=1.0).fit(features(control.astype(np.float64)), delta.astype(np.float64))
    np.testing.assert_allclose(
        found, reference.predict(features(requested.astype(np.float64))), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("noise", "expected"), [(0.01, 0.1), (20.0, 100.0)])
def test_ridge_takes_the_penalty_with_the_least_error_on_inner_folds(noise: float, expected: float) -> None:
    rng = np.random.default_rng(5)
    rows = [(c, p) for c in "xyz" for p in "ABCD"]
    effect = {p: rng.normal(size=8) for p in "ABCD"}
    delta = np.stack([effect[p] for _, p in rows]) + noise * rng.normal(size=(12, 8))
    inner = [[i for i, (c, _) in enumerate(rows) if c == held] for held in "xyz"]
    view = view_of(rows, delta, inner=inner)
    alphas = (0.1, 1.0, 10.0, 100.0)
    hot = np.asarray([[float(g == p) for g in "ABCD"] for _, p in rows])
    errors = []
    for alpha in alphas:
        error = 0.0
        for fit, held in view.inner:
            model = Ridge(alpha=alpha).fit(hot[fit], view.delta[fit].astype(np.float64))
            error += float(((view.delta[held] - model.predict(hot[held])) ** 2).sum())
        errors.append(error)
    assert alphas[int(np.argmin(errors))] == expected
    assert fitted("ridge", view).training["alpha"] == expected


# ---- variance ---------------------------------------------------------------------------------------------


def _shrunk(residuals: np.ndarray) -> np.ndarray:
    n = len(residuals)
    per_gene = (residuals**2).sum(axis=0) / n
    return (n * per_gene + 5 * per_gene.mean()) / (n + 5)


def test_the_variance_of_the_global_mean_is_that_of_its_out_of_fold_errors() -> None:
    view = table_view(inner=[[0, 3], [1, 2]])
    # Fold 0 leaves [3, 0, 0] and [0, 2, 0]: mean [1.5, 1, 0]; fold 1 leaves [1, 0, 0] and [0, 4, 6]: mean [.5, 2, 3].
    residuals = np.asarray([[-0.5, -1, 0], [-1.5, 3, 6], [2.5, -2, -3], [-0.5, 0, -3]])
    model = fitted("global_mean", view)
    prediction = model.predict(query_of([("x", "A"), ("z", "Q")], 3))
    np.testing.assert_allclose(prediction.var, np.stack([_shrunk(residuals)] * 2), rtol=1e-6)
    assert model.training["variance"] == {"source": "out_of_fold", "conditions": 4, "inner_folds": 2}


def test_the_variance_without_inner_folds_is_that_of_the_fit_and_says_so() -> None:
    model = fitted("global_mean", table_view())
    residuals = np.asarray([d for _, d in TABLE], dtype=np.float64) - MEAN
    prediction = model.predict(query_of([("x", "A")], 3))
    np.testing.assert_allclose(prediction.var[0], _shrunk(residuals), rtol=1e-6)
    assert model.training["variance"] == {"source": "in_sample", "conditions": 4, "inner_folds": 0}


def test_the_variance_never_vanishes() -> None:
    view = view_of([("x", "A"), ("x", "B")], [[1, 2, 3], [1, 2, 3]], inner=[[0], [1]])
    np.testing.assert_allclose(fitted("global_mean", view).predict(query_of([("x", "A")], 3)).var, 1e-6)


# ---- floors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "params", "model"),
    [
        pytest.param("combo_ood", {"folds": 2, "fold": 0}, "additive", id="additive on combinations"),
        pytest.param("context_ood", {"params": {"holdout": ["C0"]}}, "per_perturbation_mean", id="perturbation on contexts"),
        pytest.param("context_ood", {"params": {"holdout": ["C0"]}}, "ridge", id="ridge on contexts"),
        pytest.param("context_ood", {"params": {"holdout": ["C0"]}}, "latent_shift", id="latent shift on contexts"),
    ],
)  # fmt: skip
def test_a_baseline_beats_the_mean_where_it_should(kind: str, params: dict[str, Any], model: str) -> None:
    ds = simulated(n_obs=2400, n_genes=60, n_contexts=3, n_perts=8, n_combos=8, seed=7)
    split = split_one(ds, kind, **params)
    view = train_view(ds, split)
    scores = {}
    for name in ("global_mean", model):
        comparison = compare(ds, split, predict_rows(ds, split, fitted(name, view)))
        results = evaluate(comparison, ["delta"]).results
        scores[name] = {r.metric.name: float(np.mean(r.values)) for r in results}
    assert scores[model]["pearson"] > scores["global_mean"]["pearson"] + 0.1
    assert scores[model]["rmse"] < scores["global_mean"]["rmse"]
