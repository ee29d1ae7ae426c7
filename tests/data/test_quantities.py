"""Doses and times that mean the same are one text; what cannot be read stays as it is."""

from __future__ import annotations

import pytest

from perturbfm_core.data.quantities import canonical_dose, canonical_doses, canonical_time, split_doses
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.quantity import parse_times


@pytest.mark.parametrize(
    "text",
    ["10 uM", "10.0 uM", "10uM", "10000 nM", "1e+1 uM", "1E1 uM", "0.01 mM", "10 µM", "10 μM", "1e-5 M", " 10  um ",
     "10 umol/L", "1e7 pM", "10 uMolar",
     "10 micromolar", "10000 Nanomolar", "0.01 millimolar", "1e-5 molar"],
)  # fmt: skip
def test_one_concentration_in_many_spellings(text: str) -> None:
    assert canonical_dose(text) == ("10 uM", True)


@pytest.mark.parametrize(
    ("text", "unit", "dose"),
    [
        ("10", "", "10"),
        ("10.50", "", "10.5"),
        ("1e+3", "", "1000"),
        ("10", "nM", "0.01 uM"),
        ("10 uM", "nM", "10 uM"),
        ("0", "uM", "0 uM"),
        ("1 mg/L", "", "1 ug/ml"),
        ("500 ng/ml", "", "0.5 ug/ml"),
        ("2 mg/kg", "", "2 mg/kg"),
        ("10 %", "", "10 %"),
        ("0.1%", "", "0.1 %"),
        ("4 Gy", "", "4 Gy"),
        ("3 MOI", "", "3 MOI"),
        ("0.1", "uM", "0.1 uM"),
        ("3e-10 M", "", "0.0003 uM"),
    ],
)
def test_doses(text: str, unit: str, dose: str) -> None:
    assert canonical_dose(text, unit) == (dose, True)
    assert canonical_dose(dose) == (dose, True)


@pytest.mark.parametrize("text", ["high", "10 apples", "low dose", "1-2 uM", "10 uM (twice)"])
def test_what_is_no_dose_stays_text(text: str) -> None:
    assert canonical_dose(text) == (text, False)


def test_no_dose_is_no_unread_one() -> None:
    assert canonical_dose("") == ("", True)


@pytest.mark.parametrize(
    ("text", "doses"),
    [
        ("10 uM+1 uM", ["10 uM", "1 uM"]),
        ("1e+1+1 uM", ["10 uM", "1 uM"]),
        ("1+2 nM", ["0.001 uM", "0.002 uM"]),
        ("1e+3 nM+1e-1 uM", ["1 uM", "0.1 uM"]),
        ("5", ["5"]),
    ],
)
def test_parts_of_combinations(text: str, doses: list[str]) -> None:
    assert canonical_doses(text) == (doses, True)


def test_the_plus_of_an_exponent_separates_nothing() -> None:
    assert split_doses("1e+3 uM+2") == ["1e+3 uM", "2"]


@pytest.mark.parametrize("text", ["24h", "24 hr", "24 hours", "1 day", "1d", "1440 min", "86400 s", "24.0 h"])
def test_one_time_in_many_spellings(text: str) -> None:
    assert canonical_time(text) == ("24 h", True)


def test_times_without_units() -> None:
    assert canonical_time("24.0") == ("24", True)
    assert canonical_time("2", "days") == ("48 h", True)
    assert canonical_time("24 hr & 240 min") == ("24 h & 4 h", True)
    assert canonical_time("24 h and later") == ("24 h and later", False)
    assert canonical_time("overnight") == ("overnight", False)


@pytest.mark.parametrize(
    ("text", "time"),
    [("24h,48h", "24 h & 48 h"), ("24, 48 h", "24 & 48 h"), ("1,5 h", None), ("6,24", None)],
)
def test_a_comma_between_digits_may_be_that_of_a_decimal_number(text: str, time: str | None) -> None:
    assert canonical_time(text) == ((time, True) if time else (text, False))
    if time is None:
        with pytest.raises(SplitError, match="has the unknown unit"):
            parse_times(text)


@pytest.mark.parametrize(
    ("text", "dose"),
    [
        ("[('Imatinib', 0.5, 'uM')]", "0.5 uM"),
        ("[('(+)-JQ1', 50.0, 'nM')]", "0.05 uM"),
        ("[(\"2'-O (salt)\", 5.0, 'uM')]", "5 uM"),
        ("[('DMSO_TF', 0.0, 'uM')]", "0 uM"),
    ],
)
def test_a_dose_beside_its_drug(text: str, dose: str) -> None:
    """Files of Tahoe-100M have drug, dose and unit in one column."""
    assert canonical_doses(text) == ([dose], True)
    assert canonical_doses(text.replace(", ", ",")) == ([dose], True)


def test_doses_of_several_drugs_are_not_that_of_the_last() -> None:
    text = "[('A', 0.5, 'uM'), ('B', 1.5, 'uM')]"
    assert canonical_doses(text) == ([text], False)
