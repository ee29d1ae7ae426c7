"""Conformal intervals: groups, their size, and what they cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.gene_bins import gene_bins, gene_scale
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.uncertainty.config import ConformalConfig
from perturbfm_core.uncertainty.conformal import Conformal, scores_of
from perturbfm_core.uncertainty.groups import novelty, perturbations
from perturbfm_core.uncertainty.quantiles import weighted_quantiles
from tests.support.factories import conditions_of
from tests.support.residuals import hierarchical_quantiles, residuals_of, world

LEVELS = np.asarray([0.5, 0.8, 0.9, 0.95])


def fitted(
    residuals: OutOfFold,
    method: str = "pooled",
    bins: np.ndarray | None = None,
    known: Any = ("Z",),
    **config: Any,
) -> Conformal:
    genes = residuals.truth.shape[1]
    config = {"method": method, **config}
    return Conformal.fit(
        residuals,
        ConformalConfig(**config),
        LEVELS,
        np.zeros(genes, dtype=np.int16) if bins is None else bins,
        frozenset(known),
    )


def applied(conformal: Conformal, rows: Any, genes: int, mean: Any = 0.0) -> Any:
    given = Prediction(
        np.broadcast_to(np.asarray(mean, dtype=np.float32), (len(rows), genes)), np.ones((len(rows), genes))
    )
    found = conformal.apply(given, conditions_of(rows)).intervals
    assert found is not None
    return found


def test_pooled_is_the_weighted_quantile_of_all() -> None:
    residuals = residuals_of(*world(50))
    found = applied(fitted(residuals), [("c", "N"), ("c", "M")], 30)
    expected = weighted_quantiles(scores_of(residuals), np.full(50, 1 / 50), LEVELS)
    np.testing.assert_allclose(found.factor, np.broadcast_to(expected[:, None, None], (4, 2, 1)), rtol=1e-6)
    assert found.effective.tolist() == [50, 50]


def test_hierarchical_has_no_interval_where_no_guarantee_exists() -> None:
    residuals = residuals_of(*world(15))
    found = applied(fitted(residuals, "hierarchical"), [("c", "N")], 30)
    expected = hierarchical_quantiles(scores_of(residuals), residuals.units, LEVELS)
    np.testing.assert_allclose(found.factor[:, 0, 0], expected, rtol=1e-6)
    # 0.95 x 16 > 15.
    assert np.isnan(found.factor[:, 0, 0]).tolist() == [False, False, False, True]


# ---- groups ----------------------------------------------------------------------------------------------------


def two_strata(n: int, m: int) -> OutOfFold:
    """Return residuals of n unseen singles with scale 1 and m combinations of a seen one with scale 5."""
    rows = [("c", f"U{i}") for i in range(n)] + [("c", f"V{i}+Z") for i in range(m)]
    rng = np.random.default_rng(0)
    truth = np.repeat([1.0, 5.0], [n, m])[:, None] * rng.normal(size=(n + m, 40))
    return residuals_of(truth, np.zeros(40), rows=rows, units=[(r[1].split("+")[0],) for r in rows])


def test_a_group_of_twenty_units_has_quantiles_of_its_own() -> None:
    conformal = fitted(two_strata(20, 20), "mondrian", groups=("stratum",))
    single, combo = applied(conformal, [("c", "N"), ("c", "N+Z")], 40).factor[2, :, 0]
    assert single == pytest.approx(1.645, rel=0.08)
    assert combo == pytest.approx(5 * 1.645, rel=0.08)


def test_a_group_of_fewer_units_takes_the_quantiles_of_all() -> None:
    residuals = two_strata(60, 19)
    found = applied(fitted(residuals, "mondrian", groups=("stratum",)), [("c", "N"), ("c", "N+Z")], 40)
    everyone = fitted(residuals).table[0, :, 0]
    np.testing.assert_allclose(found.factor[:, 1, 0], everyone, rtol=1e-6)
    assert (found.factor[:, 0, 0] < everyone).all()
    assert found.effective.tolist() == [60, 79]


def test_units_are_counted_and_not_rows() -> None:
    """Forty combinations that stand for five units are five."""
    residuals = two_strata(60, 40)
    units = residuals.units[:60] + [(f"v{i % 5}",) for i in range(40)]
    residuals = residuals_of(
        residuals.truth,
        np.zeros(40),
        rows=list(zip(residuals.conditions["context_id"], residuals.conditions["pert_id"], strict=True)),
        units=units,
    )
    conformal = fitted(residuals, "mondrian", groups=("stratum",))
    assert conformal.units[("combo:seen-1",)] == 5
    assert ("combo:seen-1",) not in conformal.paths


def test_a_stratum_that_calibration_lacks_takes_the_quantiles_of_all() -> None:
    residuals = two_strata(30, 30)
    found = applied(fitted(residuals, "mondrian", groups=("stratum",)), [("c", "N+M")], 40)
    np.testing.assert_allclose(found.factor[:, 0, 0], fitted(residuals).table[0, :, 0], rtol=1e-6)


def test_a_small_group_of_two_axes_takes_the_quantiles_of_the_first() -> None:
    rows = [("c", f"U{i}") for i in range(45)] + [("d", f"V{i}") for i in range(5)]
    truth = np.random.default_rng(1).normal(size=(50, 20))
    residuals = residuals_of(truth, np.zeros(20), rows=rows)
    conformal = fitted(residuals, "mondrian", groups=("stratum", "context"))
    assert conformal.paths == [(), ("single:seen-0",), ("single:seen-0", "c")]
    found = applied(conformal, [("c", "N"), ("d", "N"), ("x", "N+M")], 20)
    assert found.effective.tolist() == [45, 50, 50]


def test_terciles_of_predicted_effect_size_are_those_of_calibration() -> None:
    rng = np.random.default_rng(2)
    size = np.repeat([1.0, 2.0, 4.0], 30)[:, None] * rng.uniform(0.95, 1.05, size=(90, 1))
    mean = size * np.ones((90, 50))
    truth = mean + size * rng.normal(size=(90, 50))
    conformal = fitted(residuals_of(truth, mean), "mondrian", groups=("effect",))
    found = applied(conformal, [("c", f"N{i}") for i in range(3)], 50, np.asarray([[1.0], [2.0], [40.0]]))
    np.testing.assert_allclose(found.factor[2, :, 0], 1.645 * np.asarray([1, 2, 4]), rtol=0.06)


def test_a_constant_prediction_has_one_effect_group() -> None:
    conformal = fitted(residuals_of(world(60)[0], np.ones(30)), "mondrian", groups=("effect",))
    assert conformal.paths == [(), ("all",)]


def test_bins_of_genes_take_no_units_away() -> None:
    rng = np.random.default_rng(3)
    bins = np.repeat(np.asarray([0, 1], dtype=np.int16), 50)
    truth = rng.normal(size=(25, 100)) * np.where(bins == 0, 1.0, 4.0)
    conformal = fitted(residuals_of(truth, np.zeros(100)), "mondrian", bins, groups=("stratum", "gene_scale"))
    found = applied(conformal, [("c", "N")], 100)
    assert found.effective.tolist() == [25]
    np.testing.assert_allclose(found.factor[2, 0], [1.645, 4 * 1.645], rtol=0.05)
    assert np.array_equal(found.gene_bin, bins)


def test_bins_are_quantiles_of_the_scale_of_genes() -> None:
    assert gene_bins(np.asarray([5.0, 1, 4, 2, 3, 6]), 3).tolist() == [2, 0, 1, 0, 1, 2]
    assert gene_bins(np.ones(4), 5).tolist() == [0, 0, 0, 0]


def test_the_scale_of_a_gene_is_not_that_of_its_own_perturbation() -> None:
    delta = np.ones((20, 3))
    delta[4, 1], delta[:2, 2] = 100.0, -3.0
    assert gene_scale(delta).tolist() == pytest.approx([1, 1, 1])
    delta[:3, 2] = -3.0
    assert gene_scale(delta)[2] == pytest.approx(np.sqrt((17 + 9) / 18))


@pytest.mark.parametrize(
    ("pert", "known", "stratum"),
    [
        ("A", [], "single:seen-0"),
        ("A", ["A"], "single:known"),
        ("A+B", [], "combo:seen-0"),
        ("A+B", ["A"], "combo:seen-1"),
        ("A+B", ["A", "B"], "combo:seen-2"),
        ("A+B", ["A", "B", "A+B"], "combo:known"),
    ],
)
def test_strata_say_what_train_has(pert: str, known: list[str], stratum: str) -> None:
    assert novelty(conditions_of([("c", pert)]), frozenset(known)).strata == [stratum]


@pytest.mark.parametrize(
    ("pert", "modality", "stratum"),
    [
        ("A", "CRISPRa", "single:known"),
        ("A+B", "CRISPRa", "combo:seen-2"),
        ("A", "CRISPRi", "single:seen-0"),
        ("A+B", "CRISPRi", "combo:seen-0"),
        ("(%2B)-JQ1", "drug", "single:known"),
        ("(%2B)-JQ1+C", "drug", "combo:seen-2"),
    ],
)
def test_strata_tell_modalities_apart_and_know_names_with_a_plus_sign(
    pert: str, modality: str, stratum: str
) -> None:
    train = [("c", "A", "CRISPRa"), ("c", "B", "CRISPRa"), ("c", "(%2B)-JQ1", "drug"), ("c", "C", "drug")]
    known = perturbations(conditions_of(train).index)
    assert novelty(conditions_of([("c", pert, modality)]), known).strata == [stratum]


# ---- what they cover -----------------------------------------------------------------------------------------


def covered(conformal: Conformal, truth: Any, mean: Any, rows: Any) -> Any:
    given = Prediction(mean, np.ones_like(mean))
    intervals = conformal.apply(given, conditions_of(rows)).intervals
    assert intervals is not None
    return [(np.abs(truth - mean) <= intervals.half_width(i, given.var)).mean() for i in range(4)]


@pytest.mark.parametrize("method", ["pooled", "hierarchical", "mondrian"])
def test_new_units_are_covered_as_often_as_the_level_says(method: str) -> None:
    """Sixty screens of exchangeable units with 60 calibration and 40 test units each."""
    found = []
    for seed in range(60):
        truth, mean, _ = world(100, seed=seed)
        config = {"groups": ("stratum",)} if method == "mondrian" else {}
        conformal = fitted(residuals_of(truth[:60], mean[:60]), method, **config)
        found.append(covered(conformal, truth[60:], mean[60:], [("c", f"N{i}") for i in range(40)]))
    mean_coverage = np.mean(found, axis=0)
    error = np.std(found, axis=0) / np.sqrt(len(found))
    if method == "hierarchical":
        # At least the level, and by no more than the weight at infinity takes.
        assert (mean_coverage >= LEVELS - 2 * error).all()
        assert (mean_coverage <= LEVELS * 61 / 60 + 0.01 + 2 * error).all()
    else:
        np.testing.assert_allclose(mean_coverage, LEVELS, atol=0.02)


def test_calibrating_on_fitted_conditions_covers_too_little() -> None:
    """The same units with errors half as large, as those of trained perturbations are: the test above would fail."""
    found = []
    for seed in range(20):
        truth, mean, _ = world(100, seed=seed)
        seen = mean[:60] + 0.5 * (truth[:60] - mean[:60])
        conformal = fitted(residuals_of(seen, mean[:60]))
        found.append(covered(conformal, truth[60:], mean[60:], [("c", f"N{i}") for i in range(40)]))
    assert (np.mean(found, axis=0) < LEVELS - 0.1).all()


@pytest.mark.parametrize("method", ["pooled", "hierarchical", "mondrian"])
def test_saved_conformal_intervals_are_the_same(method: str) -> None:
    config = (
        {"groups": ("stratum", "effect", "gene_scale")}
        if method == "mondrian"
        else {"groups": ("gene_scale",)}
    )
    bins = (np.arange(30) % 3).astype(np.int16)
    first = fitted(residuals_of(*world(90)), method, bins, **config)
    second = Conformal.restore(first.arrays(), first.meta())
    rows = [("c", f"N{i}") for i in range(9)] + [("c", "N+M")]
    mean = np.linspace(0.1, 5, 10)[:, None]
    one, two = applied(first, rows, 30, mean), applied(second, rows, 30, mean)
    np.testing.assert_array_equal(one.factor, two.factor)
    assert np.array_equal(one.effective, two.effective)
    assert first.describe() == second.describe()
