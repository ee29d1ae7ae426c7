"""Split-half ceilings, null floors and scores of trivial predictors of a split.

The ceiling compares each test condition with itself, from disjoint cells *and* disjoint controls; corrected for
the noise of the halves, it is the score that a perfect predictor can be expected to reach. The null floor is the
score of the train mean when every condition is resampled from controls, so that there is nothing to predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.control_pools import control_pool_moments
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.kept_rows import KeptRows, expression_of, kept_rows
from perturbfm_core.data.matrix import row_blocks, take_rows
from perturbfm_core.data.pseudobulk import group_sums
from perturbfm_core.evaluation.comparison import Comparison, ObservedSide, observed
from perturbfm_core.evaluation.condition_bounds import (
    CONTROL,
    HALF,
    NULL,
    TRAIN,
    ConditionBounds,
    mean_of_draws,
)
from perturbfm_core.evaluation.given_halves import given_halves
from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.evaluation.reliability import reliability
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray
from perturbfm_core.splits.split import FrozenSplit

# As many, unless the mean over conditions is as exact with fewer.
HALVINGS, FEWEST, CONDITIONS = 20, 5, 10_000
NO_SIGNAL = 0.1
PANEL = "delta"
_CORRELATIONS = ("pearson", "cosine")
_BLOCK = 256
# {metric: its values by test condition [C]}.
_Scores = dict[str, FloatArray]


def bounds_of(
    ds: PerturbDataset,
    split: FrozenSplit,
    *,
    halvings: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    keep: Callable[[ConditionBounds], None] = lambda _values: None,
) -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Return (ceiling, floor, no_signal) of a split for the metrics of panel `delta`.

    Parameters
    ----------
    ds
        The data set that the split belongs to.
    split
        The split; its test conditions are scored.
    halvings
        Number of random halvings, and of resampled null experiments, that are averaged: by default 20, of more than 500
        test conditions fewer, so that 10,000 halved conditions are averaged, but no fewer than 5.
    seed
        Seed of both.
    progress
        Called after every halving with (halvings done, halvings in all).
    keep
        Called with the values by condition behind all of these.

    Returns
    -------
    ceiling
        {metric: {"half": value}}, for correlations also ``spearman_brown`` (a duplicate of the same size)
        and ``noise_free`` (its square root); {"reason": ...} where there are neither cells nor halves that came
        with the data.
    floor
        {"control_mean": {metric: value}, "train_mean": ..., "null": ...}.
    no_signal
        Whether the ceiling of `pearson` is at most 0.1; None where it cannot be known.
    """
    observed_side = observed(ds, split)
    if halvings is None:
        halvings = int(np.clip(CONDITIONS // max(len(observed_side.conditions), 1), FEWEST, HALVINGS))
    center = np.broadcast_to(observed_side.train_mean, observed_side.observed.shape)
    trivial = {CONTROL: np.zeros_like(observed_side.observed), TRAIN: center}
    by_condition = {kind: _score(observed_side, guess, ds.genes) for kind, guess in trivial.items()}
    floor: dict[str, Any] = {kind: _means(scores) for kind, scores in by_condition.items()}
    halves, nulls = [], []
    if ds.has_controls and ds.metadata.level == "cell":
        rng = np.random.default_rng([seed, 17])
        nuller = _Null(ds, split, observed_side)
        for i in range(halvings):
            halves.append(_score_halves(ds, observed_side, rng))
            nulls.append(nuller.draw(rng))
            progress(i + 1, halvings)
        floor[NULL] = _mean_of([_means(scores) for scores in nulls])
        by_condition[NULL] = _each_of(nulls)
    else:
        reason = "the data set has no single cells with controls"
        floor[NULL] = {"reason": reason}
        given = given_halves(ds, observed_side)
        if given is not None:
            halves = [
                _score(replace(observed_side, observed=seen, control=None), guess, ds.genes)
                for guess, seen in (given, given[::-1])
            ]
    if halves:
        by_condition[HALF] = _each_of(halves)
    values = {(kind, name): v for kind, scores in by_condition.items() for name, v in scores.items()}
    keep(ConditionBounds(tuple(map(str, observed_side.conditions.index)), values))
    if not halves:
        return {"reason": floor[NULL]["reason"]}, floor, None
    return _with_reliability(_mean_of([_means(scores) for scores in halves]), floor)


def _with_reliability(
    half: dict[str, float | None], floor: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Return what `bounds_of` does, of the scores of one half as the prediction of the other, and the floors."""
    ceiling: dict[str, Any] = {}
    for name, value in half.items():
        item: dict[str, float | None] = {"half": value}
        if name.startswith(_CORRELATIONS) and value is not None:
            item |= reliability(value)
        ceiling[name] = item
    reached = half.get("pearson")
    return ceiling, floor, None if reached is None else bool(reached <= NO_SIGNAL)


def _means(scores: _Scores) -> dict[str, float | None]:
    """Return {metric: mean over the conditions where it is defined}."""
    out: dict[str, float | None] = {}
    for name, values in scores.items():
        good = np.isfinite(values)
        out[name] = float(values[good].mean()) if good.any() else None
    return out


def _each_of(draws: list[_Scores]) -> _Scores:
    """Return {metric: mean over draws of each condition}."""
    return {name: mean_of_draws([d[name] for d in draws]) for name in draws[0]}


def _mean_of(draws: list[dict[str, float | None]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in draws[0]:
        values = [v for d in draws if (v := d[name]) is not None]
        out[name] = float(np.mean(values)) if values else None
    return out


def _comparison(observed_side: ObservedSide, mean: FloatArray, genes: StrArray) -> Comparison:
    return Comparison(
        conditions=observed_side.conditions,
        genes=genes,
        observed=observed_side.observed,
        predicted=np.asarray(mean, dtype=np.float64),
        predicted_var=np.ones_like(observed_side.observed),
        train_mean=observed_side.train_mean,
        control=observed_side.control,
        n=observed_side.n,
        shared_control=observed_side.shared_control,
        s2=observed_side.s2,
        var_filled=True,
    )


def _score(observed_side: ObservedSide, mean: FloatArray, genes: StrArray) -> _Scores:
    """Return {metric: its values by condition} of panel `delta`."""
    comparison = _comparison(observed_side, mean, genes)
    return {result.metric.name: result.values for result in evaluate(comparison, [PANEL]).results}


def _score_halves(ds: PerturbDataset, observed_side: ObservedSide, rng: np.random.Generator) -> _Scores:
    """Return the scores of one random half of each condition as the prediction of the other half."""
    halves = halved(ds, observed_side, rng)
    out = {m.name: np.full(len(observed_side.conditions), np.nan) for m in PANELS.get(PANEL).metrics}
    if halves is None:
        return out
    keep = halves.keep
    kept = ObservedSide(
        conditions=observed_side.conditions[keep],
        rows=observed_side.rows,
        codes=observed_side.codes,
        observed=halves.delta[1][keep],
        control=None,
        train_mean=observed_side.train_mean,
        n=observed_side.n[keep],
        shared_control=observed_side.shared_control[keep],
        s2=observed_side.s2[keep],
    )
    for name, values in _score(kept, halves.delta[0][keep], ds.genes).items():
        out[name][keep] = values
    return out


@dataclass(frozen=True, eq=False)
class Halved:
    """Test conditions cut at random into two halves, of their cells and of their controls.

    Attributes
    ----------
    keep
        bool [C], conditions with at least one cell and one control in each half.
    half
        int64 [N], 0 or 1 for each test row.
    delta
        Of each half float64 [C, G], its mean minus that of the controls of the same half.
    control
        float64 [C, G], mean of the controls of the second half.
    """

    keep: BoolArray
    half: IntArray
    delta: tuple[FloatArray, FloatArray]
    control: FloatArray


def halved(ds: PerturbDataset, observed_side: ObservedSide, rng: np.random.Generator) -> Halved | None:
    """Return the test conditions of a split cut into random halves, None where none can be cut.

    Parameters
    ----------
    ds
        The data set.
    observed_side
        The observed side of the split.
    rng
        Draws the halves.
    """
    C = len(observed_side.conditions)
    half = _alternate(observed_side.codes, rng)
    codes = observed_side.codes * 2 + half
    size = np.bincount(codes, minlength=2 * C)
    controls = np.flatnonzero(ds.is_control)
    context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()[controls]
    paired = dict(zip(ds.contexts, np.bincount(context, minlength=len(ds.contexts)) > 1, strict=True))
    # Each half needs at least one cell and one control of its own.
    keep = (size.reshape(C, 2) > 0).all(axis=1) & observed_side.conditions[schema.CONTEXT_ID].map(
        paired
    ).to_numpy()
    if not keep.any():
        return None
    asked = np.isin(context, ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()[observed_side.rows])
    # Read once for all halvings: test rows, and the controls that they are compared with.
    kept = kept_rows(ds, np.concatenate([observed_side.rows, controls[asked]]))
    X = expression_of(ds, observed_side.rows)
    means = (group_sums(X, codes, 2 * C) / np.maximum(size, 1)[:, None]).reshape(C, 2, -1)
    side = _alternate(context, rng)
    matched = []
    for s in (0, 1):
        chosen = np.zeros(ds.n_obs, dtype=np.bool_)
        chosen[controls[asked & (side == s)]] = True
        matched.append(_matched(ds, observed_side, codes, s, chosen, kept))
    delta = (means[:, 0] - matched[0], means[:, 1] - matched[1])
    return Halved(np.asarray(keep, dtype=np.bool_), half, delta, matched[1])


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


def _matched(
    ds: PerturbDataset,
    observed_side: ObservedSide,
    codes: IntArray,
    side: int,
    chosen: BoolArray,
    kept: KeptRows | None,
) -> FloatArray:
    """Return [C, G]: the mean of the chosen controls that match one half of each condition's rows."""
    pools = control_pool_moments(ds, chosen, kept)
    groups = ds.controls
    # Controls of the row's own group where any were chosen, else those of its context.
    own = pools.n[: groups.n_groups] > 0
    match = np.where(own, np.arange(groups.n_groups), groups.n_groups + groups.context_of_group)
    rows = codes % 2 == side
    pool = match[groups.group[observed_side.rows[rows]]]
    owner = observed_side.codes[rows]
    W = sp.coo_array(
        (np.ones(len(pool)), (owner, pool)), shape=(len(observed_side.conditions), len(pools.n))
    ).tocsr()
    total = np.asarray(W.sum(axis=1)).reshape(-1, 1)
    used = np.flatnonzero(pools.n > 0)
    out: FloatArray = (W[:, used] @ pools.mean[used]) / np.maximum(total, 1)
    return out


class _Null:
    """Resampling of a split's deltas under the null hypothesis that no perturbation has an effect.

    The controls of a context are taken as the population: control cells and "perturbed" cells are both drawn from
    them with replacement, independently.
    """

    def __init__(self, ds: PerturbDataset, split: FrozenSplit, observed_side: ObservedSide) -> None:
        self.observed_side, self.genes = observed_side, ds.genes
        context = ds.obs[schema.CONTEXT_ID].cat.codes.to_numpy()
        self.test_context = np.asarray(
            [ds.contexts.index(c) for c in observed_side.conditions[schema.CONTEXT_ID].astype(str)],
            dtype=np.int64,
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
            self.pools[int(c)] = take_rows(ds.streamed_expression, rows)
        self.roles = {c: (ds.controls.shared[c], X.shape[0]) for c, X in self.pools.items()}

    def draw(self, rng: np.random.Generator) -> _Scores:
        """Return the scores of the train mean in one resampled experiment."""
        G = self.observed_side.observed.shape[1]
        observed_delta = np.zeros((len(self.test_context), G))
        train_sum = np.zeros(G)
        for c, X in self.pools.items():
            shared, n = self.roles[c]
            # Shared controls are subtracted from both train and test; otherwise each of them has half of the controls.
            role_size = n if shared else max(1, n // 2)
            seen = _bootstrap_mean(X, role_size, rng)
            reference = seen if shared else _bootstrap_mean(X, role_size, rng)
            mine = np.flatnonzero(self.test_context == c)
            drawn = _resampled(n, self.observed_side.n[mine], rng)
            for block in row_blocks(len(mine), _BLOCK):
                observed_delta[mine[block]] = _dense(drawn[block] @ X) - reference
            sizes = self.train_n[self.train_context == c]
            if len(sizes):
                weights = np.asarray(_resampled(n, sizes, rng).sum(axis=0)).ravel()
                train_sum += X.T @ weights - len(sizes) * seen
        mean = train_sum / max(len(self.train_n), 1)
        null = replace(self.observed_side, observed=observed_delta, train_mean=mean)
        return _score(null, np.broadcast_to(mean, observed_delta.shape), self.genes)


def _bootstrap_mean(X: Any, size: int, rng: np.random.Generator) -> FloatArray:
    weights = np.bincount(rng.integers(0, X.shape[0], size=size), minlength=X.shape[0]) / size
    return np.asarray(X.T @ weights)


def _resampled(n: int, sizes: IntArray, rng: np.random.Generator) -> Any:
    """Return CSR [K, n], the weight of each of n cells in K means of ``sizes`` [K] cells drawn with replacement."""
    drawn = rng.integers(0, n, size=int(sizes.sum()))
    means = sp.csr_array(
        (np.repeat(1.0 / sizes, sizes), drawn, np.concatenate([[0], np.cumsum(sizes)])), shape=(len(sizes), n)
    )
    means.sum_duplicates()
    return means


def _dense(values: Any) -> FloatArray:
    return np.asarray(values.toarray() if sp.issparse(values) else values)
