"""Mean and variance of the control pools of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.pseudobulk import GroupMoments, first_and_second, group_weights
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from perturbfm_core.data.controls import ControlGroups
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.data.kept_rows import KeptRows


def control_pool_moments(ds: PerturbDataset, chosen: BoolArray, kept: KeptRows | None = None) -> GroupMoments:
    """Return moments of control rows per (context, batch) group, followed by those per context.

    Parameters
    ----------
    ds
        The data set.
    chosen
        bool [N], the control rows that count.
    kept
        These rows in memory, with others or without, where the whole matrix need not be read for them.
    """
    groups = ds.controls
    codes = np.where(chosen, groups.group, -1)
    weights = ds.obs[schema.WEIGHT].to_numpy() if schema.WEIGHT in ds.obs else None
    X, there = (ds.streamed_expression, slice(None)) if kept is None else (kept.expression, kept.rows)
    of_rows = None if weights is None else weights[there]
    first, second = first_and_second(X, codes[there], groups.n_groups, of_rows)
    n = np.bincount(codes[chosen], minlength=groups.n_groups)
    return pool_moments(groups, n, group_weights(codes, groups.n_groups, weights), first, second)


def pool_moments(
    groups: ControlGroups, n: IntArray, w: FloatArray, first: FloatArray, second: FloatArray
) -> GroupMoments:
    """Return moments of the control pools: (context, batch) groups, then whole contexts.

    Parameters
    ----------
    groups
        The control groups.
    n, w
        [groups], rows and summed weight of each group.
    first, second
        float64 [groups, G], sums of the rows' values and of their squares.
    """

    # Sums are additive: those of a context are the sums over its groups, without a second pass over the
    # matrix.
    def with_contexts(a: Any) -> Any:
        extra = np.zeros((len(groups.contexts), *a.shape[1:]), dtype=a.dtype)
        np.add.at(extra, groups.context_of_group, a)
        return np.concatenate([a, extra])

    n, w, first, second = (with_contexts(a) for a in (n, w, first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = first / w[:, None]
        spread = np.maximum(second / w[:, None] - mean**2, 0.0)
        var = np.where(n[:, None] > 1, spread * (n / np.maximum(n - 1, 1))[:, None], np.nan)
    return GroupMoments(n.astype(np.int64), mean, var, w)
