"""Read-only pandas tables, the type of `PerturbDataset.obs` and `PerturbDataset.conditions`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import pandas as pd


def _refuse(*_: Any, **__: Any) -> NoReturn:
    msg = "the tables of a data set are read-only; work on a copy (`ds.obs.copy()`)"
    raise TypeError(msg)


class _ReadOnlyIndexer:
    """Indexer such as ``loc`` that supports reading but not assignment."""

    def __init__(self, indexer: Any) -> None:
        self._indexer = indexer

    def __getitem__(self, key: Any) -> Any:
        return self._indexer[key]

    def __call__(self, *args: Any, **kwargs: Any) -> _ReadOnlyIndexer:
        return _ReadOnlyIndexer(self._indexer(*args, **kwargs))

    __setitem__ = _refuse


@lru_cache(maxsize=1)
def _frozen_table() -> type[pd.DataFrame]:
    """Return the class of read-only tables, created on first use."""

    class FrozenTable(pd.DataFrame):  # type: ignore[misc]
        """Data frame whose columns and values cannot be set; its methods return ordinary data frames."""

        @property
        def _constructor(self) -> Callable[..., pd.DataFrame]:
            out: Callable[..., pd.DataFrame] = pd.DataFrame
            return out

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
        # pandas calls this at the end of every method with ``inplace=True``.
        _update_inplace = _refuse

    return FrozenTable


def frozen(table: pd.DataFrame) -> pd.DataFrame:
    """Return a read-only copy of a table."""
    out = _frozen_table()(table, copy=True)
    blocks: Any = out._mgr
    for block in blocks.blocks:
        # The buffers of a block: an array of numbers or objects, the codes of categories, or data and mask of
        # nullable types.
        parts = [
            block.values,
            *(getattr(block.values, a, None) for a in ("_codes", "_ndarray", "_data", "_mask")),
        ]
        for part in parts:
            flags = getattr(part, "flags", None)
            if hasattr(flags, "writeable"):
                flags.writeable = False  # type: ignore[union-attr]
    return out
