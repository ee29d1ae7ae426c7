"""Row-wise statistics of pairs of matrices, over all columns or those of a mask."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from perturbfm_core.evaluation.ties import ROUNDING, both_largest, expected_shared, n_nonzero
from perturbfm_core.schema import BoolArray, FloatArray, IntArray


def constant(A: FloatArray, mask: BoolArray | None = None) -> BoolArray:
    """Return bool [C], rows whose values differ by single-precision rounding only, or that have no columns.

    Parameters
    ----------
    A
        Values [C, G].
    mask
        Columns to use in each row [C, G]; all by default.
    """
    a, scale = _centred(A, mask)
    return ~_varies(a, scale)


def pearson(A: FloatArray, B: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the Pearson correlation of each pair of rows; NaN where a row is constant up to rounding.

    Parameters
    ----------
    A, B
        Values [C, G].
    mask
        Columns to use in each row [C, G]; all by default.
    """
    (a, scale_a), (b, scale_b) = _centred(A, mask), _centred(B, mask)
    return _ratio(a, b, _varies(a, scale_a) & _varies(b, scale_b))


def spearman(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return [C], the Spearman correlation of each pair of rows [C, G]: mean ranks for ties, NaN where constant."""
    out = pearson(rankdata(A, axis=1), rankdata(B, axis=1))
    return np.where(constant(A) | constant(B), np.nan, out)


def cosine(A: FloatArray, B: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the cosine of each pair of rows; NaN where a row is zero.

    A constant row has a direction, but none that tells genes apart: panels leave it undefined (see `constant`).

    Parameters
    ----------
    A, B
        Values [C, G].
    mask
        Columns to use in each row [C, G]; all by default.
    """
    a, b = (A, B) if mask is None else (A * mask, B * mask)
    return _ratio(a, b, np.ones(len(a), dtype=np.bool_))


def pearson_and_cosine(
    A: FloatArray, B: FloatArray, mask: BoolArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the Pearson correlation [C] and the cosine [C] of each pair of rows; NaN where a row is constant.

    Parameters
    ----------
    A, B
        Values [C, G].
    mask
        Columns to use in each row [C, G]; all by default.
    """
    (a, scale_a), (b, scale_b) = _centred(A, mask), _centred(B, mask)
    vary = _varies(a, scale_a) & _varies(b, scale_b)
    return _ratio(a, b, vary), np.where(vary, cosine(A, B, mask), np.nan)


def _centred(A: FloatArray, mask: BoolArray | None) -> tuple[FloatArray, FloatArray]:
    """Return (rows minus their means, 0 outside the mask; largest size of each row)."""
    if mask is None:
        return A - A.mean(axis=1, keepdims=True), np.abs(A).max(axis=1, initial=0.0)
    n = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    centred = np.where(mask, A - (A * mask).sum(axis=1, keepdims=True) / n, 0.0)
    return centred, np.abs(A * mask).max(axis=1, initial=0.0)


def _varies(a: FloatArray, scale: FloatArray) -> BoolArray:
    # A row that is constant up to rounding has no direction.
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", a, a)) > ROUNDING * np.sqrt(a.shape[1]) * scale)


def _ratio(a: FloatArray, b: FloatArray, defined: BoolArray) -> FloatArray:
    dot = np.einsum("ij,ij->i", a, b)
    na, nb = np.sqrt(np.einsum("ij,ij->i", a, a)), np.sqrt(np.einsum("ij,ij->i", b, b))
    out = np.full(len(a), np.nan)
    np.divide(dot, na * nb, out=out, where=defined & (na > 0) & (nb > 0))
    return np.asarray(np.clip(out, -1.0, 1.0))


def mean_square(A: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the mean of squares of each row; NaN where the mask has no column."""
    if mask is None:
        out: FloatArray = np.einsum("ij,ij->i", A, A) / A.shape[1]
        return out
    masked = A * mask
    return _mean(np.einsum("ij,ij->i", masked, masked), mask)


def mean_absolute(A: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the mean of absolute values of each row; NaN where the mask has no column."""
    if mask is None:
        return np.asarray(np.abs(A).mean(axis=1))
    return _mean((np.abs(A) * mask).sum(axis=1), mask)


def _mean(total: FloatArray, mask: BoolArray) -> FloatArray:
    n = mask.sum(axis=1)
    return np.asarray(np.divide(total, n, out=np.full(len(total), np.nan), where=n > 0))


def top_overlap(
    A: FloatArray, B: FloatArray, k: int, mask: BoolArray | None = None
) -> tuple[FloatArray, IntArray]:
    """Return [C], the share of the k columns of largest |B| that are among the k of largest |A|, and [C], that k.

    Zeros are never among the largest: k shrinks to the number of columns that are not zero on either side. Ties share the
    places left, so that the value is the expectation over tie orders. NaN where a row is zero, or has no more than `k`
    columns.

    Parameters
    ----------
    A, B
        Values [C, G].
    k
        Number of columns in each of the two sets, at most.
    mask
        Columns to use in each row [C, G]; all by default.
    """
    a, b = both_largest(A, B, k, mask)
    columns = np.full(len(A), A.shape[1]) if mask is None else mask.sum(axis=1)
    out = np.full(len(A), np.nan)
    np.divide(expected_shared(a, b), a.k, out=out, where=(a.k > 0) & (columns > k))
    return out, a.k


def top_places(A: FloatArray, B: FloatArray, k: int) -> IntArray:
    """Return int64 [C], the number of columns that `top_overlap` compares, at most `k`.

    Parameters
    ----------
    A, B
        Values [C, G].
    k
        Number of columns in each of the two sets.
    """
    return np.minimum(np.minimum(n_nonzero(A), n_nonzero(B)), k)
