"""Anti-gaming probes: attacks on a prediction, and the change of every metric under each.

An attack changes the prediction, never the observation, and adds no information. A metric that improves under an
attack therefore rewards something other than knowing the effect of a perturbation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.evaluation.panel import PanelScores, evaluate
from perturbfm_core.registry import Registry
from perturbfm_core.schema import CONTEXT_ID, FloatArray

NOISE_SEED = 0
NOISE_SCALE = 1.0
AMPLITUDE = 2.0
INFLATION = 4.0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Attack:
    """One way to change a prediction without any further information.

    Attributes
    ----------
    name
        Name in tables.
    function
        (comparison) -> the attacked comparison, None where the attack is impossible.
    impossible
        Why it can be impossible.
    """

    name: str
    function: Callable[[Comparison], Comparison | None]
    impossible: str = "always possible"

    @property
    def description(self) -> str:
        """Return the first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


ATTACKS: Registry[Attack] = Registry("attack", MetricError)

_NO_EXPRESSION = "delta-only data has no expression"


def _attack(
    name: str, impossible: str = "always possible"
) -> Callable[[Callable[[Comparison], Comparison | None]], Callable[[Comparison], Comparison | None]]:
    def register(
        function: Callable[[Comparison], Comparison | None],
    ) -> Callable[[Comparison], Comparison | None]:
        ATTACKS.add(name, Attack(name, function, impossible))
        return function

    return register


def with_prediction(
    c: Comparison, mean: FloatArray, var: FloatArray | None = None, **cells: Any
) -> Comparison:
    """Return a comparison of the same observation with another prediction.

    Parameters
    ----------
    c
        The comparison.
    mean, var
        Predicted delta and variance [C, G]; the variance stays as it was unless given.
    **cells
        Other fields of the generated cells to replace.
    """
    mean = np.array(mean, dtype=np.float64)
    var = c.predicted_var if var is None else np.asarray(var, dtype=np.float64)
    made = None if c.cells is None else replace(c.cells, delta=mean, var=var, **cells)
    # Intermediate results of the old prediction must not be reused; those of the observed side may be.
    return replace(c, predicted=mean, predicted_var=var, cells=made, shared={})


@_attack("added_noise")
def added_noise(c: Comparison) -> Comparison:
    """Add Gaussian noise as large as the prediction itself, different for every condition and gene."""
    size = NOISE_SCALE * np.sqrt(np.square(c.predicted).mean(axis=1, keepdims=True))
    noise = np.empty_like(c.predicted)
    for i, key in enumerate(c.conditions.index.astype(str)):
        noise[i] = np.random.default_rng([NOISE_SEED, *key.encode()]).standard_normal(c.predicted.shape[1])
    return with_prediction(c, c.predicted + size * noise)


@_attack("double_amplitude")
def double_amplitude(c: Comparison) -> Comparison:
    """Predict twice the change."""
    return with_prediction(c, AMPLITUDE * c.predicted)


@_attack("swapped_controls", "delta-only data, or no controls of a second context")
def swapped_controls(c: Comparison) -> Comparison | None:
    """Put the predicted change on the controls of the next context, train's contexts included."""
    if c.control is None:
        return None
    pools = [(str(k), row) for k, row in zip(c.contexts, c.control, strict=True)]
    if c.train is not None and c.train.expression is not None:
        known = c.train.conditions[CONTEXT_ID].astype(str)
        pools += list(zip(known, c.train.expression - c.train.delta, strict=True))
    contexts = sorted({k for k, _ in pools})
    if len(contexts) < 2:
        return None
    means = np.stack([np.mean([row for k, row in pools if k == context], axis=0) for context in contexts])
    other = np.roll(means, -1, axis=0)[np.searchsorted(contexts, c.contexts)]
    return with_prediction(c, other + c.predicted - c.control)


@_attack("perturbed_mean_as_control")
def perturbed_mean_as_control(c: Comparison) -> Comparison:
    """Subtract the train mean from the prediction, as if perturbed cells were its controls.

    For a correlation of centred deltas this equals halving the amplitude, because p - 2 m = 2 (p / 2 - m) for a
    prediction p and the train mean m: it helps predictions that are too large, without any information.
    """
    return with_prediction(c, c.predicted - c.train_mean)


@_attack("log1p_twice", _NO_EXPRESSION)
def log1p_twice(c: Comparison) -> Comparison | None:
    """Take the logarithm of predicted expression once more."""
    if c.control is None:
        return None
    return with_prediction(c, np.log1p(np.maximum(c.control + c.predicted, 0.0)) - c.control)


@_attack("constant_prediction")
def constant_prediction(c: Comparison) -> Comparison:
    """Predict the mean of the predictions for every condition."""
    return with_prediction(c, np.broadcast_to(c.predicted.mean(axis=0), c.predicted.shape))


@_attack("train_mean_relabelled")
def train_mean_relabelled(c: Comparison) -> Comparison:
    """Predict the mean change of the train conditions for every condition."""
    return with_prediction(c, np.broadcast_to(c.train_mean, c.predicted.shape))


@_attack("variance_inflation")
def variance_inflation(c: Comparison) -> Comparison:
    """Multiply the predicted variance by four and spread predicted cells accordingly; means stay as they were."""
    var = INFLATION * c.predicted_var
    if c.cells is None:
        return with_prediction(c, c.predicted, var)
    noisy = c.cells.generator.model_copy(update={"residual_noise": True})
    return with_prediction(c, c.predicted, var, generator=noisy)


def probe(
    comparison: Comparison,
    panels: Iterable[str] | None = None,
    *,
    level: str = "cell",
    attacks: Iterable[str] | None = None,
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

    Returns
    -------
    One row per attack and metric: attack, panel, metric, direction, before, after, change, undefined_before,
    undefined_after (conditions), improved, reason. `improved` is whether the value over all conditions got
    better with no more conditions undefined; never for a metric without a best value, and where either value
    is undefined.
    """
    chosen = list(panels) if panels is not None else None
    before = _summary(evaluate(comparison, chosen, level=level))
    frames = []
    for name in attacks if attacks is not None else ATTACKS.names():
        attack = ATTACKS.get(name)
        attacked = attack.function(comparison)
        after = None if attacked is None else _summary(evaluate(attacked, chosen, level=level))
        frames.append(_changes(attack, before, after))
    return pd.concat(frames, ignore_index=True)


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
                "direction": metric.direction,
                "before": row.value,
                "after": value,
                "change": value - row.value,
                "undefined_before": row.undefined,
                "undefined_after": undefined,
                "improved": undefined is not None
                and undefined <= row.undefined
                and better(metric, row.value, value),
                "reason": attack.impossible if after is None else None,
            }
        )
    return pd.DataFrame(rows).astype({"undefined_after": "Int64", "reason": object})


def better(metric: Metric, before: float, after: float) -> bool:
    """Return whether `after` is better than `before` by more than rounding.

    Parameters
    ----------
    metric
        The metric, which defines what is better.
    before, after
        Its values; False where one is not finite, or the metric has no best value.
    """
    if not (np.isfinite(before) and np.isfinite(after)):
        return False
    if metric.direction == "target" and metric.target is None:
        return False
    scale = _ROUNDING * max(abs(before), abs(after), 1e-3)
    return metric.badness(after) < metric.badness(before) - scale
