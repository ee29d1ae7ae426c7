"""Metrics and panels that users write: what they declare and return is checked, and named where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perturbfm_core.errors import ConfigError, MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, metric
from perturbfm_core.evaluation.panel import PANELS, add_panel, evaluate
from tests.support.factories import comparison_of

ROWS = [("c", "A"), ("c", "B"), ("d", "A")]
THREE = comparison_of(np.eye(3), np.eye(3), rows=ROWS)
DECLARED: dict[str, Any] = {"direction": "max", "bounds": (0.0, 1.0), "version": "1", "source": "here"}


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the metrics and panels of a test."""
    for registry in (METRICS, PANELS):
        _ = len(registry)
        for name in ("_members", "_order"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def made(function: Callable[[Comparison], Any], **declared: Any) -> None:
    add_panel("extra", source="here", headline="odd")
    metric("extra", "odd", "An odd metric.", **{**DECLARED, **declared})(function)


def given(value: Any) -> Callable[[Comparison], Any]:
    return lambda _: value


# ---- what is returned -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "declared", "message"),
    [
        (np.zeros(2), {}, "gave values of shape (2,); expected (3,), one for each condition"),
        (np.zeros((3, 1)), {}, "gave values of shape (3, 1); expected (3,)"),
        (0.5, {}, "gave values of shape (); expected (3,)"),
        (None, {}, "gave values of shape (); expected (3,)"),
        ([0.0, np.inf, -np.inf], {}, "is infinite for 2 of 3 conditions; give NaN where it is undefined"),
        ((np.ones(3), np.ones(3)), {}, "aggregates as mean, so it must return one value for each condition, found tuple"),
        (lambda _: 1.0, {}, "aggregates as mean, so it must return one value for each condition, found function"),
        (np.ones(3), {"aggregate": "ratio"}, "must return a tuple (numerator, denominator), found ndarray"),
        ((np.ones(3),) * 3, {"aggregate": "ratio"}, "gave 3 arrays; a ratio is a pair"),
        ((np.ones(2), np.ones(2)), {"aggregate": "ratio"}, "gave numerator (2,) and denominator (2,); both must be (3,)"),
        ((np.ones((3, 2)), np.ones(3)), {"aggregate": "ratio"}, "gave numerator (3, 2) and denominator (3,)"),
        ((np.ones((3, 2)), np.ones((3, 4))), {"aggregate": "ratio"}, "numerator (3, 2) and denominator (3, 4)"),
        ((["a"] * 3, np.ones(3)), {"aggregate": "ratio"}, "failed: ValueError"),
        ((np.asarray([1, 1, np.inf]), np.ones(3)), {"aggregate": "ratio"}, "is infinite for 1 of 3 conditions"),
        (np.ones(3), {"aggregate": "set"}, "aggregates as set, so it must return a function from positions"),
        (np.ones(3), {"applies": given(np.ones(2, dtype=bool))}, "`applies` must give bool (3,), one for each condition, found bool (2,)"),
        (np.ones(3), {"applies": given(np.ones(3, dtype=int))}, "`applies` must give bool (3,), one for each condition, found int64 (3,)"),
        (np.ones(3), {"applies": given(None)}, "`applies` must give bool (3,), one for each condition, found object ()"),
        (np.ones(3), {"k": 2, "places": given(np.ones(3))}, "`places` must give int (3,), one for each condition, found float64 (3,)"),
        (np.ones(3), {"k": 2, "places": given([1, 2])}, "`places` must give int (3,), one for each condition, found int64 (2,)"),
        (np.ones(3), {"applies": lambda c: c.nothing}, "failed: AttributeError"),
    ],
)  # fmt: skip
def test_what_a_metric_may_not_return_is_said(value: Any, declared: dict[str, Any], message: str) -> None:
    made(given(value), **declared)
    with pytest.raises(MetricError, match=re.escape("metric extra.odd")) as caught:
        evaluate(THREE, ["extra"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "declared", "expected"),
    [
        ([0.0, 1.0, np.nan], {}, [0.0, 1.0, np.nan]),
        ((np.asarray([1.0, 2.0, 3.0]), np.asarray([2.0, 2.0, 0.0])), {"aggregate": "ratio"}, [0.5, 1.0, np.nan]),
        ((np.ones((3, 2)), np.full((3, 2), 4.0)), {"aggregate": "ratio"}, [0.25, 0.25, 0.25]),
        (np.ones(3), {"applies": given([True, False, True])}, [1.0, np.nan, 1.0]),
    ],
)  # fmt: skip
def test_what_a_metric_may_return_is_kept(value: Any, declared: dict[str, Any], expected: Any) -> None:
    made(given(value), **declared)
    (found,) = evaluate(THREE, ["extra"]).results
    np.testing.assert_array_equal(found.values, expected)


