"""Amounts and names of the parts of conditions."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.models.baselines.dose_response import DoseCurve, DoseResponse
from perturbfm_core.models.perturbfm.interventions import interventions
from tests.support.factories import conditions_of


@pytest.mark.parametrize(
    ("doses", "amounts"),
    [
        (["0", "0 uM", "3 uM", "10 uM"], [0.0, 0.0, np.log(4) / np.log(11), 1.0]),
        (["", "high"], [1.0, 1.0]),
        (["0", ""], [0.0, 1.0]),
    ],
)
def test_a_dose_of_0_has_no_amount_and_no_dose_an_amount_of_1(doses: list[str], amounts: list[float]) -> None:
    names = [f"D{i}" for i in range(len(doses))]
    conditions = conditions_of([("c", name, "drug", d) for name, d in zip(names, doses, strict=True)])
    found = interventions(conditions)
    np.testing.assert_allclose(found.incidence(names, by="gene").sum(axis=0), amounts)
    order = [conditions[schema.PERT_ID].tolist().index(name) for name in names]
    assert found.sizes[order].tolist() == [int(a > 0) for a in amounts]


@pytest.mark.parametrize("none", ["0", "0 nM", "0.0", "0 uM"])
def test_a_combination_with_a_part_at_a_dose_of_0_is_the_rest(none: str) -> None:
    found, rest = (
        interventions(conditions_of([("c", pert, "drug", dose)]), DoseResponse({"uM": DoseCurve(10.0)}))
        for pert, dose in (("A+B", f"{none}+3 uM"), ("B", "3 uM"))
    )
    assert (found.labels, found.sizes.tolist()) == (rest.labels, rest.sizes.tolist())
    np.testing.assert_array_equal(found.amount, rest.amount)


def test_doses_in_train_of_0_alone_are_no_unit_of_other_doses() -> None:
    response = DoseResponse.logarithmic(conditions_of([("c", "D", "drug", "0")]))
    assert interventions(conditions_of([("c", "D", "drug", "10 uM")]), response).amount == 1.0


def test_a_plus_sign_in_a_name_is_that_of_tables() -> None:
    assert interventions(conditions_of([("c", "(%2B)-JQ1+A")])).genes == ["(+)-JQ1", "A"]
