"""Dose-response curve of train, and what the models that read doses make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import load_model, new_model, save_model
from perturbfm_core.models.baselines.dose_response import DoseCurve, DoseResponse
from perturbfm_core.models.baselines.dose_series import doses_of
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.strata_mean import StrataMean
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.scale import USUAL
from perturbfm_core.splits.view import TrainView
from tests.support.factories import conditions_of, query_of, view_of

DOSES = (0.1, 1.0, 10.0, 100.0)


def saturating(
    half: float,
    *,
    doses: tuple[float, ...] = DOSES,
    contexts: int = 1,
    shared: float = 0.0,
    scale: float = 1.0,
    genes: int = 40,
    name: str = "D",
) -> TrainView:
    """Return six drugs (or, of another name, genes) whose effects are d / (d + half) times a vector, plus noise that a context shares."""
    rng = np.random.default_rng(0)
    effects, rows, delta = rng.normal(size=(6, genes)), [], []
    for c in range(contexts):
        noise = shared * rng.normal(size=genes)
        for p, effect in enumerate(effects):
            for d in doses:
                rows.append((f"c{c}", f"{name}{p}", "drug", f"{d * scale:g}"))
                delta.append(d / (d + half) * effect + noise + 0.05 * rng.normal(size=genes))
    return view_of(rows, delta)


def curve_of(view: TrainView) -> DoseCurve:
    """Return the curve of doses without a unit."""
    return DoseResponse.fit(view).curves[""]


@pytest.mark.parametrize("contexts", [1, 3])
@pytest.mark.parametrize("half", [0.3, 2.0, 30.0])
def test_the_half_maximal_dose_of_saturating_effects_is_found(half: float, contexts: int) -> None:
    found = curve_of(saturating(half, contexts=contexts))
    assert found.top == 100.0
    assert found.half == pytest.approx(half, rel=0.3)
    true = np.asarray(DOSES) / (np.asarray(DOSES) + half) * (100 + half) / 100
    np.testing.assert_allclose(found.amounts(np.asarray(DOSES)), true, atol=0.03)


def test_noise_that_a_context_shares_does_not_make_doses_alike() -> None:
    found = curve_of(saturating(20.0, contexts=8, shared=1.0))
    assert found.half == pytest.approx(20.0, rel=0.5)
    # Within a context that noise is in every dose, and nothing tells it from an effect.
    assert curve_of(saturating(20.0, shared=1.0)).half < 2.0


def test_doses_in_few_contexts_count_by_what_was_measured() -> None:
    view = saturating(20.0, contexts=8)
    contexts, doses = (view.conditions[c].astype(str).to_numpy() for c in ("context_id", "doses"))
    # The largest dose in two contexts only, as screens have more of their usual dose.
    some = view.subset((doses != "100") | np.isin(contexts, ["c0", "c1"]))
    assert curve_of(some).half == pytest.approx(20.0, rel=0.3)


def test_one_loud_perturbation_does_not_decide_alone() -> None:
    view = saturating(1.0)
    loud = view.conditions["pert_id"].astype(str).to_numpy() == "D0"
    delta = view.delta.copy()
    # Proportional to the dose, and a hundred times as large.
    delta[loud] = np.asarray(DOSES)[:, None] / 100 * 100 * delta[loud][[-1]]
    found = curve_of(replace(view, delta=delta))
    assert found.half is not None
    assert found.half < 4.0


def test_the_unit_of_doses_does_not_matter() -> None:
    one, other = (curve_of(saturating(2.0, scale=s)) for s in (1.0, 1000.0))
    np.testing.assert_allclose(
        one.amounts(np.asarray([0.5, 40.0, 1000.0])), other.amounts(np.asarray([500.0, 4e4, 1e6])), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("rows", "delta"),
    [
        pytest.param([("x", "A", "drug", "9"), ("x", "B", "drug", "9")], [[1.0], [2.0]], id="one dose"),
        pytest.param([("x", "A+B", "drug", "1+1"), ("x", "A+B", "drug", "9+9")], [[1.0], [2.0]], id="combos"),
        pytest.param([("x", "A", "drug", "1"), ("x", "A", "drug", "10")], [[0.0], [0.0]], id="no effects"),
        pytest.param([("x", "A", "drug", "0"), ("x", "A", "drug", "10")], [[0.0], [2.0]], id="one above 0"),
        pytest.param([("x", "A", "drug", "low"), ("x", "A", "drug", "high")], [[1.0], [2.0]], id="words"),
        pytest.param(
            [
                ("x", "A", "drug", "1"),
                ("x", "A", "drug", "9"),
                ("y", "A", "drug", "1"),
                ("y", "A", "drug", "9"),
            ],
            [[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]],
            id="opposite in contexts",
        ),
    ],
)
def test_without_a_series_of_doses_amounts_are_logarithmic(rows: Any, delta: Any) -> None:
    found = DoseResponse.fit(view_of(rows, delta))
    assert all(curve.half is None for curve in found.curves.values())
    assert found == DoseResponse.logarithmic(conditions_of(rows))


def test_amounts_are_1_at_the_top_0_without_a_dose_and_1_where_a_dose_is_no_number() -> None:
    doses = ["0", ".5 uM", "1.e1 uM", "", "."]
    for half in (None, 0.2, 1e3):
        found = DoseResponse({"uM": DoseCurve(10.0, half)}).amounts(doses)
        assert found[[0, 2, 3, 4]].tolist() == [0.0, 1.0, 1.0, 1.0]
        assert 0 < found[1] < 1
    assert doses_of(["1.2.3"]).tolist() == [1.2]
    np.testing.assert_allclose(DoseCurve(10.0).amounts(doses_of(doses))[1], np.log(1.5) / np.log(11))
    np.testing.assert_allclose(DoseCurve(10.0, 2.0).amounts(doses_of(doses))[1], 0.5 / 2.5 * 12 / 10)


def test_doses_of_different_units_have_curves_of_their_own() -> None:
    one, other = (saturating(half, scale=s) for half, s in ((0.3, 1.0), (30.0, 1e-3)))
    rows = [
        (c, f"{name}{p}", m, f"{d} {unit}")
        for view, name, unit in ((one, "drug", "uM"), (other, "cytokine", "ug/ml"))
        for c, p, m, d, _ in view.conditions.astype(str).itertuples(index=False)
    ]
    both = view_of(rows, np.concatenate([one.delta, other.delta]))
    found = DoseResponse.fit(both)
    for unit, alone in (("uM", one), ("ug/ml", other)):
        assert found.curves[unit] == curve_of(alone)
    # Converted where they can be; 1 where train has none of the unit.
    doses = ["100000 nM", "100 uM", "100 ng/ml", "0.1 ug/ml", "5 Gy", "0 Gy"]
    assert found.amounts(doses).tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert DoseResponse.restored({"response": found.meta()}) == found


def test_what_is_given_at_a_small_dose_is_no_smaller() -> None:
    """Drugs at 10 uM beside others at 0.01 ug/ml, or 0.01 uM: each at one dose, and all of the same effect."""
    rng, contexts = np.random.default_rng(0), [f"c{i}" for i in range(5)]
    effects = rng.normal(size=(8, 20))

    def errors(doses: tuple[str, str]) -> Any:
        rows = [(c, f"P{p}", "", doses[p % 2]) for c in contexts for p in range(8)]
        delta = np.tile(effects, (len(contexts), 1))
        view = view_of(rows, delta, inner=[[p + 8 * c for p in range(8)] for c in range(5)])
        asked = query_of([("new", f"P{p}", "", doses[p % 2]) for p in range(8)], 20)
        return np.sqrt(((_mean(_fitted("ridge", view), asked) - effects) ** 2).mean(axis=1))

    for doses in (("10 uM", "0.01 ug/ml"), ("10 uM", "0.01 uM")):
        np.testing.assert_allclose(errors(doses), errors(("", "")), rtol=1e-4)


def test_where_each_has_a_dose_of_its_own_that_dose_counts_as_1() -> None:
    rows = [("x", "A", "drug", "0.01"), ("x", "B", "drug", "10"), ("x", "A+B", "drug", "0.1+10")]
    found = DoseResponse.fit(view_of(rows, np.ones((3, 2))))

    def amounts(name: str, *doses: float) -> list[float]:
        return found.amounts([f"{d:g}" for d in doses], [f"{name}|drug"] * len(doses)).tolist()

    log = np.log1p([0.01, 0.1, 1.0, 10.0, 100.0]) / np.log(11)
    # Its largest dose; less below it in proportion, and beyond it what the logarithm gains.
    assert amounts("A", 0, 0.01, 0.1) == [0.0, pytest.approx(log[0] / log[1]), 1.0]
    np.testing.assert_allclose(amounts("A", 1, 10), 1.0 + log[2:4] - log[1])
    np.testing.assert_allclose(amounts("B", 1, 10, 100), log[2:])
    # One that train lacks: within the doses of train nothing tells of its own.
    np.testing.assert_allclose(amounts("C", 0.01, 0.1, 1, 10, 100), [log[0] / log[1], 1, 1, 1, log[4]])
    for name in ("A", "B", "C"):
        assert (np.diff(amounts(name, *np.geomspace(1e-3, 1e3, 60))) >= 0).all()
    assert DoseResponse.restored({"response": found.meta()}) == found


def test_a_fit_with_one_curve_for_all_units_is_read() -> None:
    found = DoseResponse.restored({"response": {"top": 10.0, "half": 2.0}})
    np.testing.assert_allclose(found.amounts(["0.5 uM", "0.5", "0", "", "10 g/kg"])[:4], [0.24, 0.24, 0, 1])


def test_beyond_the_largest_dose_of_train_a_saturated_effect_stays() -> None:
    view = saturating(1.0, doses=(0.1, 1.0, 10.0))
    at, beyond = (query_of([("c0", f"D{p}", "drug", d) for p in range(6)], 40) for d in ("10", "100"))
    for model in (SetProcess().choose(view).fit(view), _fitted("ridge", view)):
        known, new = (_mean(model, query) for query in (at, beyond))
        slope = float((new * known).sum() / (known**2).sum())
        # 1.09 by 100 / 101 and 10 / 11; the logarithm has 1.9.
        assert 1.0 < slope < 1.2, model


def test_the_mean_of_the_process_is_in_proportion_to_the_dose() -> None:
    rows = [("x", p, "drug", d) for p in "AB" for d in ("1", "3")]
    view = view_of(rows, [[2.0], [3.0], [2.0], [3.0]])
    mean = StrataMean(by_size=False).fit(view)
    amounts = DoseResponse.fit(view).amounts(["1", "3"])
    top = (amounts @ [2.0, 3.0]) / (amounts @ amounts)
    found = mean.predict(query_of([("x", "C", "drug", "1"), ("x", "C", "drug", "3")], 1))
    np.testing.assert_allclose(found[:, 0], amounts * top, rtol=1e-5)


def test_the_effect_of_a_single_at_a_new_dose_is_that_of_the_others_in_proportion() -> None:
    view = saturating(1.0, doses=(0.1, 1.0, 10.0))
    kernel = SimilarityKernel().fit(view)
    effects = {
        d: kernel.described(query_of([("c0", f"D{p}", "drug", d) for p in range(6)], 40)).effects
        for d in ("0.1", "10", "100")
    }
    amounts = DoseResponse.fit(view).amounts(["10", "100"])
    slope = (effects["100"] * effects["10"]).sum() / (effects["10"] ** 2).sum()
    assert slope == pytest.approx(amounts[1] / amounts[0], rel=0.03)
    # A dose that train has keeps what was measured at it.
    own = (view.delta[:: len(DOSES) - 1].astype(np.float64)) @ principal_components(
        view.delta.astype(np.float64), 18, USUAL.exact
    ).varying().T
    np.testing.assert_allclose((effects["0.1"] ** 2).sum(axis=1), (own**2).sum(axis=1), rtol=1e-3)


@pytest.mark.parametrize("name", ["ridge", "gene_embedding_ridge", "perturbfm-v0", "perturbfm-v2"])
def test_a_saved_model_keeps_its_curve(name: str, tmp_path: Any) -> None:
    view = saturating(2.0, name="g")
    model = _fitted(name, view)
    asked = query_of([("c0", "g1", "drug", "30"), ("c0", "g2", "drug", "1000")], 40)
    (tmp_path / "model").mkdir()
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(asked).mean, model.predict(asked).mean)
    assert not np.allclose(model.predict(asked).mean, 0.0)


def _mean(model: Any, query: Any) -> Any:
    found = model.predict(query)
    return found[0] if isinstance(found, tuple) else found.mean


def _fitted(name: str, view: TrainView) -> Any:
    model = new_model(name, {})
    model.side_info = SideInfo()
    model.fit(view, 0)
    return model
