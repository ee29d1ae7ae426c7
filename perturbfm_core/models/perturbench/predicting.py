"""Predicted deltas of a network: the mean over control cells of what it predicts, less the control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from perturbfm_core import schema
from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query

_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Predictor:
    """Prediction of conditions with any weights.

    A query has the mean of a condition's controls. A network of cells reads cells, whose mean prediction is not the
    prediction of their mean: the control cells of train stand for those of the query, shifted to its mean.

    Attributes
    ----------
    design
        Columns of perturbations and covariates.
    spread
        {train context: float32 [S, G], control cells less their mean}; empty for a network that reads
        means, or no control.
    device
        Where to compute.
    """

    design: Design
    spread: dict[str, FloatArray]
    device: torch.device

    def delta(self, module: torch.nn.Module, query: Query) -> FloatArray:
        """Return float32 [C, G], the predicted delta of each condition."""
        perturbation, covariates = self.design.read(query.conditions)
        shape = (len(query), len(query.genes))
        control = np.zeros(shape, dtype=np.float32) if query.control is None else query.control
        out = np.empty(shape, dtype=np.float32)
        module.eval()
        with torch.no_grad():
            for rows, around in self._blocks(query):
                cells = (control[rows, None] + around).reshape(-1, shape[1])
                each = np.repeat(rows, len(around))
                given = [
                    torch.from_numpy(a).to(self.device) for a in (cells, perturbation[each], covariates[each])
                ]
                made = module(*given).float().cpu().numpy().reshape(len(rows), len(around), shape[1])
                out[rows] = made.mean(axis=1) - control[rows]
        return out

    def _blocks(self, query: Query) -> Iterator[tuple[IntArray, FloatArray]]:
        """Yield positions of conditions of one context, with the cells around their control mean [S, G]."""
        if not self.spread:
            none = np.zeros((1, len(query.genes)), dtype=np.float32)
            for block in np.array_split(np.arange(len(query)), -(-len(query) // _ROWS) or 1):
                yield block, none
            return
        contexts = query.conditions[schema.CONTEXT_ID].astype(str).to_numpy()
        for name in sorted(set(contexts)):
            around = self.spread.get(name)
            around = self._pooled() if around is None else around
            rows = np.flatnonzero(contexts == name)
            for block in np.array_split(rows, -(-len(rows) * len(around) // _ROWS)):
                if len(block):
                    yield block, around

    def _pooled(self) -> FloatArray:
        """Return the cells of all train contexts, thinned to as many as one has, for a context without any."""
        cells = np.concatenate(list(self.spread.values()))
        cells = cells[:: -(-len(cells) // max(len(c) for c in self.spread.values()))]
        return np.asarray(cells - cells.mean(axis=0, dtype=np.float64), dtype=np.float32)
