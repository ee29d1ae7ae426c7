"""Generators of counts: control cells moved to a predicted expression, for metrics that read counts.

All of them start from drawn control cells and one predicted composition, the controls' share of each gene times the
predicted fold change, scaled to a sum of 1. They differ in the noise that cells of that composition get:

``multinomial``
    Each count of a gene whose share falls is kept with probability new share / old share; as many counts as a cell
    loses are drawn from the genes whose shares rise, by the cell's rate given its counts. Every cell keeps its depth,
    and where nothing is predicted to change it keeps its counts.
``negative_binomial``
    The same loss; a gene that rises gains counts at the rate of the cell given its count, which the dispersion of the
    controls implies. So counts that are negative binomial in the controls are negative binomial in the prediction,
    with the same dispersion. A cell's depth is kept on average.
``redraw``
    All counts of a cell are drawn anew, by its own counts times the fold changes. The noise of the control cell and
    that of the draw add up.
``scaled``
    The counts of a cell times the fold changes, rounded at random; no noise but that of the control cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.control_profile import ControlProfile
from perturbfm_core.schema import CountGenerator, FloatArray, IntArray

# Raised when the counts that a generator draws change.
COUNTS_VERSION = "2"
# No cell gets more counts than this, or than its control cell has: more are refused as no cell by the challenge.
MAX_COUNTS = 10**6
# Changes of a share below this are rounding.
_ROUNDING = 1e-12
_BLOCK = 1 << 21


@dataclass(frozen=True, eq=False)
class _Draw:
    """One condition being drawn: its control cells, and old and new share of each gene."""

    counts: Any
    profile: ControlProfile
    new: FloatArray
    rng: np.random.Generator

    @property
    def old(self) -> FloatArray:
        return self.profile.share

    @cached_property
    def fold(self) -> FloatArray:
        """Return float64 [G], new share by old, 1 where there was none and where the change is rounding."""
        ratio = np.divide(self.new, self.old, out=np.ones_like(self.new), where=self.old > 0)
        return np.where(np.abs(ratio - 1.0) <= _ROUNDING, 1.0, ratio)

    @cached_property
    def depth(self) -> IntArray:
        """Return int64 [n], counts of each control cell."""
        return _sums(self.counts)

    def thinned(self) -> IntArray:
        """Return int64 [nnz], what is left of each stored count after the loss of falling genes."""
        values = self.counts.data.astype(np.int64)
        keep = self.fold[self.counts.indices]
        one = np.flatnonzero((keep < 1.0) & (values == 1))
        more = np.flatnonzero((keep < 1.0) & (values > 1))
        values[one] = self.rng.random(len(one)) < keep[one]
        values[more] = self.rng.binomial(values[more], keep[more])
        return np.asarray(values)

    @cached_property
    def rows(self) -> IntArray:
        """Return int64 [nnz], the cell of each stored count."""
        return np.repeat(np.arange(self.counts.shape[0]), np.diff(self.counts.indptr))

    def drawn_from(self, ends: FloatArray, n: IntArray) -> IntArray:
        """Return int64 [nnz], how often each stored value of a cell is drawn.

        Parameters
        ----------
        ends
            Weights of the stored values, cumulated from 0 [nnz + 1].
        n
            Number of draws of each cell [n].
        """
        starts, stops = self.counts.indptr[:-1], self.counts.indptr[1:]
        low, high = ends[starts], ends[stops]
        cells = np.repeat(np.arange(len(n)), n)
        place = low[cells] + self.rng.random(len(cells)) * (high - low)[cells]
        hit = np.searchsorted(ends, place, side="right") - 1
        hit = np.clip(hit, starts[cells], stops[cells] - 1)
        return np.bincount(hit, minlength=len(ends) - 1)

    def with_values(self, values: Any) -> Any:
        return sp.csr_array((values, self.counts.indices, self.counts.indptr), shape=self.counts.shape)


def draw_counts(
    kind: CountGenerator,
    counts: Any,
    profile: ControlProfile,
    delta: FloatArray,
    rng: np.random.Generator,
) -> Any:
    """Return CSR int32 [n, G], predicted counts of one condition, one cell for each given control cell.

    Parameters
    ----------
    kind
        Name of the generator.
    counts
        Counts of the drawn control cells, CSR [n, G].
    profile
        The control cells that they were drawn from.
    delta
        Predicted change of mean log1p expression [G].
    rng
        Random numbers.
    """
    new = profile.composition(delta)
    source = sp.csr_array(counts)
    if not new.any():
        return sp.csr_array(source.shape, dtype=np.int32)
    drawn = _capped(_GENERATORS[kind](_Draw(source, profile, new, rng)), _sums(source), rng)
    # A copy: the drawn counts share their places with the control cells.
    out = sp.csr_array(drawn.astype(np.int32, copy=True))
    out.eliminate_zeros()
    return out


def _sums(counts: Any) -> IntArray:
    ends = np.concatenate([[0], np.cumsum(counts.data, dtype=np.int64)])
    return np.asarray(ends[counts.indptr[1:]] - ends[counts.indptr[:-1]])


def _multinomial(d: _Draw) -> Any:
    kept = d.thinned()
    lost = np.bincount(d.rows, weights=d.counts.data - kept, minlength=len(d.depth)).astype(np.int64)
    rise = np.where(d.old > 0, np.where(d.fold > 1.0, d.new - d.old, 0.0), d.new)
    if not lost.any() or not rise.any():
        return d.with_values(kept) if rise.any() else d.counts
    # A cell's rate of a gene lies between its own count and what its depth leads to expect.
    own = d.profile.own_weight
    weight = d.counts.data * (np.maximum(d.fold - 1.0, 0.0) * own)[d.counts.indices]
    common = rise * np.where(d.old > 0, 1.0 - own, 1.0)
    ends = np.concatenate([[0.0], np.cumsum(weight)])
    from_own = ends[d.counts.indptr[1:]] - ends[d.counts.indptr[:-1]]
    from_common = d.depth * float(common.sum())
    both = from_own + from_common
    share = np.divide(from_own, both, out=np.zeros_like(both), where=both > 0)
    n_own = d.rng.binomial(lost, share)
    moved = d.with_values(kept + d.drawn_from(ends, n_own))
    n_common = lost - n_own
    # All of them are drawn at once and dealt out to the cells, which is a draw for each cell.
    total = int(n_common.sum())
    if total and common.any():
        genes = np.repeat(np.arange(len(rise)), d.rng.multinomial(total, common / common.sum()))
        cells = np.repeat(np.arange(len(lost)), n_common)
        dealt = np.ones(total, dtype=np.int64), (cells, d.rng.permutation(genes))
        moved = moved + sp.csr_array(dealt, shape=moved.shape)
    return moved


def _negative_binomial(d: _Draw) -> Any:
    kept = d.with_values(d.thinned())
    absent = (d.old == 0) & (d.new > 0)
    rising = np.flatnonzero((d.fold > 1.0) | absent)
    if not len(rising):
        return kept
    depth = d.depth.astype(np.float64)
    dispersion = d.profile.dispersion[rising]
    size = np.divide(1.0, dispersion, out=np.full(len(rising), np.inf), where=dispersion > 1e-8)
    parts = []
    rows = max(1, _BLOCK // len(rising))
    for start in range(0, len(depth), rows):
        block = slice(start, start + rows)
        y = d.counts[block][:, rising].toarray().astype(np.float64)
        mean = depth[block, None] * d.old[rising]
        # The rate given the count: gamma of shape (count + size) and mean that lies between count and mean.
        finite = np.isfinite(size)
        rate = mean.copy()
        shape = y[:, finite] + size[finite]
        with np.errstate(divide="ignore"):
            scale = mean[:, finite] / (mean[:, finite] + size[finite])
        rate[:, finite] = d.rng.standard_gamma(shape) * scale
        gain = rate * (d.fold[rising] - 1.0) + np.where(
            absent[rising], depth[block, None] * d.new[rising], 0.0
        )
        parts.append(sp.csr_array(d.rng.poisson(np.minimum(gain, float(MAX_COUNTS)))))
    spread = sp.csr_array(sp.vstack(parts, format="csr"))
    gained = sp.csr_array((spread.data, rising[spread.indices], spread.indptr), shape=kept.shape)
    return kept + gained


def _redraw(d: _Draw) -> Any:
    ends = np.concatenate([[0.0], np.cumsum(d.counts.data * d.fold[d.counts.indices])])
    low, high = ends[d.counts.indptr[:-1]], ends[d.counts.indptr[1:]]
    depth = d.depth
    drawn = d.with_values(d.drawn_from(ends, np.where(high > low, depth, 0)))
    # A cell with none of the genes that are left gets its counts from the whole composition.
    bare = np.flatnonzero((high <= low) & (depth > 0))
    if not len(bare):
        return drawn
    made = sp.csr_array(d.rng.multinomial(depth[bare], d.new))
    place_rows = sp.csr_array(
        (np.ones(len(bare), dtype=np.int64), (bare, np.arange(len(bare)))), shape=(len(depth), len(bare))
    )
    return drawn + place_rows @ made


def _scaled(d: _Draw) -> Any:
    values = np.minimum(d.counts.data * d.fold[d.counts.indices], float(MAX_COUNTS))
    whole = np.floor(values)
    return d.with_values((whole + (d.rng.random(len(values)) < values - whole)).astype(np.int64))


_GENERATORS: dict[CountGenerator, Callable[[_Draw], Any]] = dict(
    zip(get_args(CountGenerator), (_multinomial, _negative_binomial, _redraw, _scaled), strict=True)
)


def _capped(drawn: Any, depth: IntArray, rng: np.random.Generator) -> Any:
    """Return the counts, those of cells with too many drawn anew at the largest depth."""
    total = _sums(drawn)
    limit = np.maximum(depth, MAX_COUNTS)
    over = np.flatnonzero(total > limit)
    if not len(over):
        return drawn
    parts = []
    rows = max(1, _BLOCK // drawn.shape[1])
    for start in range(0, len(over), rows):
        which = over[start : start + rows]
        share = drawn[which].toarray() / total[which, None]
        parts.append(sp.csr_array(rng.multinomial(limit[which], share)))
    keep = np.flatnonzero(total <= limit)
    order = np.argsort(np.concatenate([keep, over]), kind="stable")
    return sp.csr_array(sp.vstack([drawn[keep], *parts], format="csr"))[order]
