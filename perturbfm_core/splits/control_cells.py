"""Input control cells of the contexts of a query, read when a model asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import take_rows
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import BoolArray, IntArray


class ControlCells:
    """Control cells that models may see: of the input role, of some contexts, and never of the reference role.

    Parameters
    ----------
    ds
        A data set of single cells with controls.
    contexts
        The contexts.
    allowed
        bool [N], rows that may be read at all; all if None.
    """

    def __init__(
        self, ds: PerturbDataset, contexts: Iterable[object], allowed: BoolArray | None = None
    ) -> None:
        self._ds, self._allowed = ds, allowed
        self.contexts = tuple(dict.fromkeys(str(c) for c in contexts))
        self.read: set[str] = set()
        """Contexts whose cells were read, for the record of a run."""

    @classmethod
    def of(
        cls, ds: PerturbDataset, contexts: Iterable[object], allowed: BoolArray | None = None
    ) -> ControlCells | None:
        """Return the control cells of a data set, None for one without single cells or without controls.

        Parameters
        ----------
        ds, contexts, allowed
            As of the class; the data set may be any.
        """
        there = ds.metadata.level == "cell" and ds.has_controls and ds.streamed_expression is not None
        return cls(ds, contexts, allowed) if there else None

    def rows(self, *contexts: str) -> IntArray:
        """Return the rows of the data set of some contexts, all by default, ascending.

        Raises
        ------
        SplitError
            If the query has no conditions of a context.
        """
        for context in contexts:
            if context not in self.contexts:
                msg = (
                    f"the query has no conditions of context {context!r}, only of {', '.join(self.contexts[:5])}; "
                    "ask for the control cells of one of these"
                )
                raise SplitError(msg)
        column = self._ds.obs[schema.CONTEXT_ID].cat
        wanted = np.asarray(column.categories.astype(str).isin(contexts or self.contexts))
        mine = self._ds.controls.has_role("input") & wanted[column.codes.to_numpy()]
        return np.flatnonzero(mine if self._allowed is None else mine & self._allowed)

    def expression(self, context: str) -> Any:
        """Return the log1p expression of a context's input control cells [n, G], CSR or dense as the data set has it."""
        rows = self.rows(context)
        self.read.add(context)
        X: Any = self._ds.streamed_expression
        return take_rows(X, rows)
