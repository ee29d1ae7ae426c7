"""Metrics of the direction of significant genes: how many signs are right, and how deep the right ones reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perturbfm_core.evaluation.differential.comparison import ALPHA
from perturbfm_core.evaluation.panels.cell_eval2.tables import MIN_GATE, TablePair, gated, share
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

PURITY = 0.9
# The smallest headroom that a corrected share of right signs is divided by.
_LEAST_HEADROOM = 0.05


def direction_match(pair: TablePair) -> FloatArray:
    """Return [P], share of right signs among the truth's significant genes, 0 where the prediction has none."""
    scored = pair.real.significant & pair.both
    inside = pair.enough
    return gated(share((scored & pair.same_sign).sum(axis=1), scored.sum(axis=1), 0.0), inside)


def model_direction_match(pair: TablePair) -> FloatArray:
    """Return [P], share of right signs among the prediction's significant genes, 0 without any."""
    scored = pair.pred.significant & pair.both
    inside = np.full(len(scored), pair.real.tested.sum() >= MIN_GATE)
    return gated(share((scored & pair.same_sign).sum(axis=1), scored.sum(axis=1), 0.0), inside)


def direction_precision(pair: TablePair) -> FloatArray:
    """Return [P], `model_direction_match` over genes that have a direction in the truth."""
    signs = Directions(pair)
    scored = pair.pred.significant & signs.adjudicable
    value = share((scored & signs.match).sum(axis=1), scored.sum(axis=1), 0.0)
    has_direction = pair.real.tested & ~np.isnan(pair.real.lfc) & (pair.real.lfc != 0)
    return gated(value, has_direction.sum(axis=1) >= MIN_GATE)


def direction_sensitivity(pair: TablePair, *, universe: bool) -> FloatArray:
    """Return [P], depth at which 97.5% of the signs still are right, over the truth's number of significant genes.

    Parameters
    ----------
    pair
        The tables.
    universe
        Whether all genes are ranked, not only those significant in the truth.
    """
    signs = Directions(pair)
    ranked = signs.in_both if universe else signs.in_both & pair.real.significant
    depth = signs.depth(ranked, np.full(len(ranked), 1.0 - ALPHA / 2.0))
    return gated(share(depth, pair.n_real), pair.enough)


@dataclass(frozen=True, eq=False)
class Directions:
    """Signs of all genes of a pair of tables.

    Attributes
    ----------
    pair
        The tables.
    """

    pair: TablePair

    @cached_property
    def in_both(self) -> BoolArray:
        """Return bool [P, G], genes of both tables."""
        return np.broadcast_to(self.pair.both, self.pair.real.p.shape)

    @cached_property
    def adjudicable(self) -> BoolArray:
        """Return bool [P, G], genes of both tables that have a direction in the truth."""
        lfc = self.pair.real.lfc
        return np.asarray(self.in_both & ~np.isnan(lfc) & (lfc != 0))

    @cached_property
    def match(self) -> BoolArray:
        """Return bool [P, G], genes whose direction the prediction has right."""
        return np.asarray(self.adjudicable & self.pair.same_sign)

    def depth(self, ranked: BoolArray, purity: FloatArray) -> IntArray:
        """Return int64 [P], the deepest number of genes of which a share of `purity` has the right sign.

        Parameters
        ----------
        ranked
            Genes to rank [P, G], by significance in the prediction.
        purity
            Least share of right signs [P].
        """
        order = self.pair.pred.order
        scored = np.take_along_axis(ranked & self.adjudicable, order, axis=1)
        right = np.take_along_axis(ranked & self.match, order, axis=1)
        k, hits = np.cumsum(scored, axis=1), np.cumsum(right, axis=1)
        pure = np.divide(hits, k, out=np.full(k.shape, -1.0), where=k > 0) >= purity[:, None]
        return np.asarray(np.where(pure, k, 0).max(axis=1, initial=0))


