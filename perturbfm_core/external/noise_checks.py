"""Predictions that differ by no more than the sampling noise of the cells behind them.

The noise of a mean of n cells is the variance between cells, here that of the real control cells, over n. Differences
that are noise alone have its size at most genes; an effect, even a weak one, is large at few genes and small at all
others. What looks like noise is warned of and not refused: a model may well mean that two perturbations do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Mean square of differences in units of their noise: cells of a model may vary less than real ones, down to a quarter,
# and genes that vary together leave some of the mean to chance.
_LEAST, _MOST = 0.2, 1.5
# Of squares of normal variables, the median is this share of the mean; differences with less than that are effects.
_MEDIAN_SHARE: Final = 0.45
_SHAPE: Final = 0.6 * _MEDIAN_SHARE
# Genes that say nothing of noise: those that hardly vary. Fewer than so many others decide nothing.
_VARIES, _FEWEST_GENES = 0.02, 20
# Conditions of one context that are compared with each other.
_COMPARED: Final = 2000
_SHOWN = 3


def within_noise(
    values: FloatArray,
    own_delta: FloatArray | None,
    real_delta: FloatArray | None,
    n_cells: IntArray,
    cell_var: Callable[[str], FloatArray],
    conditions: pd.DataFrame,
) -> list[str]:
    """Return which predictions differ from their control, or from each other, by noise alone, as sentences.

    Parameters
    ----------
    values
        Predictions [C, G], expression or deltas to one control per context.
    own_delta, real_delta
        Predicted deltas to the model's own control and to the real one [C, G], None where that is unknown. The own one is
        compared where there is one: it is of as many cells, and the real one of many.
    n_cells
        Cells behind each prediction [C]; those with fewer than 2 are means that a model predicts as such.
    cell_var
        From a context to the variance between its cells [G].
    conditions
        Condition table [C].
    """
    n = len(conditions)
    context = conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    pert = conditions[schema.PERT_ID].astype(str).to_numpy()
    control, others = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    for name in sorted(set(context[n_cells > 1])):
        var = np.nan_to_num(cell_var(name))
        genes = np.flatnonzero(var > _VARIES * var.max(initial=0.0))
        at = np.flatnonzero((context == name) & (n_cells > 1))
        if len(genes) < _FEWEST_GENES:
            continue
        size = n_cells[at].astype(np.float64)
        spread = np.sqrt(var[genes])
        away, share = (real_delta, 1.0) if own_delta is None else (own_delta, 0.5)
        if away is not None:
            control[at] = _is_noise(away[np.ix_(at, genes)] / spread * np.sqrt(size * share)[:, None])
        if len(at) > _COMPARED:
            continue
        scaled = values[np.ix_(at, genes)] / spread
        for a, b in _near(scaled, size, pert[at]):
            noise = np.sqrt(1 / size[a] + 1 / size[b])
            same = _is_noise((scaled[a] - scaled[b]) / noise[:, None])
            others[at[a[same]]] = others[at[b[same]]] = True
    said = []
    for found, what in (
        (control, "the control" if own_delta is None else "the model's own control"),
        (others, "another perturbation of their context"),
    ):
        if found.any():
            keys = [str(k) for k in conditions.index[found][:_SHOWN]]
            said.append(
                f"{int(found.sum())} of {n} predictions differ from {what} by no more than the sampling noise of the "
                f"cells behind them (n_cells), e.g. {keys}"
            )
    return said


def _is_noise(units: FloatArray) -> BoolArray:
    """Return bool [n], rows of differences [n, G] in units of their noise that are like normal variables."""
    squares = units.astype(np.float64) ** 2
    mean = squares.mean(axis=1)
    shaped = np.median(squares, axis=1) >= _SHAPE * mean
    return np.asarray((mean >= _LEAST) & (mean <= _MOST) & shaped, dtype=np.bool_)


def _near(scaled: FloatArray, size: FloatArray, pert: FloatArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield (positions, positions) of pairs of different perturbations whose mean square may be that of noise."""
    S = scaled.astype(np.float64) - scaled.mean(axis=0)
    square = (S**2).sum(axis=1)
    for a in range(len(S) - 1):
        b = np.arange(a + 1, len(S))
        b = b[pert[b] != pert[a]]
        away = np.maximum(square[a] + square[b] - 2 * S[b] @ S[a], 0) / S.shape[1]
        b = b[away <= _MOST * (1 / size[a] + 1 / size[b])]
        if len(b):
            yield np.full(len(b), a), b
