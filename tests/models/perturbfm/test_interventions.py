"""Amounts and names of the parts of conditions."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.models.perturbfm.interventions import interventions, log_top_dose
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
    conditions = conditions_of([("c", f"D{i}", "drug", d) for i, d in enumerate(doses)])
    found = interventions(conditions, log_top_dose(conditions)).amount
    order = [conditions[schema.PERT_ID].tolist().index(f"D{i}") for i in range(len(doses))]
    np.testing.assert_allclose(found[order], amounts)


def test_doses_in_train_of_0_alone_leave_other_doses_finite() -> None:
    top = log_top_dose(conditions_of([("c", "D", "drug", "0")]))
    assert interventions(conditions_of([("c", "D", "drug", "10 uM")]), top).amount == pytest.approx(
        np.log(11)
    )


def test_a_plus_sign_in_a_name_is_that_of_tables() -> None:
    assert interventions(conditions_of([("c", "(%2B)-JQ1+A")])).genes == ["(+)-JQ1", "A"]
