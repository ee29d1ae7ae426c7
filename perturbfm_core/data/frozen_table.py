"""A pandas table that refuses to be changed: what `PerturbDataset` hands out of its rows and conditions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import pandas as pd


def _refuse(*_: Any, **__: Any) -> NoReturn:
    msg = "the tables of a data set are read-only; work on a copy (`ds.obs.copy()`)"
    raise TypeError(msg)


class _ReadOnlyIndexer:
    """An indexer such as ``loc`` that reads and never sets."""

    def __init__(self, indexer: Any) -> None:
        self._indexer = indexer

    def __getitem__(self, key: Any) -> Any:
        return self._indexer[key]

    def __call__(self, *args: Any, **kwargs: Any) -> _ReadOnlyIndexer:
        return _ReadOnlyIndexer(self._indexer(*args, **kwargs))

    __setitem__ = _refuse


@lru_cache(maxsize=1)
def _frozen_table() -> type[pd.DataFrame]:
    """Return the class; it is made on first use, so that importing this module does not load pandas."""

    class FrozenTable(pd.DataFrame):
        """A data frame whose columns and values cannot be set; what is derived from it is an ordinary data frame."""

        @property
        def _constructor(self) -> Callable[..., pd.DataFrame]:
            return pd.DataFrame

        def __setattr__(self, name: str, value: Any) -> None:
            if name in ("index", "columns") or name in self.columns:
                _refuse()
            super().__setattr__(name, value)

        @property
        def loc(self) -> Any:
            """Return label-based look-up."""
            return _ReadOnlyIndexer(super().loc)

        @property
        def iloc(self) -> Any:
            """Return look-up by position."""
            return _ReadOnlyIndexer(super().iloc)

        @property
        def at(self) -> Any:
            """Return look-up of one value by label."""
            return _ReadOnlyIndexer(super().at)

        @property
        def iat(self) -> Any:
            """Return look-up of one value by position."""
            return _ReadOnlyIndexer(super().iat)

        __setitem__ = _refuse
        __delitem__ = _refuse
        insert = _refuse
        pop = _refuse
        update = _refuse
        # What every method with ``inplace=True`` ends in.
        _update_inplace = _refuse

    return FrozenTable


def frozen(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of a table that refuses changes."""
    out = _frozen_table()(table, copy=True)
    blocks: Any = out._mgr
    for block in blocks.blocks:
        # A block of numbers or objects is an array; categories have codes, nullable types data and a mask.
        parts = [
            block.values,
            *(getattr(block.values, a, None) for a in ("_codes", "_ndarray", "_data", "_mask")),
        ]
        for part in parts:
            flags = getattr(part, "flags", None)
            if hasattr(flags, "writeable"):
                flags.writeable = False
    return out
