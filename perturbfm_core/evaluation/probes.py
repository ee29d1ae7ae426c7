"""Anti-gaming probes: attacks on a prediction, and the change of every metric under each.

An attack changes the prediction, never the observation, and adds no information. A metric that improves under an
attack therefore rewards something other than knowing the effect of a perturbation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

# Imported for the attacks that it registers.
from perturbfm_core.evaluation import probes_counts as _probes_counts  # noqa: F401
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.evaluation.panel import PANELS, PanelScores, evaluate
from perturbfm_core.evaluation.probes_attacks import ATTACKS, Attack, with_prediction
from perturbfm_core.schema import FloatArray

__all__ = ["ATTACKS", "Attack", "better", "probe", "with_prediction"]

_ROUNDING = 1e-9
# An improvement is beyond noise if it is more than so many standard deviations of repeated draws.
_BEYOND_NOISE = 3.0


def probe(
    comparison: Comparison,
    panels: Iterable[str] | None = None,
    *,
    level: str = "cell",
    attacks: Iterable[str] | None = None,
    draws: int = 1,
) -> pd.DataFrame:
    """Apply every attack to a prediction and report the change of every metric.

    Parameters
    ----------
    comparison
        The original prediction.
    panels
        Panels to evaluate (default: all).
    level
        Level of the data set, as for `evaluate`.
    attacks
        Names of attacks (default: all).
    draws
        How often cells are drawn of the original prediction; from 2 on, the spread of what reads them is known.

    Returns
    -------
    One row per attack and metric: attack, panel, metric, headline (of its panel), direction, before, after, change, spread (standard deviation of
    `before` over draws, 0 without repeated ones), undefined_before, undefined_after (conditions), improved, reason.
    `improved` is whether the value over all conditions got better by more than three times the spread with no more
    conditions undefined; never for a metric without a best value, and where either value is undefined.
    """
    chosen = list(panels) if panels is not None else list(PANELS)
    before = _summary(evaluate(comparison, chosen, level=level))
    before["spread"] = _spread(comparison, before["value"].to_numpy(), chosen, level, draws)
    frames = []
    for name in attacks if attacks is not None else ATTACKS.names():
        attack = ATTACKS.get(name)
        attacked = attack.function(comparison)
        after = None if attacked is None else _summary(evaluate(attacked, chosen, level=level))
        frames.append(_changes(attack, before, after))
    return pd.concat(frames, ignore_index=True)


def _spread(c: Comparison, first: FloatArray, panels: list[str], level: str, draws: int) -> FloatArray:
    """Return [M], the standard deviation of each metric over draws of the predicted cells, 0 where there is none.

    Parameters
    ----------
    c
        The original prediction.
    first
        Values of its own draw [M].
    panels
        Names of panels.
    level
        Level of the data set.
    draws
        Number of draws, with that one.
    """
    reads_cells = any(m.needs == "cells" for name in panels for m in PANELS.get(name).metrics)
    if c.cells is None or not (c.cells.generates and reads_cells) or draws < 2:
        return np.zeros(len(first))
    values = [first]
    for extra in range(1, draws):
        generator = c.cells.generator.model_copy(update={"seed": c.cells.generator.seed + extra})
        again = replace(c, cells=replace(c.cells, generator=generator), shared={})
        values.append(_summary(evaluate(again, panels, level=level))["value"].to_numpy())
    return np.asarray(np.nan_to_num(np.std(values, axis=0, ddof=1)))


def _summary(scores: PanelScores) -> pd.DataFrame:
    """Return one row per metric: key, value over all conditions, number of undefined conditions."""
    everywhere = np.zeros(len(scores.conditions), dtype=np.int64)
    return pd.DataFrame(
        {
            "key": [f"{r.metric.panel}.{r.metric.name}" for r in scores.results],
            "value": [float(r.grouped(everywhere, 1)[0]) for r in scores.results],
            "undefined": [int((~np.isfinite(r.values)).sum()) for r in scores.results],
        }
    )


def _changes(attack: Attack, before: pd.DataFrame, after: pd.DataFrame | None) -> pd.DataFrame:
    rows = []
    for i, row in enumerate(before.itertuples(index=False)):
        metric = METRICS.get(row.key)
        value, undefined = (
            (np.nan, None) if after is None else (after["value"][i], int(after["undefined"][i]))
        )
        rows.append(
            {
                "attack": attack.name,
                "panel": metric.panel,
                "metric": metric.name,
                "headline": PANELS.get(metric.panel).headline == metric.name,
                "direction": metric.direction,
                "before": row.value,
                "after": value,
                "change": value - row.value,
                "spread": row.spread,
                "undefined_before": row.undefined,
                "undefined_after": undefined,
                "improved": undefined is not None
                and undefined <= row.undefined
                and better(metric, row.value, value, _BEYOND_NOISE * row.spread),
                "reason": attack.impossible if after is None else None,
            }
        )
    return pd.DataFrame(rows).astype({"undefined_after": "Int64", "reason": object})


def better(metric: Metric, before: float, after: float, margin: float = 0.0) -> bool:
    """Return whether `after` is better than `before` by more than rounding, and by more than a margin.

    Parameters
    ----------
    metric
        The metric, which defines what is better.
    before, after
        Its values; False where one is not finite, or the metric has no best value.
    margin
        Improvements up to this are none.
    """
    if not (np.isfinite(before) and np.isfinite(after)):
        return False
    if metric.direction == "target" and metric.target is None:
        return False
    scale = _ROUNDING * max(abs(before), abs(after), 1e-3)
    return metric.badness(after) < metric.badness(before) - max(scale, margin)
