"""Baselines over gene embeddings, against scikit-learn and values computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from perturbfm_core.errors import ConfigError, GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import Needs, SideInfo
from perturbfm_core.models.base import Model, load_model, new_model, save_model
from perturbfm_core.splits.view import TrainView
from tests.support.factories import query_of, view_of

Rows = Sequence[Sequence[str]]
MODELS = ("gene_embedding_ridge", "kernel_ridge", "knn")

WORDS = {
    "A": [0.0, 0.0, 0.0],
    "B": [1.0, 0.0, 0.0],
    "C": [0.0, 2.0, 0.0],
    "D": [1.0, 2.0, 1.0],
    "N": [1.0, 0.0, 0.1],
}
"""N is not in train and lies by B."""


def side_info_of(**tables: Mapping[str, Sequence[float]]) -> SideInfo:
    """Return tables of gene features."""
    return SideInfo(
        features={
            name: GeneFeatures(
                name, np.asarray(list(rows), dtype=np.str_), np.asarray(list(rows.values()), dtype=np.float32)
            )
            for name, rows in tables.items()
        }
    )


def fitted(name: str, view: TrainView, given: SideInfo | None = None, **params: Any) -> Model:
    """Return a model fitted with the table of words unless other side information is given."""
    given = side_info_of(words=WORDS) if given is None else given
    few = {"neighbours": (1,)} if name == "knn" else {}
    model = new_model(name, {"gene_features": list(given.features), **few, **params})
    model.side_info = given
    model.fit(view, 0)
    return model


def means(model: Model, rows: Rows) -> np.ndarray:
    """Return what a model predicts."""
    return model.predict(query_of(rows, model.genes)).mean


def scaled(words: Mapping[str, Sequence[float]], train: Sequence[str]) -> dict[str, np.ndarray]:
    """Return features centred on the train genes, over the root of their total variance; unknown genes at zero."""
    known = np.asarray([words[g] for g in train if g in words])
    spread = np.sqrt(known.var(axis=0).sum())
    table = {g: (np.asarray(v) - known.mean(axis=0)) / spread for g, v in words.items()}
    return {**dict.fromkeys("ABCDEFNQZ", np.zeros(known.shape[1])), **table}


SINGLES = [("x", g) for g in "ABCD"]


def single_view(**fields: Any) -> TrainView:
    """Return a view of four singles."""
    return view_of(SINGLES, np.random.default_rng(0).normal(size=(4, 5)), **fields)


# ---- the three regressions --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 20.0])
def test_gene_embedding_ridge_is_that_of_scikit_learn(alpha: float) -> None:
    view = single_view()
    point = scaled(WORDS, "ABCD")
    X = np.stack([point[g] for g in "ABCD"])
    reference = Ridge(alpha=alpha).fit(X, view.delta.astype(np.float64))
    found = means(fitted("gene_embedding_ridge", view, alphas=(alpha,)), [*SINGLES, ("x", "N")])
    expected = reference.predict(np.stack([*X, point["N"]]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 20.0])
def test_kernel_ridge_is_that_of_scikit_learn(alpha: float) -> None:
    view = single_view()
    point = scaled(WORDS, "ABCD")
    X = np.stack([point[g] for g in "ABCD"])
    d2 = ((X[:, None] - X) ** 2).sum(axis=2)
    mean = view.delta.mean(axis=0)
    reference = KernelRidge(alpha=alpha, kernel="rbf", gamma=1 / np.median(d2[d2 > 0]))
    reference.fit(X, (view.delta - mean).astype(np.float64))
    found = means(fitted("kernel_ridge", view, alphas=(alpha,)), [*SINGLES, ("x", "N")])
    expected = mean + reference.predict(np.stack([*X, point["N"]]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "requested", "nearest"),
    [
        pytest.param(1, "N", "B", id="one"),
        pytest.param(2, "N", "AB", id="two"),
        pytest.param(9, "N", "ABCD", id="more than there are"),
        pytest.param(1, "D", "D", id="itself"),
    ],
)
def test_knn_averages_the_nearest(k: int, requested: str, nearest: str) -> None:
    view = single_view()
    found = means(fitted("knn", view, neighbours=(k,)), [("x", requested)])[0]
    rows = ["ABCD".index(g) for g in nearest]
    np.testing.assert_allclose(found, view.delta[rows].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_knn_takes_all_that_are_as_near_as_the_last() -> None:
    words = {"A": [0.1, 0.0], "B": [0.0, 0.1], "C": [0.7, 0.7], "Z": [0.0, 0.0]}
    view = view_of([("x", g) for g in "ABC"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    found = means(fitted("knn", view, side_info_of(words=words), neighbours=(1,)), [("x", "Z")])[0]
    np.testing.assert_allclose(found, [0.5, 0.5, 0], atol=1e-6)


def test_the_features_of_a_combination_are_the_sum_of_its_genes_and_its_mean_that_of_combinations() -> None:
    rows = [*SINGLES, ("x", "A+B"), ("x", "C+D"), ("x", "B+D")]
    delta = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    point = scaled(WORDS, "ABCD")
    X = np.stack([np.sum([point[g] for g in p.split("+")], axis=0) for _, p in rows])
    centred, target = X.copy(), delta.astype(np.float64)
    for part in (slice(0, 4), slice(4, 7)):
        centred[part] -= X[part].mean(axis=0)
        target[part] = delta[part] - delta[part].mean(axis=0)
    coef = Ridge(alpha=2.0, fit_intercept=False).fit(centred, target).coef_.T
    found = means(
        fitted("gene_embedding_ridge", view_of(rows, delta), alphas=(2.0,)), [("x", "A+N"), ("x", "N")]
    )
    pair = point["A"] + point["N"] - X[4:].mean(axis=0)
    np.testing.assert_allclose(found[0], delta[4:].mean(axis=0) + pair @ coef, rtol=1e-4, atol=1e-5)
    single = point["N"] - X[:4].mean(axis=0)
    np.testing.assert_allclose(found[1], delta[:4].mean(axis=0) + single @ coef, rtol=1e-4, atol=1e-5)


def test_all_conditions_can_share_one_mean() -> None:
    rows = [*SINGLES, ("x", "A+B"), ("x", "C+D")]
    delta = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
    point = scaled(WORDS, "ABCD")
    X = np.stack([np.sum([point[g] for g in p.split("+")], axis=0) for _, p in rows])
    model = fitted("gene_embedding_ridge", view_of(rows, delta), alphas=(2.0,), center="all")
    expected = Ridge(alpha=2.0).fit(X, delta.astype(np.float64)).predict([point["N"]])
    np.testing.assert_allclose(means(model, [("x", "N")]), expected, rtol=1e-4, atol=1e-5)


# ---- groups and what tables lack --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("requested", "like"),
    [
        pytest.param(("x", "Q", "on"), [0, 1], id="context, modality, size"),
        pytest.param(("z", "Q", "on"), [0, 1, 2], id="modality and size"),
        pytest.param(("x", "Q+Z", "off"), [4, 5], id="modality"),
        pytest.param(("x", "B", "both"), [0, 1, 2, 3, 4, 5], id="all"),
    ],
)
def test_a_condition_without_features_gets_the_mean_of_its_group(
    name: str, requested: tuple[str, ...], like: list[int]
) -> None:
    rows = [
        ("x", "A", "on"),
        ("x", "B", "on"),
        ("y", "C", "on"),
        ("y", "A+B", "on"),
        ("x", "A", "off"),
        ("x", "B", "off"),
    ]
    delta = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    found = means(fitted(name, view_of(rows, delta)), [requested])[0]
    np.testing.assert_allclose(found, delta[like].mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_gene_switched_on_says_nothing_of_the_gene_switched_off(name: str) -> None:
    rows = [("x", g, m) for m in ("on", "off") for g in "ABCD"]
    delta = np.random.default_rng(4).normal(size=(8, 4)).astype(np.float32)
    loud = delta.copy()
    loud[4:] *= -30
    requested = [("x", "N", "on"), ("x", "A", "on")]
    quiet_model, loud_model = (fitted(name, view_of(rows, d)) for d in (delta, loud))
    np.testing.assert_allclose(
        means(loud_model, requested), means(quiet_model, requested), rtol=1e-4, atol=1e-5
    )
    other = [("x", "N", "off")]
    assert not np.allclose(means(loud_model, other), means(quiet_model, other), atol=0.1)


def test_a_gene_that_a_table_lacks_counts_as_the_mean_gene() -> None:
    words = {g: WORDS[g] for g in "ABC"}
    tables = side_info_of(words=words, other={"A": [1.0], "C": [4.0], "E": [7.0], "D": [5.0]})
    view = view_of([("x", g) for g in "ABCDE"], np.random.default_rng(5).normal(size=(5, 4)))
    model = fitted("gene_embedding_ridge", view, tables, alphas=(1.5,))
    assert model.training["known_genes"] == {"words": [3, 5], "other": [4, 5]}
    first, second = scaled(words, "ABCDE"), scaled(tables_rows(tables, "other"), "ABCDE")
    X = np.stack([np.concatenate([first[g], second[g][:1]]) for g in "ABCDE"])
    expected = Ridge(alpha=1.5).fit(X, view.delta.astype(np.float64)).predict(X)
    np.testing.assert_allclose(means(model, [("x", g) for g in "ABCDE"]), expected, rtol=1e-4, atol=1e-5)


def tables_rows(given: SideInfo, name: str) -> dict[str, list[float]]:
    """Return a table as a mapping."""
    table = given.feature_table(name)
    return {str(g): row.tolist() for g, row in zip(table.genes, table.matrix, strict=True)}


def test_features_are_scaled_by_log_dose() -> None:
    rows = [("x", "A", "", "1"), ("x", "B", "", "9"), ("x", "C", "", "4"), ("x", "D+B", "", "1+9")]
    view = view_of(rows, np.random.default_rng(6).normal(size=(4, 5)))
    model = fitted("gene_embedding_ridge", view, alphas=(1.0,), center="all")
    point = scaled(WORDS, "ABCD")
    # Each at its own dose, which counts as 1; N at less than the least of them.
    X = np.stack([point["A"], point["B"], point["C"], point["D"] + point["B"]])
    less = np.log1p(0.5) / np.log1p(1)
    expected = Ridge(alpha=1.0).fit(X, view.delta.astype(np.float64)).predict([less * point["N"]])
    np.testing.assert_allclose(means(model, [("x", "N", "", "0.5")]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_name_with_a_plus_sign_has_its_features(name: str) -> None:
    plus = {"(+)-B" if g == "B" else g: v for g, v in WORDS.items()}
    delta = np.random.default_rng(0).normal(size=(4, 5))
    view = view_of([("x", g) for g in ("A", "(%2B)-B", "C", "D")], delta)
    found = means(fitted(name, view, side_info_of(words=plus)), [("x", "(%2B)-B"), ("x", "N")])
    expected = means(fitted(name, view_of(SINGLES, delta)), [("x", "B"), ("x", "N")])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_with_one_gene_the_mean_is_predicted(name: str) -> None:
    view = view_of(SINGLES, [[1.0], [2.0], [3.0], [6.0]], genes=["G"])
    model = new_model(name, None)
    model.fit(view, 0)
    np.testing.assert_allclose(means(model, [("x", "A"), ("x", "N")]), 3.0, rtol=1e-6)


# ---- where features come from -----------------------------------------------------------------------------


def test_without_a_table_the_embedding_is_co_expression_in_train() -> None:
    rng = np.random.default_rng(7)
    genes = [f"g{i}" for i in range(12)]
    rows = [("x", g) for g in genes[:6]]
    delta = rng.normal(size=(6, 12)).astype(np.float32)
    model = new_model("kernel_ridge", {"alphas": [1.0], "components": 3})
    assert model.needs() == Needs()
    model.fit(view_of(rows, delta, genes=genes), 0)
    assert model.training["known_genes"] == {"coexpression": [6, 6]}
    scores = PCA(n_components=3, svd_solver="full").fit_transform(delta.astype(np.float64).T)
    table = side_info_of(made={g: s.tolist() for g, s in zip(genes, scores, strict=True)})
    same = fitted("kernel_ridge", view_of(rows, delta, genes=genes), table, alphas=(1.0,))
    requested = [("x", "g9"), ("x", "g0"), ("x", "elsewhere")]
    found = means(model, requested)
    np.testing.assert_allclose(found, means(same, requested), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[2], delta.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[0], found[2], atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_needs_the_tables_it_names_and_no_more(name: str) -> None:
    model = new_model(name, {"gene_features": ["go", "coexpression", "string"]})
    assert model.needs() == Needs(features=("go", "string"))
    model.side_info = side_info_of(go=WORDS)
    with pytest.raises(GraphError, match="no table of gene features called 'string'"):
        model.fit(single_view(), 0)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_knows_genes_that_train_never_saw(name: str, tmp_path: Path) -> None:
    model = fitted(name, single_view())
    save_model(model, tmp_path)
    requested = [("x", "N"), ("x", "A+N"), ("x", "Q")]
    np.testing.assert_array_equal(means(load_model(tmp_path), requested), means(model, requested))
    assert not np.array_equal(means(model, requested)[0], means(model, requested)[2])


@pytest.mark.parametrize("name", MODELS)
def test_unseen_genes_with_other_features_get_other_predictions(name: str) -> None:
    words = {**WORDS, "M": [0.0, 2.0, 0.1]}
    found = means(fitted(name, single_view(), side_info_of(words=words)), [("x", "N"), ("x", "M")])
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("knn", {"neighbours": [0]}, "neighbours"),
        ("knn", {"neighbours": []}, "neighbours"),
        ("kernel_ridge", {"alphas": []}, "alphas"),
        ("gene_embedding_ridge", {"center": "context"}, "center"),
        ("gene_embedding_ridge", {"alphas": [-1.0]}, "alphas"),
        ("transfer_ridge", {"alphas": [1.0, -1.0]}, "alphas"),
        ("set_kernel_ridge", {"components": 0}, "components"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, params: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        new_model(name, params)


# ---- choosing by inner folds ------------------------------------------------------------------------------


def two_worlds() -> tuple[TrainView, SideInfo]:
    """Return singles whose deltas are noise and pairs that features explain, with the features."""
    rng = np.random.default_rng(8)
    genes = [f"P{i}" for i in range(20)]
    point = {g: rng.normal(size=2) for g in genes}
    pairs = [(genes[i], genes[(i + 1 + i // 10) % 20]) for i in range(20)]
    rows = [("x", g) for g in genes] + [("x", "+".join(sorted(p))) for p in pairs]
    map_ = rng.normal(size=(2, 6))
    delta = [rng.normal(size=6) for _ in genes] + [5 * (point[a] + point[b]) @ map_ for a, b in pairs]
    inner = [[i for i in range(40) if i % 4 == fold] for fold in range(4)]
    return view_of(rows, delta, inner=inner), side_info_of(words={g: p.tolist() for g, p in point.items()})


@pytest.mark.parametrize(
    ("name", "values", "training"),
    [
        ("kernel_ridge", {"alphas": (0.01, 100.0)}, "alpha"),
        ("knn", {"neighbours": (1, 50)}, "neighbours"),
    ],
)
def test_singles_and_combinations_have_a_value_each(
    name: str, values: dict[str, tuple[float, float]], training: str
) -> None:
    view, given = two_worlds()
    ((field, (low, high)),) = values.items()
    least = {}
    for stratum, rows in (("single", range(20)), ("combination", range(20, 40))):
        errors = {}
        for value in (low, high):
            errors[value] = 0.0
            for fit, held in view.inner:
                model = fitted(name, view.subset(fit), given, **{field: (value,)})
                own = held & np.isin(np.arange(40), rows)
                requested = view.conditions[own][["context_id", "pert_id"]].to_numpy().tolist()
                errors[value] += float(np.square(means(model, requested) - view.delta[own]).sum())
        least[stratum] = min(errors, key=errors.__getitem__)
    assert least["single"] != least["combination"]
    model = fitted(name, view, given, **values)
    assert model.training[training] == least
    for stratum, pert in (("single", "P3"), ("combination", "P1+P9")):
        alone = fitted(name, view, given, **{field: (least[stratum],)})
        np.testing.assert_array_equal(means(model, [("x", pert)]), means(alone, [("x", pert)]))


def test_the_values_chosen_once_serve_the_variance(tmp_path: Path) -> None:
    view, given = two_worlds()
    model = fitted("kernel_ridge", view, given, alphas=(0.01, 100.0))
    residuals = []
    for fit, held in view.inner:
        for stratum, rows in (("single", range(20)), ("combination", range(20, 40))):
            own = held & np.isin(np.arange(40), rows)
            alone = fitted(
                "kernel_ridge", view.subset(fit), given, alphas=(model.training["alpha"][stratum],)
            )
            requested = view.conditions[own][["context_id", "pert_id"]].to_numpy().tolist()
            residuals.append(view.delta[own] - means(alone, requested))
    squared = np.concatenate(residuals).astype(np.float64) ** 2
    expected = (40 * squared.mean(axis=0) + 5 * squared.mean()) / 45
    requested = query_of([("x", "P3"), ("x", "P1+P9")], model.genes)
    np.testing.assert_allclose(model.predict(requested).var, np.stack([expected] * 2), rtol=1e-4)
    save_model(model, tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict(requested).mean, model.predict(requested).mean)


@pytest.mark.parametrize("name", MODELS)
def test_without_inner_folds_the_middle_value_is_taken(name: str) -> None:
    field = "neighbours" if name == "knn" else "alphas"
    model = fitted(name, single_view(), **{field: (2, 3, 4)})
    assert model.training["neighbours" if name == "knn" else "alpha"] == 3
