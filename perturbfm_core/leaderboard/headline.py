"""The headline metric of every table and page, with the floor and the ceiling that stand beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbfm_core.evaluation.metric import Metric

# Why this one, and what raises it without knowing more: docs/metrics.md.
HEADLINE_PANEL = "delta"
HEADLINE_METRIC = "pearson_centered"
HEADLINE = f"{HEADLINE_PANEL}.{HEADLINE_METRIC}"

# {column of view `leaderboard`: how it is called beside a score}, from the lowest to the highest.
MARKS: Mapping[str, str] = {
    "null_floor": "no effect",
    "control_mean_floor": "control",
    "train_mean_floor": "train mean",
    "ceiling": "half of the cells",
    "ceiling_noise_free": "noise-free",
}


@dataclass(frozen=True)
class Marks:
    """What a score of one metric on one split is read against; None where it is undefined or unknown.

    Attributes
    ----------
    null
        Score of the train mean where no perturbation has an effect.
    control_mean, train_mean
        Scores of the two predictions that know nothing of the condition.
    half
        Score of one half of a condition's cells as the prediction of the other half. A model may be above it: it
        predicts all cells, from the means of many conditions.
    noise_free
        Score that the true effect itself can be expected to reach. No model is above it, apart from chance.
    baseline, anchor
        What counts as 0 and as 1 on the scale of the metric's panel, if it has one.
    """

    null: float | None
    control_mean: float | None
    train_mean: float | None
    half: float | None
    noise_free: float | None
    baseline: float | None = None
    anchor: float | None = None


def headline_of(panel: str | None = None) -> Metric:
    """Return the headline metric: of the whole benchmark, or of one panel.

    Parameters
    ----------
    panel
        Name of a panel, None for the benchmark.

    Raises
    ------
    MetricError
        If there is no such panel.
    """
    # The command line names the metric before anything is loaded.
    from perturbfm_core.evaluation.metric import METRICS
    from perturbfm_core.evaluation.panel import PANELS

    if panel is None:
        return METRICS.get(HEADLINE)
    return METRICS.get(f"{panel}.{PANELS.get(panel).headline}")


def headline_value(metrics: Mapping[str, Any], panel: str | None = None) -> float | None:
    """Return the value of the headline metric in the content of ``metrics.json``, None where it is undefined.

    Parameters
    ----------
    metrics
        Content of ``metrics.json``.
    panel
        Name of a panel whose own headline is wanted, None for the headline of the benchmark.
    """
    metric = headline_of(panel)
    value = metrics.get(metric.panel, {}).get("global", {}).get(metric.name)
    return None if value is None else float(value)


def marks_of(
    ceiling: Mapping[str, Any] | None, floor: Mapping[str, Any] | None, metric: Metric | None = None
) -> Marks:
    """Return the marks of a metric from the ceilings and floors of a split (see `SplitStats`).

    Parameters
    ----------
    ceiling, floor
        Of the split, None where they are unknown.
    metric
        The metric, None for the headline of the benchmark. Those of panel ``delta`` are stored under their name,
        those of other panels as PANEL.METRIC.
    """
    metric = headline_of() if metric is None else metric
    return marks_named(bound_name(metric.panel, metric.name), ceiling, floor)


def marks_named(name: str, ceiling: Mapping[str, Any] | None, floor: Mapping[str, Any] | None) -> Marks:
    """Return what `marks_of` does, of the metric that is kept under a name (see `bound_name`).

    Parameters
    ----------
    name, ceiling, floor
        Its name, and the ceilings and floors of a split.
    """
    own = _dict((ceiling or {}).get(name))
    floors = {kind: _dict((floor or {}).get(kind)) for kind in ("null", "control_mean", "train_mean")}
    return Marks(
        null=_number(floors["null"].get(name)),
        control_mean=_number(floors["control_mean"].get(name)),
        train_mean=_number(floors["train_mean"].get(name)),
        half=_number(own.get("half")),
        noise_free=_number(own.get("noise_free")),
        baseline=_number(_dict((floor or {}).get("baseline")).get(name)),
        anchor=_number(own.get("anchor")),
    )


def board_sql(metric: Metric | None = None) -> str:
    """Return the SQL of the standings of one metric, board by board.

    Parameters
    ----------
    metric
        The metric, None for the headline of the benchmark.
    """
    metric = headline_of() if metric is None else metric
    return (
        f"SELECT * FROM leaderboard WHERE panel = '{metric.panel}' AND metric = '{metric.name}' "
        "ORDER BY board, rank NULLS LAST, entry"
    )


def bound_name(panel: str, metric: str) -> str:
    """Return the name under which ceilings and floors of a metric are kept beside a split."""
    return metric if panel == "delta" else f"{panel}.{metric}"


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
