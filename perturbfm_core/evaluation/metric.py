"""Registry of metrics: one decorated function each, with direction, bounds, version and source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Required, TypedDict, TypeVar, Unpack, get_args

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.registry.members import Discovery, Registry
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

MetricDirection = Literal["max", "min", "target"]
MetricAggregate = Literal["mean", "ratio", "set"]
MetricNeeds = Literal["conditions", "cells", "variance"]
MetricFunction = Callable[[Comparison], FloatArray]
RatioFunction = Callable[[Comparison], tuple[FloatArray, FloatArray]]
SetStatistic = Callable[[IntArray], float]
SetFunction = Callable[[Comparison], SetStatistic]
AnyMetricFunction = MetricFunction | RatioFunction | SetFunction
Applies = Callable[[Comparison], BoolArray]
Places = Callable[[Comparison], IntArray]
AnyFunction = TypeVar("AnyFunction", bound=AnyMetricFunction)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a panel.

    Attributes
    ----------
    panel, name
        Panel of the metric, and its name, unique in the panel.
    function
        (comparison) -> float [C], one value per condition, NaN where undefined; of a ratio a pair
        (numerator, denominator), each [C] or [C, parts]; of a set a function from positions of conditions to
        one value, NaN where undefined.
    description
        One line that says what it measures.
    direction
        ``max`` or ``min`` is better, or nearest to `target`.
    bounds
        Smallest and largest possible value, None for unbounded.
    version
        Raised when values change.
    source
        Paper or project that defines it.
    undefined
        Why a value can be NaN.
    needs
        ``cells`` if condition-level data cannot have it, ``variance`` if a point prediction cannot.
    target
        The best value of a ``target`` metric; None where it only describes the data and has none.
    aggregate
        How conditions become one number. ``mean``: the mean of their values. ``ratio``: the sum of their
        numerators over the sum of their denominators, averaged over the parts; each sum covers the conditions
        where the part is defined, and the value of one condition is its own ratio. ``set``: a statistic of
        several conditions together, such as a rank correlation over them; undefined for a single condition.
    ratio_of
        For a ratio, the (numerator, denominator) metrics of the same panel for each part, from which the ratio
        can be computed for any group of conditions.
    applies
        (comparison) -> bool [C], the conditions that the metric applies to; None for all. The others have no value,
        and the status ``not_applicable``.
    inapplicable
        Why the metric does not apply to the others.
    k, places
        For a metric of the `k` largest entries, (comparison) -> int [C], how many there were: fewer than `k`, where
        fewer are not zero, is said with the value. None for other metrics.
    """

    panel: str
    name: str
    function: AnyMetricFunction
    description: str
    direction: MetricDirection
    bounds: tuple[float | None, float | None]
    version: str
    source: str
    undefined: str = "undefined"
    needs: MetricNeeds = "conditions"
    target: float | None = None
    aggregate: MetricAggregate = "mean"
    ratio_of: tuple[tuple[str, str], ...] = ()
    applies: Applies | None = None
    inapplicable: str = "not applicable"
    k: int = 0
    places: Places | None = None

    @property
    def best(self) -> float | None:
        """Return the value of a perfect prediction."""
        if self.direction == "target":
            return self.target
        return self.bounds[1] if self.direction == "max" else self.bounds[0]

    def badness(self, value: float) -> float:
        """Return a number that is smaller the better `value` is."""
        if self.direction == "max":
            return -value
        return value if self.direction == "min" else abs(value - (self.target or 0.0))


# Panels and their metrics register together, when the modules of `panels` are imported.
PANEL_MODULES = Discovery("perturbfm_core.evaluation.panels", "panel*", "perturbfm.metrics")

METRICS: Registry[Metric] = Registry("metric", MetricError, PANEL_MODULES)


# For metrics that leave out the perturbed genes.
NO_TARGET = "no perturbed gene of the condition is measured, so that there is none to leave out"


def target_measured(c: Comparison) -> BoolArray:
    """Return bool [C], whether there is a perturbed gene to leave out: where a metric without targets applies."""
    return c.target_measured


# Of the texts that every metric declares, for messages.
_EXAMPLES = {"panel": "delta", "name": "sign_agreement", "version": "1", "source": "this folder"}


class Declaration(TypedDict, total=False):
    """Properties of a metric other than panel, name, description and function (see `Metric`)."""

    direction: Required[MetricDirection]
    bounds: Required[tuple[float | None, float | None]]
    version: Required[str]
    source: Required[str]
    undefined: str
    needs: MetricNeeds
    target: float | None
    aggregate: MetricAggregate
    ratio_of: tuple[tuple[str, str], ...]
    applies: Applies | None
    inapplicable: str
    k: int
    places: Places | None


