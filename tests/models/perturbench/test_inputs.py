"""Inputs of PerturBench's networks: doses, modalities, covariates, what cannot be told apart."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.errors import ConfigError
from perturbfm_core.models.base import new_model
from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.splits.conditions import SplitConditions
from tests.support.factories import conditions_of
from tests.support.perturbench_networks import (
    BASE,
    SHORT,
    SINGLES,
    asked,
    every_network,
    expression,
    fitted,
    planted,
    world,
)


def test_doses_and_modalities_are_columns_and_amounts() -> None:
    rows = [
        ("c", "A", "drug", "1 uM"),
        ("c", "A", "drug", "10 uM"),
        ("c", "B", "CRISPRa"),
        ("c", "B", "CRISPRi"),
        ("c", "A+B", "drug", "1 uM+10 uM"),
    ]
    design = Design.of(conditions_of(rows))
    assert design.perturbations == ("A|drug", "B|CRISPRa", "B|CRISPRi", "B|drug")
    p, c = design.read(conditions_of([*rows, ("d", "Z", "drug", "1 uM")]))
    low = np.log1p(1.0) / np.log1p(10.0)
    expected = [[low, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [low, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(p, expected, rtol=1e-6)
    np.testing.assert_array_equal(c[:, 0], [1, 1, 1, 1, 1, 0])


def test_covariates_have_a_column_per_value() -> None:
    rows = [("c", "A", "", "", '{"sex":"f","time":"6h"}'), ("d", "A", "", "", '{"sex":"m","time":"6h"}')]
    design = Design.of(conditions_of(rows))
    assert design.covariates == ("context_id=c", "context_id=d", "sex=f", "sex=m", "time=6h")
    _, c = design.read(conditions_of([*rows, ("e", "A", "", "", '{"sex":"f","time":"24h"}')]))
    np.testing.assert_array_equal(c, [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1], [0, 0, 1, 0, 0]])


@every_network
def test_perturbations_that_train_lacks_cannot_be_told_apart(name: str) -> None:
    model = fitted(name)
    one, other = model.predict(asked(("x", "u"), ("x", "v"))).mean
    np.testing.assert_allclose(one, other, atol=1e-6)
    seen, half = model.predict(asked(("x", "p0"), ("x", "p0+u"))).mean
    np.testing.assert_allclose(half, seen, atol=1e-6)


@every_network
@pytest.mark.parametrize(
    ("test", "refused"),
    [
        ([("x", "Z", "ko")], True),
        ([("x", "A+Z", "ko"), ("y", "Z", "ko")], True),
        ([("x", "A", "activation")], True),
        ([("x", "A+Z", "ko"), ("y", "A+B", "ko")], False),
        ([("new", "A", "ko", "5 uM")], False),
        ([], False),
    ],
)
def test_a_split_of_unseen_perturbations_only_is_not_applicable(
    name: str, test: list[tuple[str, ...]], refused: bool
) -> None:
    train = conditions_of([("x", "A", "ko"), ("y", "B", "ko")])
    conditions = SplitConditions(train, conditions_of(test))
    reason = new_model(name).cannot(conditions)
    assert (reason is not None) is refused
    if reason is not None:
        assert reason.startswith("needs perturbations that train has")
        assert f"each of the {len(test)} test conditions" in reason
    if name == "decoder_only":
        assert new_model(name, {"perturbations": False}).cannot(conditions) is None


def test_covariates_matter_to_the_decoder() -> None:
    rows = [(c, p) for c in ("x", "y") for p in SINGLES[:3]]
    both = fitted("decoder_only")
    found = expression(both, asked(*rows))
    truth = np.asarray([BASE[c] + planted(p) for c, p in rows])
    assert ((found - truth) ** 2).mean() < 0.1
    without = new_model("decoder_only", {**SHORT, "covariates": False})
    without.fit(world()[1], 1)
    found = expression(without, asked(*rows))
    np.testing.assert_allclose(found[:3], found[3:], atol=1e-5)
    context = new_model("decoder_only", {**SHORT, "perturbations": False, "epochs": 5})
    context.fit(world()[1], 1)
    found = expression(context, asked(*rows))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert not np.allclose(found[0], found[3], atol=0.1)


def test_the_decoder_does_not_read_the_control() -> None:
    model = fitted("decoder_only")
    low, high = (expression(model, asked(("x", "p0"), shift=s)) for s in (0.0, 1.0))
    np.testing.assert_allclose(low, high, atol=1e-5)
    assert not any(k.startswith("spread") for k in model.arrays())


def test_a_decoder_without_inputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs at least one of them"):
        new_model("decoder_only", {"covariates": False, "perturbations": False})
