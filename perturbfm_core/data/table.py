"""Condition table: pseudobulk expression changes, one row per condition, for training and scoring."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.controls import ROLES, Role
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import is_stored, take_rows
from perturbfm_core.data.pseudobulk import GroupMoments, group_moments, group_weights, shrink_variance
from perturbfm_core.data.table_sums import MOST_SUMS, TableSums, moments_of_table, n_sums, table_sums
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

S2Source = Literal["cells", "replicates", "unknown"]

# Every entry on a split asks for the same tables: the last few small ones of a data set are kept, of at most so many numbers.
_TABLES_KEPT, _MOST_KEPT = 8, 500_000
_KEPT: WeakKeyDictionary[PerturbDataset, OrderedDict[bytes, ConditionTable]] = WeakKeyDictionary()


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

    Its sums are exact before they are rounded, so it does not depend on the order of the rows.

    Parameters
    ----------
    ds
        The data set.
    rows
        int [n], row positions to use (default: all perturbed rows); control rows among them are ignored.
    """
    kept = _KEPT.setdefault(ds, OrderedDict())
    key = b"" if rows is None else hashlib.blake2b(np.asarray(rows, dtype=np.int64).tobytes()).digest()
    if key in kept:
        kept.move_to_end(key)
    else:
        table = _computed(ds, used_rows(ds, rows))
        if table.s2_pert.size > _MOST_KEPT:
            return table
        kept[key] = table
        if len(kept) > _TABLES_KEPT:
            kept.popitem(last=False)
    # A copy: who asks may change it.
    return kept[key].select(np.arange(len(kept[key])))


def _computed(ds: PerturbDataset, used: UsedRows) -> ConditionTable:
    codes, n = used.codes, len(used.conditions)
    if ds.has_controls or ds.values.delta is not None:
        source = ds.streamed_expression if ds.has_controls else ds.values.delta
        if used.once:
            codes = np.full(ds.n_obs, -1, dtype=np.int64)
            codes[used.rows] = used.codes
        else:
            source = take_rows(source, used.rows)
    else:
        source = ds.delta(used.rows)
    pools: Mapping[Role, GroupMoments] = {}
    if is_stored(source) and used.once and not ds.knows_pools and n_sums(ds, n) * ds.n_genes <= MOST_SUMS:
        # Conditions and controls from one pass over the file.
        moments, pools = moments_of_table(ds, codes, TableSums(*table_sums(ds, codes, n), n))
        ds.keep_pools(pools)
    else:
        weights = used.weights if len(codes) == len(used.rows) else _all_weights(ds)
        moments = group_moments(source, codes, n, weights)
        pools = {role: ds.control_pools(role) for role in ROLES} if ds.has_controls else {}
    stated = None if ds.has_controls else ds.given_control(used.rows)
    given = None if stated is None else group_moments(stated, used.codes, n, used.weights).mean
    return table_of(ds, used, moments, pools, given)


@dataclass(frozen=True, eq=False)
class UsedRows:
    """Perturbed rows that a table is made of.

    Attributes
    ----------
    rows
        int64 [n], their positions.
    codes
        int64 [n], position of each row's condition in `conditions`.
    conditions
        Table [C] of the conditions that they are of.
    weights
        float64 [n], weight of each row, None without weights.
    once
        Whether no row occurs twice.
    """

    rows: IntArray
    codes: IntArray
    conditions: pd.DataFrame
    weights: FloatArray | None
    once: bool


def used_rows(ds: PerturbDataset, rows: IntArray | None = None) -> UsedRows:
    """Return the perturbed rows among `rows` (default: all), with their conditions."""
    codes = ds.condition_codes
    rows = np.flatnonzero(codes >= 0) if rows is None else np.asarray(rows, dtype=np.int64)
    rows = rows[codes[rows] >= 0]
    present, mine = np.unique(codes[rows], return_inverse=True)
    weights = _all_weights(ds)
    once = len(rows) <= ds.n_obs and bool((np.bincount(rows, minlength=1) <= 1).all())
    return UsedRows(rows, mine, ds.conditions.iloc[present], None if weights is None else weights[rows], once)


def _all_weights(ds: PerturbDataset) -> FloatArray | None:
    return ds.obs[schema.WEIGHT].to_numpy() if schema.WEIGHT in ds.obs else None


def table_of(
    ds: PerturbDataset,
    used: UsedRows,
    moments: GroupMoments,
    pools: Mapping[Role, GroupMoments],
    given: FloatArray | None = None,
) -> ConditionTable:
    """Return the condition table of known moments.

    Parameters
    ----------
    ds
        The data set; its matrix is not read.
    used
        The rows that the moments are of.
    moments
        Moments of each condition's rows.
    pools
        {role: moments of the control pools}, empty where differences are not made against control rows.
    given
        float64 [C, G], mean control that the file states, if it does.
    """
    conditions, rows, codes = used.conditions, used.rows, used.codes
    mean = moments.mean
    s2, s2_source = _sampling_variance(ds, conditions, moments)
    delta: dict[Role, FloatArray] = {}
    control: dict[Role, FloatArray] = {}
    s2_control: dict[Role, FloatArray] = {}
    shared = np.ones(len(conditions), dtype=np.bool_)
    fallback = 0
    if pools:
        groups = ds.controls
        shared = groups.shared[
            conditions[schema.CONTEXT_ID].map({c: i for i, c in enumerate(groups.contexts)}).to_numpy()
        ]
        treated = np.zeros(ds.n_obs, dtype=np.bool_)
        treated[rows] = True
        fallback = groups.fallback_rows("input", treated)
        for role in ROLES:
            pool = pools[role]
            shape = (len(conditions), len(pool.n))
            W = _pool_weights(groups.match[role][groups.group[rows]], codes, shape, used.weights)
            # Restricted to pools that some condition is matched to (columns with entries).
            matching = np.flatnonzero(np.diff(W.tocsc().indptr) > 0)
            W = W[:, matching]
            matched = W @ pool.mean[matching]
            variance = _pool_variance(pool.var, groups.n_groups)[matching]
            control[role] = matched.astype(np.float32)
            delta[role] = (mean - matched).astype(np.float32)
            # Variance of a weighted mean of pool means, taken as independent: squared weights times
            # variances.
            pool_s2 = variance / np.maximum(pool.n[matching], 1)[:, None]
            s2_control[role] = (W.power(2) @ pool_s2).astype(np.float32)
    else:
        zero = np.zeros_like(mean, dtype=np.float32)
        for role in ROLES:
            delta[role] = mean.astype(np.float32)
            s2_control[role] = zero
        if given is not None:
            stated = given.astype(np.float32)
            control = {"input": stated, "reference": stated}
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
    pool = np.zeros(len(conditions), dtype=np.int64)
    if ds.metadata.level == "cell":
        pool = np.unique(conditions[schema.CONTEXT_ID].to_numpy().astype(str), return_inverse=True)[1]
    var = shrink_variance(moments, pool)
    unknown = np.isnan(var)
    if unknown.any():
        # A context whose conditions all have one cell has no pooled variance: that of all contexts is used.
        var[unknown] = shrink_variance(moments, np.zeros_like(pool))[unknown]
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
    pairs, pair = np.unique(codes * shape[1] + pool, return_inverse=True)
    at = np.divmod(pairs, shape[1])
    W = sp.coo_array((group_weights(pair, len(pairs), weights), at), shape=shape).tocsr()
    total = np.asarray(W.sum(axis=1)).reshape(-1)
    return sp.csr_array(sp.diags_array(1.0 / total) @ W)
