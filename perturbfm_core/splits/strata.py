"""Strata of test conditions (effect size, distance to train, ...) for the breakdown of scores.

``seen``
    Number of a combination's parts that train has as single perturbations (0, 1, 2, ...); combinations only.
``cells``
    Number of rows, in terciles.
``effect``
    Effect size, in terciles: norm of the observed delta, corrected for sampling noise.
``response``
    ``null`` where the perturbed cells do not differ significantly from their controls, else ``responds``;
    single-cell data only. Perturbations without an effect should not decide the ranking of models.
``distance``
    Distance to train, in terciles: one minus the highest cosine similarity of the observed delta to any
    training delta, in the space of the leading components of the training deltas.

Terciles are ``low``, ``middle`` and ``high`` among the test conditions of the split; a quantity that does not
vary gives no stratum. Strata use the observed test deltas: they help to interpret scores and are never given
to a model.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes, pert_parts
from perturbfm_core.data.controls import REFERENCE
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import take_rows
from perturbfm_core.data.table import ConditionTable, condition_table
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.split import FrozenSplit

N_COMPONENTS = 10
MAX_CELLS = 300
MAX_ROWS = 5000
FALSE_DISCOVERY_RATE = 0.05
MIN_CONDITIONS = 3

Strata = dict[str, dict[str, str]]


def strata_of(ds: PerturbDataset, split: FrozenSplit, *, expression: bool = True) -> Strata:
    """Return {stratum: {test condition key: value}}.

    Parameters
    ----------
    ds
        The data set of the split.
    split
        The split.
    expression
        Whether to read the matrix; otherwise only ``seen`` and ``cells`` are computed.
    """
    fit_rows, test_rows = split.rows(ds, *split.fit_folds), split.rows(ds, "test")
    fit = ds.conditions.iloc[np.unique(ds.condition_codes[fit_rows])]
    present, counts = np.unique(ds.condition_codes[test_rows], return_counts=True)
    test = ds.conditions.iloc[present]
    out: Strata = {"seen": _seen(fit, test), "cells": terciles(test.index, counts.astype(np.float64))}
    if expression:
        observed = condition_table(ds, test_rows)
        out["effect"] = terciles(observed.conditions.index, effect_size(observed))
        out["response"] = _response(ds, test_rows, present)
        train = condition_table(ds, fit_rows)
        out["distance"] = terciles(observed.conditions.index, distance_to_train(train, observed))
    return {name: values for name, values in out.items() if values}


def terciles(keys: pd.Index, values: FloatArray) -> dict[str, str]:
    """Return {key: ``low``, ``middle`` or ``high``} of values [C]; empty if too few or too often equal."""
    if len(values) < MIN_CONDITIONS or float(np.ptp(values)) == 0:
        return {}
    lower, upper = np.quantile(values, [1 / 3, 2 / 3])
    names = np.where(values <= lower, "low", np.where(values <= upper, "middle", "high"))
    if len(np.unique(names)) == 1:
        return {}
    return {str(key): str(name) for key, name in zip(keys, names, strict=True)}


def _seen(fit: pd.DataFrame, test: pd.DataFrame) -> dict[str, str]:
    singles = {p for p in fit[schema.PERT_ID].astype(str) if len(pert_genes(p)) == 1}
    return {
        str(key): str(sum(part in singles for part in pert_parts(pert)))
        for key, pert in zip(test.index, test[schema.PERT_ID].astype(str), strict=True)
        if len(pert_genes(pert)) > 1
    }


def effect_size(table: ConditionTable) -> FloatArray:
    """Return float64 [C]: norm of the delta against reference controls, corrected for sampling noise."""
    # E|observed|^2 = |true|^2 + sum of the sampling variances, so the sum is subtracted from the squared
    # norm.
    delta = table.delta["reference"].astype(np.float64)
    noise = (table.s2_pert + table.s2_control["reference"]).astype(np.float64)
    out: FloatArray = np.sqrt(np.maximum((delta**2).sum(axis=1) - noise.sum(axis=1), 0.0))
    return out


def distance_to_train(train: ConditionTable, test: ConditionTable) -> FloatArray:
    """Return float64 [C]: one minus the highest cosine similarity of each test delta to a training delta.

    Both are projected on the leading singular vectors of the training deltas, which reduces sampling noise.
    """
    from sklearn.utils.extmath import randomized_svd

    # Test deltas subtract reference controls and training deltas input controls, so that noise is not shared.
    seen, asked = train.delta["input"].astype(np.float64), test.delta["reference"].astype(np.float64)
    k = min(N_COMPONENTS, *seen.shape)
    axes = randomized_svd(seen, n_components=k, random_state=0)[2]
    cosine = _unit(asked @ axes.T) @ _unit(seen @ axes.T).T
    out: FloatArray = 1.0 - cosine.max(axis=1)
    return out


def _unit(x: FloatArray) -> FloatArray:
    norm = np.sqrt((x**2).sum(axis=1, keepdims=True))
    out: FloatArray = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return out


def _response(ds: PerturbDataset, rows: IntArray, conditions: IntArray) -> dict[str, str]:
    """Return {condition: ``responds`` or ``null``} by Hotelling's test with Benjamini-Hochberg correction.

    Cells of a condition are compared with control cells of their context, on principal components of both.
    """
    if ds.metadata.level != "cell" or not ds.has_controls or ds.streamed_expression is None:
        return {}
    p_values = np.full(len(conditions), np.nan)
    context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()
    # Reference controls only, since training deltas subtract the input controls; all controls where the roles
    # share them.
    control = ds.controls.roles == REFERENCE
    control = control if control.any() else ds.is_control
    rng = np.random.default_rng(0)
    for c in np.unique(context[rows]):
        own = rows[context[rows] == c]
        against = np.flatnonzero(control & (context == c))
        if not len(against):
            against = np.flatnonzero(ds.is_control & (context == c))
        position = np.searchsorted(conditions, ds.condition_codes[own])
        kept = _thinned(position, rng)
        against = (
            against if len(against) <= MAX_CELLS else np.sort(rng.choice(against, MAX_CELLS, replace=False))
        )
        scores = _components(ds, np.concatenate([against, own[kept]]))
        base, cells, of = scores[: len(against)], scores[len(against) :], position[kept]
        for i in np.unique(of):
            p_values[i] = hotelling(cells[of == i], base)
    tested = np.flatnonzero(np.isfinite(p_values))
    if not len(tested):
        return {}
    found = benjamini_hochberg(p_values[tested], FALSE_DISCOVERY_RATE)
    keys = ds.conditions.index[conditions[tested]]
    return {str(k): "responds" if hit else "null" for k, hit in zip(keys, found, strict=True)}


def _thinned(position: IntArray, rng: np.random.Generator) -> IntArray:
    """Return positions of at most `MAX_CELLS` random rows of each condition."""
    # A stable sort by condition of randomly ordered rows; the rank is the index within the condition.
    order = rng.permutation(len(position))
    order = order[np.argsort(position[order], kind="stable")]
    counts = np.bincount(position)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[rank < MAX_CELLS])


def _components(ds: PerturbDataset, rows: IntArray) -> FloatArray:
    """Return float64 [n, k], expression of rows on the principal components of at most 5,000 of them."""
    from sklearn.utils.extmath import randomized_svd

    X = take_rows(ds.streamed_expression, rows)
    # Rounded up: every step-th row is at most `MAX_ROWS` rows.
    step = -(-len(rows) // MAX_ROWS)
    sample = X[np.arange(0, len(rows), step)]
    dense = np.asarray(sample.toarray() if hasattr(sample, "toarray") else sample, dtype=np.float32)
    dense = dense - dense.mean(axis=0, keepdims=True)
    k = min(N_COMPONENTS, *dense.shape)
    axes = randomized_svd(dense, n_components=k, random_state=0)[2]
    # Projected without centring, which keeps X sparse; a common shift does not change differences of means.
    out: FloatArray = np.asarray(X @ axes.T, dtype=np.float64)
    return out


def hotelling(a: FloatArray, b: FloatArray) -> float:
    """Return the p-value of Hotelling's test for two samples [n, k] and [m, k]; NaN with too few rows."""
    n, m, k = len(a), len(b), a.shape[1]
    dof = n + m - 2
    if n < 2 or m < 2 or dof <= k:
        return float("nan")
    centred = np.concatenate([a - a.mean(axis=0), b - b.mean(axis=0)])
    gap = a.mean(axis=0) - b.mean(axis=0)
    # T^2 with the pooled covariance; a pseudo-inverse, since components without variance make it singular.
    t2 = n * m / (n + m) * float(gap @ np.linalg.pinv(centred.T @ centred / dof) @ gap)
    # T^2 scaled by (dof - k + 1) / (dof k) has an F distribution with k and dof - k + 1 degrees of freedom.
    return float(stats.f.sf(t2 * (dof - k + 1) / (dof * k), k, dof - k + 1))


def benjamini_hochberg(p: FloatArray, rate: float) -> BoolArray:
    """Return bool [n]: the hypotheses that are rejected at the false discovery rate, given p-values [n]."""
    # All p-values up to the largest one with p_(i) <= rate * i / n are rejected.
    order = np.argsort(p)
    passed = p[order] <= rate * np.arange(1, len(p) + 1) / len(p)
    n = int(np.flatnonzero(passed).max()) + 1 if passed.any() else 0
    out = np.zeros(len(p), dtype=np.bool_)
    out[order[:n]] = True
    return out
