"""What the data allow: split-half ceilings, null floors, and what trivial predictors score.

The ceiling compares each test condition with itself, from disjoint cells *and* disjoint controls: no
predictor can be expected to score above what this leaves for one without noise. The null floor is what the train mean scores
when every condition is resampled from controls, so that there is nothing to predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset, control_pool_moments
from perturbfm_core.data.matrix import take_rows
from perturbfm_core.data.pseudobulk import group_sums
from perturbfm_core.evaluation.comparison import Comparison, Truth, observed
from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray
from perturbfm_core.splits.split import FrozenSplit

HALVINGS = 20
NO_SIGNAL = 0.1
PANEL = "delta"
_CORRELATIONS = ("pearson", "cosine")


def bounds_of(
    ds: PerturbDataset,
    split: FrozenSplit,
    *,
    halvings: int = HALVINGS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Return (ceiling, floor, no_signal) of a split for the metrics of panel `delta`.

    Returns
    -------
    ceiling
        {metric: {"half": value}}, for correlations also ``spearman_brown`` (a duplicate of the same size)
        and ``noise_free`` (its square root); {"reason": ...} where there are no cells.
    floor
        {"control_mean": {metric: value}, "train_mean": ..., "null": ...}.
    no_signal
        Whether the ceiling of `pearson` is at most 0.1; None where it cannot be known.
    """
    truth = observed(ds, split)
    floor: dict[str, Any] = {
        "control_mean": _score(truth, np.zeros_like(truth.truth), ds.genes),
        "train_mean": _score(truth, np.broadcast_to(truth.train_mean, truth.truth.shape), ds.genes),
    }
    if not ds.has_controls or ds.metadata.level != "cell":
        reason = "the data set has no single cells with controls"
        return {"reason": reason}, {**floor, "null": {"reason": reason}}, None
    rng = np.random.default_rng([seed, 17])
    halves, nulls = [], []
    nuller = _Null(ds, split, truth)
    for i in range(halvings):
        halves.append(_score_halves(ds, truth, rng))
        nulls.append(nuller.draw(rng))
        progress(i + 1, halvings)
    ceiling: dict[str, Any] = {}
    half = _mean_of(halves)
    for name, value in half.items():
        item: dict[str, float | None] = {"half": value}
        if name.startswith(_CORRELATIONS) and value is not None:
            full = 2 * value / (1 + value) if value > 0 else 0.0
            item |= {"spearman_brown": full, "noise_free": float(np.sqrt(full))}
        ceiling[name] = item
    reached = half.get("pearson")
    return (
        ceiling,
        {**floor, "null": _mean_of(nulls)},
        None if reached is None else bool(reached <= NO_SIGNAL),
    )


