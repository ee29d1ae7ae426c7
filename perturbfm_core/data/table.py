"""Condition table: pseudobulk expression changes, one row per condition, for training and scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.controls import ROLES, Role
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import take_rows
from perturbfm_core.data.pseudobulk import group_moments, shrink_variance
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

S2Source = Literal["cells", "replicates", "unknown"]


@dataclass(frozen=True, eq=False)
class ConditionTable:
    """Pseudobulk of selected rows of a data set, in log1p units.

    Attributes
    ----------
    conditions
        Table [C], index = condition key, columns = `schema.CONDITION_COLUMNS`.
    n
        int64 [C], rows of each condition.
    delta
        {role: float32 [C, G]}: mean expression minus the matched control mean of `role`.
    control
        {role: float32 [C, G]}: that control mean; empty for delta-only data.
    s2_pert
        float32 [C, G], sampling variance of the perturbed mean (0 where unknown).
    s2_control
        {role: float32 [C, G]}, sampling variance of the control mean.
    s2_source
        How `s2_pert` was estimated: between ``cells``, between ``replicates``, or ``unknown``.
    shared_control
        bool [C]: whether both roles subtract the same controls.
    fallback_rows
        Number of rows matched to all controls of their context because their batch has none.
    """

    conditions: pd.DataFrame
    n: IntArray
    delta: dict[Role, FloatArray]
    control: dict[Role, FloatArray]
    s2_pert: FloatArray
    s2_control: dict[Role, FloatArray]
    s2_source: S2Source
    shared_control: BoolArray
    fallback_rows: int

    def __len__(self) -> int:
        return len(self.conditions)

    def select(self, positions: IntArray) -> ConditionTable:
        """Return the table of the conditions at the given positions, in that order."""
        return ConditionTable(
            conditions=self.conditions.iloc[positions],
            n=self.n[positions],
            delta={k: v[positions] for k, v in self.delta.items()},
            control={k: v[positions] for k, v in self.control.items()},
            s2_pert=self.s2_pert[positions],
            s2_control={k: v[positions] for k, v in self.s2_control.items()},
            s2_source=self.s2_source,
            shared_control=self.shared_control[positions],
            fallback_rows=self.fallback_rows,
        )


def condition_table(ds: PerturbDataset, rows: IntArray | None = None) -> ConditionTable:
    """Compute the condition table of perturbed rows, block by block on sparse data.

    Parameters
    ----------
    ds
        The data set.
    rows
        int [n], row positions to use (default: all perturbed rows); control rows among them are ignored.
    """
    all_codes = ds.condition_codes
    rows = np.flatnonzero(all_codes >= 0) if rows is None else np.asarray(rows, dtype=np.int64)
    rows = rows[all_codes[rows] >= 0]
    present, codes = np.unique(all_codes[rows], return_inverse=True)
    conditions = ds.conditions.iloc[present]
    weights = ds.obs[schema.WEIGHT].to_numpy()[rows] if schema.WEIGHT in ds.obs else None
    if ds.has_controls:
        source = take_rows(ds.expression, rows)
    elif ds.values.delta is not None:
        source = ds.values.delta[rows]
    else:
        source = ds.delta(rows)
    moments = group_moments(source, codes, len(present), weights)
    mean = moments.mean
    s2, s2_source = _sampling_variance(ds, conditions, moments)
    delta: dict[Role, FloatArray] = {}
    control: dict[Role, FloatArray] = {}
    s2_control: dict[Role, FloatArray] = {}
    shared = np.ones(len(present), dtype=np.bool_)
    fallback = 0
    if ds.has_controls:
        groups = ds.controls
        shared = groups.shared[
            conditions[schema.CONTEXT_ID].map({c: i for i, c in enumerate(groups.contexts)}).to_numpy()
        ]
        treated = np.zeros(ds.n_obs, dtype=np.bool_)
        treated[rows] = True
        fallback = groups.fallback_rows("input", treated)
        for role in ROLES:
            pools = ds.control_pools(role)
            shape = (len(present), len(pools.n))
            W = _pool_weights(groups.match[role][groups.group[rows]], codes, shape, weights)
            # Restricted to pools that some condition is matched to (columns with entries).
            used = np.flatnonzero(np.diff(W.tocsc().indptr) > 0)
            W = W[:, used]
            matched = W @ pools.mean[used]
            pool_s2 = _pool_variance(pools.var, groups.n_groups)[used] / np.maximum(pools.n[used], 1)[:, None]
            control[role] = matched.astype(np.float32)
            delta[role] = (mean - matched).astype(np.float32)
            # Variance of a weighted mean of pool means, taken as independent: squared weights times
            # variances.
            s2_control[role] = (W.power(2) @ pool_s2).astype(np.float32)
    else:
        zero = np.zeros_like(mean, dtype=np.float32)
        for role in ROLES:
            delta[role] = mean.astype(np.float32)
            s2_control[role] = zero
        stated = ds.given_control(rows)
        if stated is not None:
            given = group_moments(stated, codes, len(present), weights).mean.astype(np.float32)
            control = {"input": given, "reference": given}
    return ConditionTable(
        conditions=conditions,
        n=moments.n,
        delta=delta,
        control=control,
        s2_pert=s2,
        s2_control=s2_control,
        s2_source=s2_source,
        shared_control=np.asarray(shared, dtype=np.bool_),
        fallback_rows=fallback,
    )


def _sampling_variance(
    ds: PerturbDataset, conditions: pd.DataFrame, moments: Any
) -> tuple[FloatArray, S2Source]:
    """Return (float32 [C, G] sampling variance of the condition means, how it was estimated)."""
    shape = moments.mean.shape
    if not (moments.n > 1).any():
        return np.zeros(shape, dtype=np.float32), "unknown"
    everything = np.zeros(len(conditions), dtype=np.int64)
    var = shrink_variance(moments, everything)
    if ds.metadata.level == "cell":
        contexts = np.unique(conditions[schema.CONTEXT_ID].to_numpy().astype(str), return_inverse=True)[1]
        own = shrink_variance(moments, contexts)
        # A context whose conditions all have one cell has no pooled variance: that of all contexts is used.
        var = np.where(np.isnan(own), var, own)
    source: S2Source = "cells" if ds.metadata.level == "cell" else "replicates"
    return (var / np.maximum(moments.n, 1)[:, None]).astype(np.float32), source


def _pool_variance(var: FloatArray, n_groups: int) -> FloatArray:
    """Return float64 [pools, G]: variances of control pools.

    Pools of one cell, which have no variance, get the mean over the (context, batch) groups that have one.
    """
    known = np.isfinite(var)
    # The pools after `n_groups` are whole contexts: their cells are already in the groups.
    known[n_groups:] = False
    count = known.sum(axis=0)
    mean = np.divide(
        np.where(known, var, 0.0).sum(axis=0), count, out=np.zeros(var.shape[1]), where=count > 0
    )
    return np.asarray(np.where(np.isfinite(var), var, mean))


def _pool_weights(pool: IntArray, codes: IntArray, shape: tuple[int, int], weights: FloatArray | None) -> Any:
    """Return CSR [C, pools]: the share (by weight) of a condition's rows that is matched to each pool."""
    w = np.ones(len(pool)) if weights is None else weights
    W = sp.coo_array((w, (codes, pool)), shape=shape).tocsr()
    W.sum_duplicates()
    total = np.asarray(W.sum(axis=1)).reshape(-1)
    return sp.csr_array(sp.diags_array(1.0 / total) @ W)
