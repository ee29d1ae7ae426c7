"""Deltas as log fold changes, and log fold changes as deltas of other controls."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.data.metadata import Normalization
from perturbfm_core.schema import FloatArray, StrArray
from perturbfm_core.splits.view import TrainView

_USUAL_DEPTH = Normalization().target_sum
# Log1p units by which means in single precision may miss 0.
_ROUNDING = 1e-3
_BLOCK = 512
# Log1p units from which 1 and a pseudocount no longer count, and beyond which exponentials would overflow.
_LARGE = 40.0


def pseudocount_at_depth(view: TrainView, pseudocount: float) -> float:
    """Return a pseudocount, meant for counts scaled to 10,000 per cell, at the depth that the data of a view state.

    It is in proportion to a lower depth, at which it would hide most levels. At a higher one it stays, since means of
    log1p values hardly grow with the depth where most counts are 0.
    """
    scaled = None if view.dataset is None else view.dataset.metadata.normalization
    return pseudocount if scaled is None else pseudocount * min(scaled.target_sum / _USUAL_DEPTH, 1.0)


def has_levels(view: TrainView) -> bool:
    """Return whether a view has controls, and they and what is measured are levels: 0 or above, unlike z-scores."""
    control = view.control
    return control is not None and all(
        control[:, genes].min() >= -_ROUNDING
        and (control[:, genes] + view.delta_columns(genes)).min() >= -_ROUNDING
        for genes in row_blocks(control.shape[1], _BLOCK)
    )


class LogFoldChanges:
    """Log fold changes of the conditions of a view, some genes at a time.

    Parameters
    ----------
    view
        Train conditions, with controls.
    pseudocount
        Added to the levels before the ratio is taken.
    """

    def __init__(self, view: TrainView, pseudocount: float) -> None:
        self._view, self._pseudocount = view, pseudocount

    @property
    def genes(self) -> StrArray:
        """Return the gene ids [G]."""
        return self._view.genes

    def __len__(self) -> int:
        return len(self._view)

    def delta_columns(self, columns: slice) -> FloatArray:
        """Return float64 [n, k], natural logarithms of (level + pseudocount) ratios of some genes."""
        control = np.asarray(self._view.control)[:, columns].astype(np.float64)
        # Of a mean of log1p values; a level below 0 comes from rounding alone.
        after = np.maximum(control + self._view.delta_columns(columns), 0.0)
        return _log_level(after, self._pseudocount) - _log_level(control, self._pseudocount)


def applied_fold_changes(log_fold_changes: FloatArray, control: FloatArray, pseudocount: float) -> FloatArray:
    """Return float64 [C, G], deltas in log1p units: the inverse of `LogFoldChanges`, no level falling below 0.

    Parameters
    ----------
    log_fold_changes
        float [C, G], natural logarithms.
    control
        float [C, G], mean of the controls of each condition in log1p units.
    pseudocount
        What was added to the levels before the ratios were taken.
    """
    control = control.astype(np.float64)
    log_level = _log_level(control, pseudocount) + log_fold_changes
    level = np.exp(np.minimum(log_level, _LARGE)) - pseudocount
    return np.asarray(np.where(log_level > _LARGE, log_level, np.log1p(np.maximum(level, 0.0))) - control)


def _log_level(values: FloatArray, pseudocount: float) -> FloatArray:
    """Return the natural logarithm of levels plus a pseudocount, of log1p values of any size."""
    small = np.log(np.expm1(np.minimum(values, _LARGE)) + pseudocount)
    return np.asarray(np.where(values > _LARGE, values, small))
