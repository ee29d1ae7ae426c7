"""Statistics of the true and predicted cells of each condition, computed in one pass over the cells.

The true side (DEGs, spread and distances among its cells) depends on the data alone and is kept for all predictions;
the cells themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from perturbfm_core.evaluation.cells import Cells
from perturbfm_core.evaluation.panels.scperturbench import cellwise, degs
from perturbfm_core.evaluation.panels.scperturbench.pipeline import subsample_rows
from perturbfm_core.evaluation.panels.scperturbench.sinkhorn import regularised_cost
from perturbfm_core.evaluation.single_distances import mean_between, mean_within, squared_norms
from perturbfm_core.schema import FloatArray, IntArray, StrArray

# scPerturBench computes the transport cost on subsets of up to 100 genes only.
TRANSPORT_TOPS = tuple(top for top in degs.TOPS if top <= 100)
_CONTROL_BLOCK = 4096
# Distances are in double precision up to this many multiplications, in single precision above.
_DOUBLE_WORK = 2e8


@dataclass(frozen=True, eq=False)
class TrueSide:
    """Statistics of the true cells of one condition.

    Attributes
    ----------
    mean
        float64 [G], mean of all cells.
    order
        int32 [<= G], the first DEGs with a score other than 0, at most as many as the largest subset needs; None with
        too few cells to test.
    scores
        float32 [G], scores of the test; None with too few cells.
    rows
        Rows of the subsample.
    spread
        Mean and standard deviation of each gene in the subsample.
    within
        {number of genes: mean distance among the cells of the subsample}, as far as it was needed.
    """

    mean: FloatArray
    order: IntArray | None
    scores: FloatArray | None
    rows: IntArray
    spread: cellwise.Spread
    within: dict[int, float]

    def columns(self, top: int, genes: int) -> IntArray | slice | None:
        """Return the columns of the first `top` DEGs, all if there are no more genes, None without any DEG."""
        if top >= genes:
            return slice(None)
        return None if self.order is None or not len(self.order) else self.order[:top]

    def places(self, top: int, genes: int) -> int:
        """Return how many DEGs the first `top` are: fewer, where fewer genes have a score other than 0."""
        return top if top >= genes or self.order is None else min(top, len(self.order))


@dataclass(frozen=True, eq=False)
class Pair:
    """Comparison of one condition's true and predicted cells.

    Attributes
    ----------
    true
        The true side.
    mean
        float64 [G], mean of all predicted cells.
    scores
        Scores of the predicted side's test, as in `TrueSide`.
    sym_kldiv, edistance, wasserstein
        {number of genes: value}, NaN where undefined.
    """

    true: TrueSide
    mean: FloatArray
    scores: FloatArray | None
    sym_kldiv: dict[int, float]
    edistance: dict[int, float]
    wasserstein: dict[int, float]


class TrueSides:
    """True sides of a comparison's conditions and moments of its controls, computed when first needed.

    Parameters
    ----------
    genes
        Gene names [G], by which equal scores are ordered.
    """

    def __init__(self, genes: StrArray) -> None:
        self.genes = genes
        self._controls: dict[str, degs.Moments] = {}
        self._sides: dict[int, TrueSide] = {}

    def control(self, cells: Cells, context: str) -> degs.Moments:
        """Return the moments of all control cells of a context."""
        if context not in self._controls:
            rows = cells.control_rows[context]

            def blocks() -> Iterator[FloatArray]:
                for start in range(0, len(rows), _CONTROL_BLOCK):
                    yield cells.dense(rows[start : start + _CONTROL_BLOCK])

            self._controls[context] = degs.blocked_moments(len(rows), cells.delta.shape[1], blocks)
        return self._controls[context]

    def side(self, i: int, S: FloatArray, control: degs.Moments) -> TrueSide:
        """Return the true side of a condition.

        Parameters
        ----------
        i
            Position of the condition.
        S
            Its true cells [n, G], log1p units.
        control
            Moments of the control cells of its context.
        """
        if i not in self._sides:
            moments = degs.moments(S)
            # A condition has as many predicted as true cells, and the predicted ones are drawn first.
            rows = subsample_rows(len(S), len(S))[1]
            scores = _scores(moments, control)
            order = None if scores is None else self._order(scores)
            spread = cellwise.spread(_take(S, rows))
            self._sides[i] = TrueSide(moments.mean, order, scores, rows, spread, {})
        return self._sides[i]

    def _order(self, scores: FloatArray) -> IntArray:
        largest = max([top for top in degs.TOPS if top < len(scores)], default=0)
        return degs.changed_order(scores, self.genes, largest).astype(np.int32)


def pair(cells: Cells, i: int, sides: TrueSides) -> Pair:
    """Return the comparison of one condition; its cells are made dense, and each distance matrix computed, once.

    Parameters
    ----------
    cells
        Cells of all conditions.
    i
        Position of the condition.
    sides
        True sides, kept for all predictions.
    """
    control = sides.control(cells, cells.contexts[i])
    S, P = cells.truth(i), cells.predicted(i)
    true = sides.side(i, S, control)
    moments = degs.moments(P)
    scores = _scores(moments, control)
    S, P = _take(S, true.rows), _take(P, subsample_rows(len(P))[0])
    spread = cellwise.spread(P)
    out = Pair(true, moments.mean, scores, {}, {}, {})
    largest = min(max(TRANSPORT_TOPS), S.shape[1])
    for (k, s), (_, p) in zip(_subsets(true, S), _subsets(true, P), strict=True):
        s2, p2 = squared_norms(s), squared_norms(p)
        if s.dtype == np.float32:
            between = mean_between(s, s2, p, p2)
        else:
            squared = cellwise.squared_distances(s, p, s2, p2)
            if k <= largest:
                out.wasserstein[k] = regularised_cost(squared).cost
            between = cellwise.mean_distance(squared)
        if k not in true.within:
            true.within[k] = _within(s, s2)
        # Negative values are rounding errors.
        out.edistance[k] = max(cellwise.edistance(between, true.within[k], _within(p, p2)), 0.0)
    for top in degs.TOPS:
        columns = true.columns(top, S.shape[1])
        if columns is not None:
            sides_of = (cellwise.Spread(x.mean[columns], x.std[columns]) for x in (true.spread, spread))
            out.sym_kldiv[min(top, S.shape[1])] = max(cellwise.sym_kldiv(*sides_of), 0.0)
    return out


def _subsets(true: TrueSide, X: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    """Yield (number of genes, cells [n, genes]) for each distinct subset that is defined.

    Cells are float64; float32 and less the mean of the true cells where distances are in single precision.
    """
    genes, n = X.shape[1], len(true.rows)
    for k in sorted({min(top, genes) for top in degs.TOPS}):
        columns = true.columns(k, genes)
        if columns is None:
            continue
        if k > max(TRANSPORT_TOPS) and float(n) * n * k > _DOUBLE_WORK:
            yield k, X[:, columns] - true.spread.mean[columns]
        else:
            yield k, np.ascontiguousarray(X[:, columns], dtype=np.float64)


def _within(X: FloatArray, norm: FloatArray) -> float:
    """Return the mean distance among cells [n, genes] with squared norms [n], in their precision."""
    if X.dtype == np.float32:
        return mean_within(X, norm)
    return cellwise.mean_distance(cellwise.squared_distances(X, X, norm, norm))


def _take(X: FloatArray, rows: IntArray) -> FloatArray:
    """Return the rows of a subsample, without a copy where it has all rows."""
    return X if len(rows) == len(X) else X[rows]


def _scores(group: degs.Moments, control: degs.Moments) -> FloatArray | None:
    return None if group.n < 2 or control.n < 2 else degs.welch_scores(group, control)
