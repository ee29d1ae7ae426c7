"""A named collection that refuses duplicates and lists what it knows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from perturbfm_core.errors import ConfigError, PerturbFMError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects; a name is written once, where its object is registered.

    Parameters
    ----------
    what
        What is registered, as a singular noun for messages ("model").
    error
        Raised for an unknown name.
    """

    def __init__(self, what: str, error: type[PerturbFMError] = ConfigError) -> None:
        self.what = what
        self._error = error
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register `item` under `name`; a duplicate raises `ConfigError`."""
        if name in self._items:
            msg = f"{self.what} {name!r} is registered twice; choose another name"
            raise ConfigError(msg)
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""
        return lambda item: self.add(name, item)

    def get(self, name: str) -> T:
        """Return the object called `name`, or raise with the known names."""
        try:
            return self._items[name]
        except KeyError:
            close = difflib.get_close_matches(name, self._items, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            msg = f"unknown {self.what} {name!r}{hint}; known: {', '.join(self.names())}"
            raise self._error(msg) from None

    def names(self) -> list[str]:
        """Return the registered names in order of registration."""
        return list(self._items)

    def items(self) -> list[tuple[str, T]]:
        """Return (name, object) pairs in order of registration."""
        return list(self._items.items())

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
