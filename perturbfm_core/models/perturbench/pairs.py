"""Training rows: perturbed cells with control cells drawn to match, or the means of conditions."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch

from perturbfm_core.models.perturbench.controls import cells_of, members_of, pools_of
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import TrainView
from perturbfm_core.training.seeds import seed_sequence


class Pairs:
    """Rows of perturbed and control expression; subclasses read them.

    Attributes
    ----------
    condition
        int64 [n], position of each row's condition in the view.
    """

    condition: IntArray

    def __len__(self) -> int:
        return len(self.condition)

    @abstractmethod
    def read(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return float32 (perturbed, control) [b, G] in log1p units; only these rows become dense."""


class ConditionPairs(Pairs):
    """The mean of each condition with that of its controls, or differences with zeros without controls."""

    def __init__(self, view: TrainView) -> None:
        # By name, so that the order of conditions does not matter.
        self.condition = np.argsort(view.conditions.index.to_numpy().astype(str), kind="stable")
        self._control = np.zeros_like(view.delta) if view.control is None else view.control
        self._delta = view.delta

    def read(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return the means of some conditions and of their controls."""
        at = self.condition[rows]
        return self._control[at] + self._delta[at], self._control[at]


class CellPairs(Pairs):
    """Perturbed cells, each with an input control of its batch and context that is drawn anew at every read.

    Parameters
    ----------
    view
        A view with cells.
    max_cells
        Maximum number of perturbed cells, drawn once; None for all.
    seed
        Seed of that draw. Controls are drawn with torch's global generator, which the loop seeds.
    """

    def __init__(self, view: TrainView, max_cells: int | None, seed: int) -> None:
        ds, allowed = cells_of(view)
        rows = np.flatnonzero(allowed & ~ds.is_control)
        if max_cells is not None and len(rows) > max_cells:
            rng = np.random.default_rng(seed_sequence(seed, "cells"))
            rows = np.sort(rng.choice(rows, size=max_cells, replace=False))
        self._view, self._rows = view, rows
        self.condition = view.conditions.index.get_indexer(ds.conditions.index)[ds.condition_codes[rows]]
        pools, pool = np.unique(pools_of(ds, rows), return_inverse=True)
        members = [members_of(ds, allowed, int(p)) for p in pools]
        counts = np.asarray([len(m) for m in members], dtype=np.int64)
        self._controls = np.concatenate([*members, rows[:0]])
        self._first, self._count = (np.cumsum(counts) - counts)[pool], counts[pool]

    def read(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return some cells and the controls drawn for them."""
        drawn = torch.rand(len(rows), dtype=torch.float64).numpy()
        matched = self._controls[self._first[rows] + (drawn * self._count[rows]).astype(np.int64)]
        return self._view.expression(self._rows[rows]), self._view.expression(matched)
