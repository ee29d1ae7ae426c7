"""Many conditions: inducing conditions beside the dense process, options chosen on some, calibrated variances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.condition import canonical_covariates
from perturbfm_core.models.base import load_model, new_model, save_model
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.inducing import InducingTrain
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.core.posterior import SetProcessPosterior
from perturbfm_core.models.scale import Scale
from tests.support.factories import query_of, view_of
from tests.support.large_screens import screen

# Every condition is an inducing one, so that nothing but the way of computing differs.
ALL = Scale(exact=10, inducing=10_000, sample=10_000, held=10_000, genes=10_000)
KERNELS = [
    Kernel(identity=1.0, effect=0.5, context=0.4, level=0.2),
    Kernel(identity=0.3, effect=1.0, pair=1.0, linear=0.5),
    Kernel(identity=2.0, context=0.7, level=0.3, by_size=False),
]


def world(seed: int = 0) -> tuple[Any, Any]:
    """Return conditions of three contexts, singles and pairs, and conditions to predict."""
    rng = np.random.default_rng(seed)
    perts = [f"p{i}" for i in range(30)] + [f"p{i}+p{i + 1}" for i in range(12)]
    rows = [(c, p) for c in "cde" for p in perts if not (c == "e" and "p3" in p)]
    states = rng.random((3, 25))
    control = np.stack([states["cde".index(c)] for c, _ in rows])
    delta = rng.normal(size=(len(rows), 3)) @ rng.normal(size=(3, 25)) + 0.5 * rng.normal(
        size=(len(rows), 25)
    )
    asked = [("e", "p3"), ("c", "p0+p9"), ("d", "new"), ("e", "p2+p3"), ("c", "p1")]
    query = query_of(asked, 25, np.stack([states["cde".index(c)] for c, _ in asked]))
    return view_of(rows, delta, control=control), query


def fitted(view: Any, kernel: Kernel, scale: Scale) -> SetProcess:
    lambdas = np.tile([0.5, 2.0, 8.0, 8.0, 32.0], 5)
    return SetProcess(presets=[kernel], scale=scale).choose(view).fit(view, lambdas)


@pytest.mark.parametrize("kernel", KERNELS)
def test_with_all_conditions_inducing_the_process_is_the_dense_one(kernel: Kernel) -> None:
    view, query = world()
    exact, induced = fitted(view, kernel, Scale()), fitted(view, kernel, ALL)
    assert isinstance(induced.given, InducingTrain)
    assert induced.noise == pytest.approx(exact.noise, rel=1e-4)
    for a, b in zip(exact.predict(query), induced.predict(query), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)
    left, found = (SetProcessPosterior(p).posterior(query) for p in (exact, induced))
    assert found.variance == pytest.approx(left.variance, abs=1e-4)
    for i in range(len(query)):
        assert found.column(i) == pytest.approx(left.column(i), abs=1e-4)
    alike, seen = (SetProcessPosterior(p).similarity(query) for p in (exact, induced))
    assert seen == pytest.approx(alike, abs=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_other_times_share_as_much_of_an_effect_as_by_the_dense_process(share: float) -> None:
    rng = np.random.default_rng(4)
    times = [canonical_covariates({"time": f"{t} h"}) for t in (6, 24)]
    rows = [("c", f"p{i}", "", "", t) for i in range(20) for t in times if (i, t) != (3, times[1])]
    view = view_of(rows, rng.normal(size=(len(rows), 25)))
    query = query_of([("c", "p3", "", "", times[1]), ("c", "p5", "", "", "")], 25)
    kernel = Kernel(identity=1.0, covariates=share)
    exact, induced = fitted(view, kernel, Scale()), fitted(view, kernel, ALL)
    for a, b in zip(exact.predict(query), induced.predict(query), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_few_inducing_conditions_leave_variances_between_none_and_the_prior(kernel: Kernel) -> None:
    view, query = world(1)
    process = fitted(view, kernel, Scale(exact=10, inducing=20))
    left = SetProcessPosterior(process).posterior(query)
    prior = process.similarity.diagonal(query, kernel)
    assert (left.variance >= 0).all()
    assert (left.variance <= prior + 1e-9).all()
    assert np.stack([left.column(i)[:, i] for i in range(len(query))], axis=1) == pytest.approx(
        left.variance, abs=1e-9
    )
    # Of what train has measured a smaller share is unknown than of what it has not.
    share = left.variance / prior
    assert (share[:, 4] < share[:, 2]).all()


def test_genes_that_few_conditions_share_are_exact_whatever_the_inducing_ones() -> None:
    view, query = world(2)
    kernel = Kernel(identity=1.0, context=0.5)
    exact, one = (
        fitted(view, kernel, Scale()),
        fitted(view, kernel, Scale(exact=10, inducing=1, genes=10_000)),
    )
    for a, b in zip(exact.predict(query), one.predict(query), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


def test_a_loaded_process_predicts_as_the_fitted_one() -> None:
    view, query = world(3)
    process = fitted(view, KERNELS[0], Scale(exact=10, inducing=40))
    other = SetProcess(scale=process.scale)
    other.restore("p", process.arrays("p"), process.meta("p"), [str(g) for g in view.genes])
    for a, b in zip(process.predict(query), other.predict(query), strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-6)


def test_options_are_chosen_on_some_conditions_and_recorded() -> None:
    case = screen("genes", 240, 60, test=20)
    scale = Scale(exact=100, inducing=100, sample=120, genes=30)
    process = SetProcess(case.tables, scale=scale).choose(case.view)
    assert process.choice["by"] == "5 inner folds of 120 of 240 conditions"
    assert process.choice["inducing"] == 100
    assert process.kernel.features > 0
    assert process.lambdas.shape == (60,)
    again = SetProcess(case.tables, scale=scale).choose(case.view)
    assert again.choice == process.choice


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n"), [("genes", 600), ("contexts", 300), ("combos", 300)])
def test_many_conditions_cost_no_skill_and_keep_their_variance(kind: str, n: int, tmp_path: Any) -> None:
    case = screen(kind, n, 100, test=150)
    scores = []
    for scale in (Scale(), Scale(exact=n // 2)):
        model = new_model("perturbfm-v2", {"gene_features": tuple(case.info.features), "gate": "off"})
        model.side_info, model.scale = case.info, scale  # type: ignore[attr-defined]
        model.fit(case.view, 0)
        prediction = model.predict(case.query)
        scores.append(case.pearson(prediction.mean))
        assert case.squared_z(prediction) == pytest.approx(1.0, abs=0.2)
    assert f"of {n} conditions" in model.training["core"]["set_process"]["by"]
    assert abs(scores[1] - scores[0]) < 0.002
    save_model(model, tmp_path)
    again = load_model(tmp_path).predict(case.query)
    assert again.mean == pytest.approx(prediction.mean, rel=1e-4, abs=1e-5)
    assert again.var == pytest.approx(prediction.var, rel=1e-4)
