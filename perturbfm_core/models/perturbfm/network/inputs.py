"""Network inputs: arrays with one row per condition, and their concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.schema import FloatArray, IntArray


@dataclass(eq=False)
class Inputs:
    """Conditions as arrays.

    Attributes
    ----------
    ids, amounts
        int64 and float32 [n, P]: perturbation of each part (`PAD`, `UNKNOWN` or its number) and its signed
        amount.
    features
        float32 [n, P, F], features of the perturbed gene of each part.
    basal, context
        float32 [n, .], components of the control state; these with covariates.
    spread
        Per graph CSR [n * T, nodes], the diffused intervention.
    diffused
        Per graph and step CSR [n, G]: the same on measured genes, without the targets themselves.
    dense
        float32 [n, K, G], intervention channels.
    state
        float32 [n, 2, G], standardised control expression and its square; None below v3.
    multi
        float32 [n], 1 where more than one gene is perturbed.
    cells, cell_row
        float32 [contexts, G] distinct control profiles in log1p units; int64 [n], the profile of each
        condition.
    """

    ids: IntArray
    amounts: FloatArray
    features: FloatArray
    basal: FloatArray
    context: FloatArray
    spread: list[Any]
    diffused: list[Any]
    dense: FloatArray
    state: FloatArray | None
    multi: FloatArray
    cells: FloatArray | None = None
    cell_row: IntArray | None = None

    def __len__(self) -> int:
        return len(self.ids)


def join(parts: Sequence[Inputs]) -> Inputs:
    """Concatenate inputs of several sets of conditions."""
    width = max(p.ids.shape[1] for p in parts)

    def wide(x: Any) -> Any:
        return np.pad(x, [(0, 0), (0, width - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])

    cells = [p.cells for p in parts if p.cells is not None]
    offset = np.cumsum([0, *(len(c) for c in cells)])
    first = parts[0]
    return Inputs(
        ids=np.concatenate([wide(p.ids) for p in parts]),
        amounts=np.concatenate([wide(p.amounts) for p in parts]),
        features=np.concatenate([wide(p.features) for p in parts]),
        basal=np.concatenate([p.basal for p in parts]),
        context=np.concatenate([p.context for p in parts]),
        spread=[sp.csr_array(sp.vstack([p.spread[i] for p in parts])) for i in range(len(first.spread))],
        diffused=[
            sp.csr_array(sp.vstack([p.diffused[i] for p in parts])) for i in range(len(first.diffused))
        ],
        dense=np.concatenate([p.dense for p in parts]),
        state=None
        if first.state is None
        else np.concatenate([p.state for p in parts if p.state is not None]),
        multi=np.concatenate([p.multi for p in parts]),
        cells=np.concatenate(cells) if cells else None,
        cell_row=np.concatenate(
            [p.cell_row + offset[i] for i, p in enumerate(parts) if p.cell_row is not None]
        )
        if cells
        else None,
    )
