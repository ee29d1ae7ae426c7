"""The baseline that interpolates effects between doses and times, against values computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from perturbfm_core.data.condition import canonical_covariates
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.view import TrainView
from tests.support.factories import query_of, view_of


def at(
    dose: str = "", time: str = "", context: str = "x", pert: str = "A", **covariates: str
) -> tuple[str, ...]:
    """Return a condition (context, perturbation, modality, doses, covariates)."""
    return (
        context,
        pert,
        "drug",
        dose,
        canonical_covariates({**({"time": time} if time else {}), **covariates}),
    )


def predicted(train: Sequence[tuple[tuple[str, ...], float]], *asked: tuple[str, ...]) -> list[float]:
    """Return the first gene's prediction for conditions, by train conditions with one value each."""
    view = view_of([c for c, _ in train], [[v, 2 * v] for _, v in train])
    model = new_model("dose_interpolation")
    model.fit(view, 0)
    mean = model.predict(query_of(asked, [str(g) for g in view.genes])).mean
    assert np.allclose(mean[:, 1], 2 * mean[:, 0])
    return [round(float(x), 5) for x in mean[:, 0]]


DOSES = [(at("1 uM"), 1.0), (at("100 uM"), 5.0)]
TIMES = [(at("1 uM", "6 h"), 1.0), (at("1 uM", "24 h"), 3.0)]


@pytest.mark.parametrize(
    ("dose", "value"),
    [("1 uM", 1), ("10 uM", 3), ("100 uM", 5), ("1000 uM", 5), ("0.1 uM", 1), ("10000 nM", 3)],
)
def test_doses_are_interpolated_by_their_logarithms_and_constant_beyond(dose: str, value: float) -> None:
    assert predicted(DOSES, at(dose)) == [value]


def test_times_are_interpolated_at_the_same_dose() -> None:
    other = [(at("50 uM", "6 h"), 100.0), (at("50 uM", "24 h"), 100.0)]
    assert predicted([*TIMES, *other], at("1 uM", "12 h"), at("1 uM", "72 h")) == [2.0, 3.0]


def test_a_dose_is_interpolated_at_the_same_time() -> None:
    late = [(at("1 uM", "24 h"), 50.0), (at("100 uM", "24 h"), 90.0)]
    early = [(at("1 uM", "6 h"), 1.0), (at("100 uM", "6 h"), 5.0)]
    assert predicted([*early, *late], at("10 uM", "6 h"), at("10 uM", "24 h")) == [3.0, 70.0]


def test_where_both_are_new_the_nearest_condition_counts() -> None:
    train = [(at("1 uM", "6 h"), 1.0), (at("100 uM", "24 h"), 5.0)]
    assert predicted(train, at("50 uM", "20 h"), at("2 uM", "7 h")) == [5.0, 1.0]


def test_the_own_context_is_first_and_other_contexts_stand_in() -> None:
    train = [*DOSES, (at("1 uM", context="y"), 10.0), (at("100 uM", context="y"), 20.0)]
    assert predicted(train, at("10 uM"), at("10 uM", context="y"), at("10 uM", context="z")) == [
        3.0,
        15.0,
        9.0,
    ]


def test_labels_that_are_no_numbers_are_not_mixed() -> None:
    train = [(at("low", batch="a"), 1.0), (at("high", batch="a"), 5.0)]
    # No place along either axis: the mean of the perturbation in the context.
    assert predicted(train, at("medium", batch="a")) == [3.0]
    donors = [(at("1 uM", donor="a"), 1.0), (at("100 uM", donor="a"), 5.0), (at("1 uM", donor="b"), 7.0)]
    assert predicted(donors, at("10 uM", donor="a"), at("10 uM", donor="b")) == [3.0, 7.0]


def test_doses_of_combinations_and_of_other_units_are_not_mixed() -> None:
    pairs = [(at("1 uM+10 uM", pert="A+B"), 1.0), (at("5 uM+5 uM", pert="A+B"), 5.0)]
    # 10 with 1 is neither 1 with 10 nor, by its sum, anything between: the mean of the perturbation.
    assert predicted(pairs, at("10 uM+1 uM", pert="A+B")) == [3.0]
    units = [*DOSES, (at("10 ug/ml"), 50.0)]
    assert predicted(units, at("10 uM"), at("20 ug/ml")) == [3.0, 50.0]


def test_without_doses_and_for_unseen_perturbations_it_is_the_mean_by_perturbation_and_context() -> None:
    train = [(at(), 1.0), (at(context="y"), 3.0), (at(pert="B"), 8.0)]
    assert predicted(train, at(), at(context="z"), at(pert="C")) == [1.0, 2.0, 4.0]
    assert predicted(DOSES, at("10 uM", pert="C")) == [3.0]


def test_a_dose_of_zero_is_no_place_on_the_axis() -> None:
    assert predicted([*DOSES, (at("0 uM"), 0.0)], at("10 uM")) == [3.0]


def test_a_saved_model_predicts_the_same() -> None:
    view: TrainView = view_of([c for c, _ in DOSES], [[v] for _, v in DOSES])
    model = new_model("dose_interpolation")
    model.fit(view, 0)
    again = new_model("dose_interpolation")
    again.genes = model.genes
    again.restore(model.arrays(), model.meta())
    query = query_of([at("10 uM")], [str(g) for g in view.genes])
    assert again.predict(query).mean.tolist() == model.predict(query).mean.tolist() == [[3.0]]
