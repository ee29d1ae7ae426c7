"""The mean-response baseline: control cells moved by the mean response of all perturbations, as the peer emits them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2.bulk import group_means
from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells, row_totals
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth
from perturbfm_core.schema import BoolArray, FloatArray

_ROWS = 4096


def mean_response(truth: Truth, group: FloatArray | None = None) -> FloatArray:
    """Return float64 [G], mean over perturbations of their mean cells, each without its own target gene.

    Parameters
    ----------
    truth
        The measured cells.
    group
        Mean cell of each group [K, G], if known.

    Raises
    ------
    MetricError
        If a gene is the target of every perturbation.
    """
    cells = truth.cells
    means = (group_means(cells) if group is None else group)[cells.perturbed]
    used = np.ones(means.shape, dtype=np.bool_)
    rows = np.flatnonzero(truth.target >= 0)
    used[rows, truth.target[rows]] = False
    count = used.sum(axis=0)
    if (count == 0).any():
        gene = str(cells.genes[np.flatnonzero(count == 0)[0]])
        msg = f"every perturbation targets {gene!r}, so it has no mean response; the baseline needs one that does not"
        raise MetricError(msg)
    return np.asarray((means * used).sum(axis=0) / count)


def mean_response_cells(truth: Truth, seed: int = 0) -> LabelledCells:
    """Return predicted cells: drawn controls, each gene scaled from the control's mean to the mean response.

    The values are fractions of counts. Log1p values are not scaled: all cells are the mean response.
    """
    cells = truth.cells
    means = group_means(cells)
    response = mean_response(truth, means)
    control = cells.of_group(cells.control)
    rows = [cells.rows[k] for k in (*cells.perturbed, cells.control)]
    if cells.input_type == "lognorm":
        everywhere = np.zeros(len(cells.group) - control.shape[0], dtype=np.int64)
        moved = sp.csr_array(response[None, :].astype(np.float32))[everywhere]
        # Back into the order of the measured cells.
        place = np.argsort(np.concatenate(rows), kind="stable")
        X = sp.vstack([moved, control.astype(np.float32)], format="csr")[place]
    else:
        base = means[cells.control]
        scale = np.divide(response, base, out=np.zeros_like(base), where=base > 0)
        rng = np.random.default_rng(seed)
        source = np.empty(len(cells.group), dtype=np.int64)
        for own in rows[:-1]:
            source[own] = rng.integers(0, control.shape[0], size=len(own))
        source[rows[-1]] = np.arange(control.shape[0])
        X = _scaled(control[source], scale, cells.group == cells.control)
    return replace(cells, X=X, totals=row_totals(X), origin=None)


def _scaled(X: Any, scale: FloatArray, kept: BoolArray) -> Any:
    """Return rows times a factor per gene [G], but for those that are kept as they are [N], in single precision.

    Some cells at a time, since factors of all values in double precision take more memory than the cells.
    """
    data = np.empty(len(X.data), dtype=np.float32)
    for first in range(0, X.shape[0], _ROWS):
        last = min(first + _ROWS, X.shape[0])
        part = slice(X.indptr[first], X.indptr[last])
        factor = scale[X.indices[part]]
        factor[np.repeat(kept[first:last], np.diff(X.indptr[first : last + 1]))] = 1.0
        data[part] = X.data[part] * factor
    out = sp.csr_array((data, X.indices, X.indptr), shape=X.shape)
    out.eliminate_zeros()
    return out
