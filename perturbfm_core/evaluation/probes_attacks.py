"""Attacks on predicted changes of expression: ways to change a prediction without any further information."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.registry.members import Registry
from perturbfm_core.schema import CONTEXT_ID, FloatArray

NOISE_SEED = 0
NOISE_SCALE = 1.0
AMPLITUDE = 2.0
INFLATION = 4.0


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


AttackFunction = Callable[[Comparison], Comparison | None]


def attack(name: str, impossible: str = "always possible") -> Callable[[AttackFunction], AttackFunction]:
    """Return a decorator that registers a function as an attack (see `Attack`)."""

    def register(function: AttackFunction) -> AttackFunction:
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


@attack("added_noise")
def added_noise(c: Comparison) -> Comparison:
    """Add Gaussian noise as large as the prediction itself, different for every condition and gene."""
    size = NOISE_SCALE * np.sqrt(np.square(c.predicted).mean(axis=1, keepdims=True))
    noise = np.empty_like(c.predicted)
    for i, key in enumerate(c.conditions.index.astype(str)):
        noise[i] = np.random.default_rng([NOISE_SEED, *key.encode()]).standard_normal(c.predicted.shape[1])
    return with_prediction(c, c.predicted + size * noise)


@attack("double_amplitude")
def double_amplitude(c: Comparison) -> Comparison:
    """Predict twice the change."""
    return with_prediction(c, AMPLITUDE * c.predicted)


@attack("swapped_controls", "delta-only data, or no controls of a second context")
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


@attack("perturbed_mean_as_control")
def perturbed_mean_as_control(c: Comparison) -> Comparison:
    """Subtract the train mean from the prediction, as if perturbed cells were its controls.

    For a correlation of centred deltas this equals halving the amplitude, because p - 2 m = 2 (p / 2 - m) for a
    prediction p and the train mean m: it helps predictions that are too large, without any information.
    """
    return with_prediction(c, c.predicted - c.train_mean)


@attack("log1p_twice", _NO_EXPRESSION)
def log1p_twice(c: Comparison) -> Comparison | None:
    """Take the logarithm of predicted expression once more."""
    if c.control is None:
        return None
    return with_prediction(c, np.log1p(np.maximum(c.control + c.predicted, 0.0)) - c.control)


@attack("constant_prediction")
def constant_prediction(c: Comparison) -> Comparison:
    """Predict the mean of the predictions for every condition."""
    return with_prediction(c, np.broadcast_to(c.predicted.mean(axis=0), c.predicted.shape))


@attack("train_mean_relabelled")
def train_mean_relabelled(c: Comparison) -> Comparison:
    """Predict the mean change of the train conditions for every condition."""
    return with_prediction(c, np.broadcast_to(c.train_mean, c.predicted.shape))


@attack("variance_inflation")
def variance_inflation(c: Comparison) -> Comparison:
    """Multiply the predicted variance by four and spread predicted cells accordingly; means stay as they were."""
    var = INFLATION * c.predicted_var
    if c.cells is None:
        return with_prediction(c, c.predicted, var)
    noisy = c.cells.generator.model_copy(update={"residual_noise": True})
    return with_prediction(c, c.predicted, var, generator=noisy)