def _mean_of(draws: list[dict[str, float | None]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in draws[0]:
        values = [v for d in draws if (v := d[name]) is not None]
        out[name] = float(np.mean(values)) if values else None
    return out


def _comparison(truth: Truth, mean: FloatArray, genes: StrArray) -> Comparison:
    return Comparison(
        conditions=truth.conditions,
        genes=genes,
        truth=truth.truth,
        mean=np.asarray(mean, dtype=np.float64),
        var=np.ones_like(truth.truth),
        train_mean=truth.train_mean,
        control=truth.control,
        n=truth.n,
        shared_control=truth.shared_control,
        s2=truth.s2,
        var_filled=True,
    )


def _score(truth: Truth, mean: FloatArray, genes: StrArray) -> dict[str, float | None]:
    """Return {metric: mean over the conditions where it is defined} of panel `delta`."""
    comparison = _comparison(truth, mean, genes)
    out: dict[str, float | None] = {}
    for result in evaluate(comparison, [PANEL]).results:
        good = np.isfinite(result.values)
        out[result.metric.name] = float(result.values[good].mean()) if good.any() else None
    return out


def _score_halves(ds: PerturbDataset, truth: Truth, rng: np.random.Generator) -> dict[str, float | None]:
    """Return what one random half of each condition scores as a predictor of the other half."""
    C = len(truth.conditions)
    half = _alternate(truth.codes, rng)
    codes = truth.codes * 2 + half
    size = np.bincount(codes, minlength=2 * C)
    controls = np.flatnonzero(ds.is_control)
    context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()[controls]
    paired = dict(zip(ds.contexts, np.bincount(context, minlength=len(ds.contexts)) > 1, strict=True))
    # Half a condition needs a cell and a control of its own.
    keep = (size.reshape(C, 2) > 0).all(axis=1) & truth.conditions[schema.CONTEXT_ID].map(paired).to_numpy()
    if not keep.any():
        return {metric.name: None for metric in PANELS.get(PANEL).metrics}
    X = take_rows(ds.expression, truth.rows)
    means = (group_sums(X, codes, 2 * C) / np.maximum(size, 1)[:, None]).reshape(C, 2, -1)
    side = _alternate(context, rng)
    deltas = []
    for s in (0, 1):
        chosen = np.zeros(ds.n_obs, dtype=np.bool_)
        chosen[controls[side == s]] = True
        deltas.append(means[:, s] - _matched(ds, truth, codes, s, chosen))
    kept = Truth(
        conditions=truth.conditions[keep],
        rows=truth.rows,
        codes=truth.codes,
        truth=deltas[1][keep],
        control=None,
        train_mean=truth.train_mean,
        n=truth.n[keep],
        shared_control=truth.shared_control[keep],
        s2=truth.s2[keep],
    )
    return _score(kept, deltas[0][keep], ds.genes)


def _alternate(groups: IntArray, rng: np.random.Generator) -> IntArray:
    """Return int64 [n] of 0 and 1: a random half of every group (the odd one out at random)."""
    order = np.lexsort((rng.random(len(groups)), groups))
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    position = np.arange(len(groups)) - starts[groups[order]]
    flip = rng.integers(0, 2, size=len(sizes))
    out = np.empty(len(groups), dtype=np.int64)
    out[order] = (position + flip[groups[order]]) % 2
    return out


def _matched(ds: PerturbDataset, truth: Truth, codes: IntArray, side: int, chosen: BoolArray) -> FloatArray:
    """Return [C, G]: the mean of the chosen controls that match one half of each condition's rows."""
    pools = control_pool_moments(ds, chosen)
    groups = ds.controls
    own = pools.n[: groups.n_groups] > 0
    match = np.where(own, np.arange(groups.n_groups), groups.n_groups + groups.context_of_group)
    rows = codes % 2 == side
    pool = match[groups.group[truth.rows[rows]]]
    owner = truth.codes[rows]
    W = sp.coo_array((np.ones(len(pool)), (owner, pool)), shape=(len(truth.conditions), len(pools.n))).tocsr()
    total = np.asarray(W.sum(axis=1)).reshape(-1, 1)
    used = np.flatnonzero(pools.n > 0)
    out: FloatArray = (W[:, used] @ pools.mean[used]) / np.maximum(total, 1)
    return out


class _Null:
    """Redraws a split's deltas with all conditions taken from controls of their context.

    The controls stand for their population: the cells that serve as controls and those that pose as perturbed
    are drawn from them independently, as in an experiment where nothing works.
    """

    def __init__(self, ds: PerturbDataset, split: FrozenSplit, truth: Truth) -> None:
        self.truth, self.genes = truth, ds.genes
        context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()
        self.test_context = np.asarray(
            [ds.contexts.index(c) for c in truth.conditions[schema.CONTEXT_ID].astype(str)], dtype=np.int64
        )
        fit = split.rows(ds, *split.fit_folds)
        codes = ds.condition_codes[fit]
        present, inverse = np.unique(codes, return_inverse=True)
        self.train_n = np.bincount(inverse)
        self.train_context = np.asarray(
            [ds.contexts.index(c) for c in ds.conditions[schema.CONTEXT_ID].astype(str).to_numpy()[present]]
        )
        self.pools = {}
        for c in np.unique(np.concatenate([self.test_context, self.train_context])):
            rows = np.flatnonzero(ds.is_control & (context == c))
            self.pools[int(c)] = take_rows(ds.expression, rows)
        self.roles = {c: (ds.controls.shared[c], X.shape[0]) for c, X in self.pools.items()}

    def draw(self, rng: np.random.Generator) -> dict[str, float | None]:
        """Return what the train mean scores in one resampled experiment."""
        G = self.truth.truth.shape[1]
        truth = np.zeros((len(self.test_context), G))
        train_sum = np.zeros(G)
        for c, X in self.pools.items():
            shared, n = self.roles[c]
            role_size = n if shared else max(1, n // 2)
            seen = _bootstrap_mean(X, role_size, rng)
            reference = seen if shared else _bootstrap_mean(X, role_size, rng)
            for i in np.flatnonzero(self.test_context == c):
                truth[i] = _bootstrap_mean(X, int(self.truth.n[i]), rng) - reference
            mine = self.train_n[self.train_context == c]
            if len(mine):
                weights = np.zeros(n)
                for size in mine:
                    weights += np.bincount(rng.integers(0, n, size=size), minlength=n) / size
                train_sum += X.T @ weights - len(mine) * seen
        mean = train_sum / max(len(self.train_n), 1)
        null = replace(self.truth, truth=truth, train_mean=mean)
        return _score(null, np.broadcast_to(mean, truth.shape), self.genes)


def _bootstrap_mean(X: Any, size: int, rng: np.random.Generator) -> FloatArray:
    weights = np.bincount(rng.integers(0, X.shape[0], size=size), minlength=X.shape[0]) / size
    return np.asarray(X.T @ weights)
