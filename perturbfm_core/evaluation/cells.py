"""Observed, control and predicted cells of the test conditions, for metrics that need more than means.

A model that predicts means gets cells from a declared generator, which is recorded with the scores; a prediction that
has cells is scored on them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.data.controls import INPUT, SHARED
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import row_rank_hash
from perturbfm_core.data.prediction import PredictedCells
from perturbfm_core.schema import FloatArray, IntArray


class Generator(Frozen):
    """How point predictions become cells.

    ``control_shift``: input control cells of the condition's context, as many as the condition has true cells
    (drawn by `seed`, with replacement only where there are too few), plus the predicted delta, clipped at 0.
    With `residual_noise` a Gaussian of the model's predictive variance is added before clipping.
    """

    name: str = "control_shift"
    residual_noise: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Cells:
    """True, control and generated cells of the conditions of a comparison.

    Attributes
    ----------
    X
        log1p expression of the whole data set, CSR or dense [N, G].
    truth_rows
        Row positions of the test cells of each condition [C].
    control_rows
        {context: row positions of *all* its control cells}, which other benchmarks subtract and test against.
    input_rows
        {context: row positions of its input controls}, which models see and the generator shifts.
    contexts
        Context of each condition [C].
    delta, var
        Predicted delta and variance [C, G].
    generator
        How predicted cells are made.
    keys
        Condition keys [C] that seed the generator of each condition; without them its position does.
    own
        log1p expression of the prediction's own cells, CSR or dense [n, G]; None if it has none.
    own_rows
        Rows in `own` of each condition [C]; where there are none, its cells are generated.
    reads
        How often predicted cells were asked for: tells which panels use them.
    """

    X: Any
    truth_rows: list[IntArray]
    control_rows: dict[str, IntArray]
    input_rows: dict[str, IntArray]
    contexts: list[str]
    delta: FloatArray
    var: FloatArray
    generator: Generator
    keys: tuple[str, ...] = ()
    own: Any = None
    own_rows: list[IntArray | None] | None = None
    reads: Counter[str] = field(default_factory=Counter, repr=False)

    def _rng(self, i: int, stream: int) -> np.random.Generator:
        """Return the random generator of one condition, the same in any order of the conditions."""
        own = i
        if self.keys:
            own = int.from_bytes(hashlib.blake2b(self.keys[i].encode(), digest_size=8).digest(), "little")
        return np.random.default_rng([self.generator.seed, own, stream])

    def __len__(self) -> int:
        return len(self.truth_rows)

    def dense(self, rows: IntArray) -> FloatArray:
        """Return float32 [n, G], the expression of some rows."""
        part = self.X[rows]
        return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float32)

    def truth(self, i: int) -> FloatArray:
        """Return float32 [n, G], the true cells of condition `i`."""
        return self.dense(self.truth_rows[i])

    def control(self, context: str) -> FloatArray:
        """Return float32 [n, G], all control cells of a context."""
        return self.dense(self.control_rows[context])

    @cached_property
    def template_rows(self) -> list[IntArray]:
        """Return the control rows that the generator shifts, for each condition."""
        out = []
        for i, rows in enumerate(self.truth_rows):
            rng = self._rng(i, 0)
            pool = self.input_rows[self.contexts[i]]
            out.append(rng.choice(pool, size=len(rows), replace=len(rows) > len(pool)))
        return out

    def _own_rows(self, i: int) -> IntArray | None:
        return None if self.own is None or self.own_rows is None else self.own_rows[i]

    def n_predicted(self, i: int) -> int:
        """Return the number of predicted cells of condition `i`."""
        own = self._own_rows(i)
        return len(self.truth_rows[i] if own is None else own)

    @property
    def n_own(self) -> int:
        """Return the number of conditions whose cells are the prediction's own."""
        return sum(self._own_rows(i) is not None for i in range(len(self)))

    def predicted(self, i: int) -> FloatArray:
        """Return float32 [n, G], the prediction's own cells of condition `i`, else generated ones."""
        self.reads["predicted"] += 1
        own = self._own_rows(i)
        if own is not None:
            part = self.own[own]
            return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float32)
        cells = self.dense(self.template_rows[i]) + self.delta[i].astype(np.float32)
        if self.generator.residual_noise:
            rng = self._rng(i, 1)
            cells += rng.standard_normal(cells.shape, dtype=np.float32) * np.sqrt(self.var[i]).astype(
                np.float32
            )
        return np.asarray(np.maximum(cells, 0.0))


def cells_of(
    ds: PerturbDataset,
    conditions: pd.DataFrame,
    rows: IntArray,
    codes: IntArray,
    delta: FloatArray,
    var: FloatArray,
    generator: Generator,
    own: PredictedCells | None = None,
) -> Cells | None:
    """Return the cells of test conditions, None for data without single cells and controls.

    Parameters
    ----------
    ds
        The data set.
    conditions
        Condition table [C], index = key.
    rows, codes
        Row positions of the test cells [N] and the condition (0 to C - 1) of each.
    delta, var
        Predicted delta and variance [C, G], log1p units.
    generator
        How predicted cells are made, where the prediction has none.
    own
        The prediction's own cells, if it has some.
    """
    if ds.metadata.level != "cell" or not ds.has_controls:
        return None
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(conditions) + 1))
    truth_rows = [np.sort(rows[order[a:b]]) for a, b in pairwise(bounds)]
    contexts = [str(c) for c in conditions[schema.CONTEXT_ID].astype(str)]
    row_context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()
    roles = ds.controls.roles
    number = {c: i for i, c in enumerate(ds.contexts)}
    control_rows: dict[str, IntArray] = {}
    input_rows: dict[str, IntArray] = {}
    for context in sorted(set(contexts)):
        mine = row_context == number[context]
        control_rows[context] = np.flatnonzero(mine & ds.is_control)
        pool = np.flatnonzero(mine & ((roles == INPUT) | (roles == SHARED)))
        # Sorted by a hash of the row ids, so that the cells drawn do not depend on the order of rows.
        input_rows[context] = pool[np.argsort(row_rank_hash(ds.row_ids[pool], generator.seed), kind="stable")]
    keys = tuple(str(k) for k in conditions.index)
    made = Cells(ds.expression, truth_rows, control_rows, input_rows, contexts, delta, var, generator, keys)
    return made if own is None else replace(made, own=own.X, own_rows=[own.rows.get(k) for k in keys])
