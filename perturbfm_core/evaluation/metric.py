"""The metric registry: one decorated function per metric, with direction, bounds, version and source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.registry import Registry
from perturbfm_core.schema import FloatArray, IntArray

MetricDirection = Literal["max", "min", "target"]
MetricAggregate = Literal["mean", "ratio", "set"]
MetricFunction = Callable[[Comparison], FloatArray]
RatioFunction = Callable[[Comparison], tuple[FloatArray, FloatArray]]
SetStatistic = Callable[[IntArray], float]
SetFunction = Callable[[Comparison], SetStatistic]
AnyFunction = TypeVar("AnyFunction", bound=Callable[[Comparison], Any])


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a panel.

    Attributes
    ----------
    panel, name
        Its place; the name is unique in the panel.
    function
        (comparison) -> float [C], one value per condition, NaN where undefined; of a ratio a pair
        (numerator, denominator), each [C] or [C, parts]; of a set a function from positions of conditions to
        one value, NaN where undefined.
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
        How conditions become one number. ``mean``: of their values. ``ratio``: the sum of their numerators
        over the sum of their denominators, averaged over the parts; each sum over the conditions where the
        part is defined. The value of one condition is its own ratio. ``set``: a statistic of several conditions
        together, such as a rank correlation over them; single conditions and perturbations have none.
    ratio_of
        Of a ratio, the metrics of the same panel that hold numerator and denominator of each part, from which
        anything can be pooled again.
    """

    panel: str
    name: str
    function: MetricFunction | RatioFunction | SetFunction
    direction: MetricDirection
    bounds: tuple[float | None, float | None]
    version: str
    source: str
    undefined: str = "undefined"
    needs: Literal["conditions", "cells", "variance"] = "conditions"
    target: float | None = None
    aggregate: MetricAggregate = "mean"
    ratio_of: tuple[tuple[str, str], ...] = ()

    @property
    def description(self) -> str:
        """Return the first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]

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


METRICS: Registry[Metric] = Registry("metric", MetricError)


def metric(
    panel: str,
    name: str,
    *,
    direction: MetricDirection,
    bounds: tuple[float | None, float | None],
    version: str,
    source: str,
    undefined: str = "undefined",
    needs: Literal["conditions", "cells", "variance"] = "conditions",
    target: float | None = None,
    aggregate: MetricAggregate = "mean",
    ratio_of: tuple[tuple[str, str], ...] = (),
) -> Callable[[AnyFunction], AnyFunction]:
    """Register the decorated function as a metric (see `Metric`); it stays callable as it was."""

    def register(function: AnyFunction) -> AnyFunction:
        item = Metric(
            panel,
            name,
            function,
            direction,
            bounds,
            version,
            source,
            undefined,
            needs,
            target,
            aggregate,
            ratio_of,
        )
        if not item.description:
            msg = f"metric {panel}.{name} has no docstring to describe it"
            raise MetricError(msg)
        METRICS.add(f"{panel}.{name}", item)
        return function

    return register


def panel_metrics(panel: str) -> list[Metric]:
    """Return the metrics of a panel in order of registration."""
    return [item for _, item in METRICS.items() if item.panel == panel]
