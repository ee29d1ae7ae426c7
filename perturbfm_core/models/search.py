"""Search space of a model: the range in which each hyperparameter is worth searching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perturbfm_core.errors import ModelError


@dataclass(frozen=True)
class FloatRange:
    """A real number in [low, high].

    Attributes
    ----------
    low, high
        Smallest and largest value.
    log
        Whether values are drawn uniformly on a log scale.
    listed
        Whether the parameter is a list of candidate values; it is then set to a list with this one value.
    """

    low: float
    high: float
    log: bool = True
    listed: bool = False

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class IntRange:
    """An integer in [low, high]; fields as in `FloatRange`."""

    low: int
    high: int
    log: bool = False
    listed: bool = False

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes
    ----------
    values
        Strings, numbers or booleans, at least two.
    """

    values: tuple[str | int | float | bool | None, ...]
    listed = False

    def __post_init__(self) -> None:
        if len(set(self.values)) < 2:
            msg = f"a search among {self.values} has nothing to choose; give at least two different values"
            raise ModelError(msg)


SearchDimension = FloatRange | IntRange | Choice
SearchSpace = Mapping[str, SearchDimension]


def _check(range_: FloatRange | IntRange) -> None:
    if not range_.low < range_.high or (range_.log and range_.low <= 0):
        msg = f"{range_} is no range to search: low must be below high, and above 0 on a log scale"
        raise ModelError(msg)


def with_values(params: dict[str, Any], space: SearchSpace, values: dict[str, Any]) -> dict[str, Any]:
    """Return parameters in which the searched ones are replaced by `values`.

    Parameters
    ----------
    params
        Parameters of a configuration by name.
    space
        Search space of the model.
    values
        New values of the searched parameters by name.
    """
    return params | {name: [v] if space[name].listed else v for name, v in values.items()}
