"""Genes that change beyond the sampling error of the observation, on the observed and on the predicted side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.evaluation import ties
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.differential.comparison import ALPHA
from perturbfm_core.schema import BoolArray, FloatArray

# Rows at a time: what is made of them stays in the processor's cache.
_BLOCK = 64
# No gene with a smaller score is significant, however few are tested; a little less, for rounding.
_LEAST = float(-ndtri(ALPHA / 2)) - 1e-9


@dataclass(frozen=True, eq=False)
class Counts:
    """Numbers of genes of each condition, without the genes that it perturbs itself.

    Attributes
    ----------
    changed
        float64 [C], truly changed genes.
    called
        float64 [C], genes whose predicted change would be significant if it were observed.
    right
        float64 [C], truly changed genes with the right predicted direction; no predicted change counts one half.
    found
        float64 [C], genes that are truly changed and called, with the right direction.
    foremost
        float64 [C], the same with the genes of the largest predicted scores in place of those called, as many as are truly
        changed; ties share their places.
    """

    changed: FloatArray
    called: FloatArray
    right: FloatArray
    found: FloatArray
    foremost: FloatArray


def counts(c: Comparison) -> Counts:
    """Return the numbers of changed, called and right genes of each condition, computed once."""
    return c.once("hits.counts", lambda: _counts(c))


def _counts(c: Comparison) -> Counts:
    changed = c.once_per_observed("hits.changed", lambda: significant_rows(c, c.observed))
    out = np.empty((5, len(c)))
    for rows in row_blocks(len(c), _BLOCK):
        truth = changed[rows]
        score = scores(c.predicted[rows], c.s2[rows], c.without_target[rows])
        called = _significant(score, is_tested(c.s2[rows], c.without_target[rows]))
        top = ties.largest(score, truth.sum(axis=1))
        agreement = np.sign(c.predicted[rows]) * np.sign(c.observed[rows])
        out[0, rows] = truth.sum(axis=1)
        out[1, rows] = called.sum(axis=1)
        out[2, rows] = np.where(truth, 0.5 + 0.5 * agreement, 0.0).sum(axis=1)
        right = truth & (agreement > 0)
        out[3, rows] = (right & called).sum(axis=1)
        shared = (right & top.tied).sum(axis=1) * top.places / np.maximum(top.tied.sum(axis=1), 1)
        out[4, rows] = (right & top.sure).sum(axis=1) + shared
    return Counts(*out)


def significant_rows(c: Comparison, delta: FloatArray) -> BoolArray:
    """Return `significant` [C, G] of the changes `delta` [C, G], with the sampling errors of a comparison."""
    out = np.zeros(delta.shape, dtype=np.bool_)
    for rows in row_blocks(len(delta), _BLOCK):
        out[rows] = significant(delta[rows], c.s2[rows], c.without_target[rows])
    return out


def significant(delta: FloatArray, s2: FloatArray, mask: BoolArray | None = None) -> BoolArray:
    """Return bool [C, G], changes that are significant by a z-test, Benjamini-Hochberg at 5 % over each row.

    Genes without a sampling error are not tested.

    Parameters
    ----------
    delta
        Changes [C, G].
    s2
        Their sampling variances [C, G], 0 where unknown.
    mask
        Genes to test in each row [C, G]; all by default.
    """
    return _significant(scores(delta, s2, mask), is_tested(s2, mask))


def is_tested(s2: FloatArray, mask: BoolArray | None = None) -> BoolArray:
    """Return bool [C, G], genes of a mask whose sampling variance `s2` is known."""
    return np.asarray(s2 > 0 if mask is None else (s2 > 0) & mask)


def scores(delta: FloatArray, s2: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return float64 [C, G], sizes of changes over their standard errors, 0 where they are not tested.

    Parameters
    ----------
    delta
        Changes [C, G].
    s2
        Their sampling variances [C, G], 0 where unknown.
    mask
        Genes to test in each row [C, G]; all by default.
    """
    out = np.zeros(delta.shape)
    np.divide(np.abs(delta), np.sqrt(s2), out=out, where=is_tested(s2, mask))
    return out


def _significant(score: FloatArray, known: BoolArray) -> BoolArray:
    # Few genes have a score at all that can be significant: only these are sorted.
    row, gene = np.nonzero(score >= _LEAST)
    p = 2.0 * ndtr(-score[row, gene])
    order = np.lexsort((p, row))
    row, gene, p = row[order], gene[order], p[order]
    number = np.bincount(row, minlength=len(score))
    rank = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number) + 1
    passes = p <= ALPHA * rank / known.sum(axis=1)[row]
    last = np.zeros(len(score), dtype=np.int64)
    np.maximum.at(last, row[passes], rank[passes])
    out = np.zeros(score.shape, dtype=np.bool_)
    chosen = rank <= last[row]
    out[row[chosen], gene[chosen]] = True
    return out