def metric(
    panel: str, name: str, description: str | None = None, **declared: Unpack[Declaration]
) -> Callable[[AnyFunction], AnyFunction]:
    """Register the decorated function as a metric and return it unchanged.

    Parameters
    ----------
    panel, name
        The panel that the metric belongs to, and its name in that panel.
    description
        One line that says what it measures; by default the first line of the function's docstring.
    **declared
        Direction, bounds, version and source, and any other property that is not the default (see `Metric`).

    Raises
    ------
    MetricError
        If there is no description, or the declared properties are invalid.
    """

    def register(function: AnyFunction) -> AnyFunction:
        text = description or (getattr(function, "__doc__", None) or "").strip().split("\n")[0]
        try:
            item = Metric(panel=panel, name=name, function=function, description=text, **declared)
        except TypeError as error:
            found = str(error).removeprefix("Metric.__init__() ")
            msg = f"metric {panel}.{name} is misdeclared: {found} (see `Metric`)"
            raise MetricError(msg) from error
        _check(item)
        METRICS.add(f"{panel}.{name}", item)
        return function

    return register


def _check(item: Metric) -> None:
    """Raise `MetricError` if a metric's declared properties are invalid."""
    where = f"metric {item.panel}.{item.name}"
    # What a user's file declares need not have the types that it should.
    given: Any = item
    for field in ("panel", "name", "version", "source"):
        value = getattr(given, field)
        if not (isinstance(value, str) and value.strip()):
            msg = f"{where}: {field} must be text that is not empty, such as {_EXAMPLES[field]!r}, found {value!r}"
            raise MetricError(msg)
    if not callable(given.function):
        msg = f"{where}: @metric decorates a function, found {type(given.function).__name__}"
        raise MetricError(msg)
    if not item.description:
        msg = f"{where} has no docstring to describe it"
        raise MetricError(msg)
    for field in ("description", "undefined", "inapplicable"):
        if not isinstance(getattr(given, field), str):
            msg = f"{where}: {field} must be text, found {getattr(given, field)!r}"
            raise MetricError(msg)
    if item.direction not in get_args(MetricDirection):
        msg = f"{where} has direction {item.direction!r}; known: {', '.join(get_args(MetricDirection))}"
        raise MetricError(msg)
    _check_bounds(where, given.bounds)
    if item.aggregate not in get_args(MetricAggregate):
        msg = f"{where} aggregates by {item.aggregate!r}; known: {', '.join(get_args(MetricAggregate))}"
        raise MetricError(msg)
    if item.needs not in get_args(MetricNeeds):
        msg = f"{where} needs {item.needs!r}; known: {', '.join(get_args(MetricNeeds))}"
        raise MetricError(msg)
    if not (item.target is None or _is_number(item.target)):
        msg = f"{where}: target must be a number or None, found {item.target!r}"
        raise MetricError(msg)
    for field in ("applies", "places"):
        if not (getattr(given, field) is None or callable(getattr(given, field))):
            msg = f"{where}: {field} must be a function of the comparison or None, found {getattr(given, field)!r}"
            raise MetricError(msg)
    if isinstance(given.k, bool) or not isinstance(given.k, int) or given.k < 0:
        msg = f"{where}: k must be a whole number, 0 or more, found {given.k!r}"
        raise MetricError(msg)


def _check_bounds(where: str, bounds: Any) -> None:
    """Raise `MetricError` if bounds are no pair of numbers in order, None for unbounded."""
    pair = isinstance(bounds, tuple | list) and len(bounds) == len(("low", "high"))
    if not pair or not all(b is None or _is_number(b) for b in bounds):
        msg = (
            f"{where} has bounds {bounds!r}; give two numbers, (smallest, largest), None where there is none"
        )
        raise MetricError(msg)
    low, high = bounds
    if low is not None and high is not None and not low < high:
        msg = f"{where} has bounds {bounds}; the first must be below the second, None where there is none"
        raise MetricError(msg)


def _is_number(value: Any) -> bool:
    """Return whether a value is a real number, no bool and not NaN."""
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) and not math.isnan(value)


def panel_metrics(panel: str) -> list[Metric]:
    """Return the metrics of a panel in order of registration."""
    return [item for _, item in METRICS.items() if item.panel == panel]