# ---- what is declared -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"version": 1}, "metric delta.made: version must be text that is not empty, such as '1', found 1"),
        ({"version": ""}, "version must be text that is not empty, such as '1', found ''"),
        ({"source": None}, "source must be text that is not empty"),
        ({"bounds": ("0", "1")}, "metric delta.made has bounds ('0', '1'); give two numbers"),
        ({"bounds": None}, "has bounds None; give two numbers, (smallest, largest), None where there is none"),
        ({"bounds": (0.0,)}, "has bounds (0.0,); give two numbers"),
        ({"bounds": (0.0, float("nan"))}, "has bounds (0.0, nan); give two numbers"),
        ({"bounds": (False, True)}, "has bounds (False, True); give two numbers"),
        ({"bounds": (1, 1)}, "the first must be below the second"),
        ({"needs": "cell"}, "metric delta.made needs 'cell'; known: conditions, cells, variance"),
        ({"needs": None}, "needs None; known: conditions"),
        ({"undefined": None}, "undefined must be text, found None"),
        ({"target": "0"}, "target must be a number or None, found '0'"),
        ({"applies": True}, "applies must be a function of the comparison or None, found True"),
        ({"k": -1}, "k must be a whole number, 0 or more, found -1"),
        ({"nothing": 1}, "metric delta.made is misdeclared: got an unexpected keyword argument 'nothing'"),
    ],
)  # fmt: skip
def test_a_declaration_is_checked(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(MetricError) as caught:
        metric("delta", "made", "A metric.", **{**DECLARED, **declared})(lambda c: c)
    assert message in str(caught.value)
    assert "delta.made" not in METRICS


@pytest.mark.parametrize(
    ("panel", "name", "message"),
    [("delta", "", "name must be text"), ("delta", " ", "name must be text"), ("", "made", "panel must be text"), ("delta", 7, "name must be text")],
)  # fmt: skip
def test_a_metric_needs_a_name_and_a_panel(panel: Any, name: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        metric(panel, name, "A metric.", **DECLARED)(lambda c: c)


def test_a_metric_is_a_function_with_all_that_it_must_declare() -> None:
    with pytest.raises(MetricError, match=r"delta\.made: @metric decorates a function, found ndarray"):
        metric("delta", "made", "A metric.", **DECLARED)(np.ones(3))  # type: ignore[type-var]
    with pytest.raises(MetricError, match=r"delta\.made is misdeclared: .*'direction'"):
        metric("delta", "made", "A metric.", bounds=(0, 1), version="1", source="here")(lambda c: c)  # type: ignore[call-arg]


def test_bounds_of_numpy_and_a_list_are_numbers() -> None:
    metric("delta", "made", "A metric.", **{**DECLARED, "bounds": (np.float32(0), np.int64(2))})(lambda c: c)
    metric("delta", "made2", "A metric.", **{**DECLARED, "bounds": [None, 2]})(lambda c: c)
    assert {"delta.made", "delta.made2"} <= set(METRICS)


# ---- the panel of a metric --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("panel", "near"), [("dleta", "delta"), ("hit", "hits"), ("uncertanty", "uncertainty")]
)
def test_a_metric_of_an_unknown_panel_is_refused_with_the_nearest(panel: str, near: str) -> None:
    metric(panel, "made", "A metric.", **DECLARED)(given(np.ones(3)))
    for _ in range(2):
        with pytest.raises(
            MetricError, match=rf"metric {panel}\.made .*no panel '{panel}' \(did you mean '{near}'\?\)"
        ):
            evaluate(THREE, ["delta"])


def test_a_metric_may_be_registered_before_its_panel() -> None:
    metric("later", "made", "A metric.", **DECLARED)(given(np.ones(3)))
    add_panel("later", source="here", headline="made")
    (found,) = evaluate(THREE, ["later"]).results
    assert found.values.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ""}, "panel 'extra': source must be text"),
        ({"headline": None}, "panel 'extra': headline must be text"),
        ({"report": "yes"}, "panel 'extra': report must be a function or None, found str"),
        ({"name": 3}, "panel 3: name must be text"),
        ({"name": "My Panel"}, "name of a panel 'My Panel' cannot be a key"),
    ],
)
def test_a_panel_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((MetricError, ConfigError), match=message):
        add_panel(**{"name": "extra", "source": "here", "headline": "odd", **changes})