@dataclass(frozen=True, eq=False)
class Fidelity:
    """Right signs among significant genes without the target, and what chance would give.

    Attributes
    ----------
    pair
        The tables.
    """

    pair: TablePair

    @cached_property
    def signs(self) -> Directions:
        """Return the signs of all genes."""
        return Directions(self.pair)

    @cached_property
    def _confident(self) -> BoolArray:
        return np.asarray(self.pair.real.significant & self.pair.off_target)

    @cached_property
    def n_real(self) -> IntArray:
        """Return int64 [P], number of the truth's significant genes."""
        return np.asarray(self._confident.sum(axis=1))

    @cached_property
    def _called(self) -> BoolArray:
        return np.asarray(self.pair.pred.significant & self.pair.off_target & self.signs.adjudicable)

    @cached_property
    def n_pred(self) -> IntArray:
        """Return int64 [P], number of the prediction's significant genes that have a direction in the truth."""
        return np.asarray(self._called.sum(axis=1))

    @cached_property
    def right(self) -> IntArray:
        """Return int64 [P], how many of those have the right sign."""
        return np.asarray((self._called & self.signs.match).sum(axis=1))

    @cached_property
    def chance(self) -> FloatArray:
        """Return float64 [P], share of the more frequent sign among the truth's significant genes."""
        lfc = self.pair.real.lfc
        up = (self._confident & (lfc > 0)).sum(axis=1)
        down = (self._confident & (lfc < 0)).sum(axis=1)
        return share(np.maximum(up, down), up + down)

    @property
    def headroom(self) -> FloatArray:
        """Return float64 [P], what is above chance, at least 0.05."""
        return np.asarray(np.maximum(1.0 - self.chance, _LEAST_HEADROOM))

    @property
    def raw(self) -> FloatArray:
        """Return [P], share of right signs among the prediction's significant genes."""
        return share(self.right, self.n_pred)

    @property
    def corrected(self) -> FloatArray:
        """Return [P], `raw` above chance; 1 or 0 where the truth has none, as the prediction has none or some."""
        return np.where(self.n_real == 0, self._of_nothing, (self.raw - self.chance) / self.headroom)

    @property
    def _of_nothing(self) -> FloatArray:
        return np.where(self.n_pred == 0, 1.0, 0.0)

    @property
    def coverage(self) -> FloatArray:
        """Return [P], number of the prediction's significant genes over the truth's."""
        return share(self.n_pred, self.n_real)

    @property
    def yield_raw(self) -> FloatArray:
        """Return [P], right signs over the number of the truth's significant genes."""
        return share(self.right, self.n_real)

    @property
    def yield_corrected(self) -> FloatArray:
        """Return [P], `yield_raw` above chance."""
        above = self.right - self.chance * self.n_pred
        below = self.n_real * self.headroom
        defined = (self.n_real > 0) & ~np.isnan(self.chance)
        return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=defined))

    @property
    def fidelity_yield(self) -> FloatArray:
        """Return [P], `corrected` times the coverage, at most 1 of it; 0 where the prediction has none."""
        some = np.where(self.n_pred == 0, 0.0, np.minimum(1.0, self.coverage) * self.corrected)
        some = np.where(np.isnan(self.chance), np.nan, some)
        return np.where(self.n_real == 0, self._of_nothing, some)

    @property
    def fidelity_yield_raw(self) -> FloatArray:
        """Return [P], right signs over the larger number of significant genes, NaN where both are 0."""
        return share(self.right, np.maximum(self.n_pred, self.n_real))

    def reach(self, *, universe: bool, corrected: bool) -> FloatArray:
        """Return [P], depth to which signs are right, over the number of the truth's significant genes.

        Parameters
        ----------
        universe
            Whether all genes are ranked, not only those significant in the truth.
        corrected
            Whether the share of right signs must be above chance, not above 0.9.
        """
        ranked = self.signs.in_both & self.pair.off_target
        if not universe:
            ranked = ranked & self.pair.real.significant
        chance = self.chance
        least = chance + (1.0 - ALPHA) * (1.0 - chance) if corrected else np.full(len(chance), PURITY)
        depth = self.signs.depth(ranked, np.nan_to_num(least, nan=2.0))
        value = share(depth, self.n_real)
        return np.where(np.isnan(chance), np.nan, value) if corrected else value
