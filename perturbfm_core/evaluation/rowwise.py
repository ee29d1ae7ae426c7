"""Row-wise statistics of pairs of matrices, over all columns or those of a mask."""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import BoolArray, FloatArray

_CONSTANT = 1e-12


def pearson(A: FloatArray, B: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the Pearson correlation of each pair of rows; NaN where a row is constant.

    Parameters
    ----------
    A, B
        Values [C, G].
    mask
        Columns to use in each row [C, G]; all by default.
    """
    if mask is None:
        a, b = A - A.mean(axis=1, keepdims=True), B - B.mean(axis=1, keepdims=True)
    else:
        n = mask.sum(axis=1, keepdims=True)
        a = np.where(mask, A - (A * mask).sum(axis=1, keepdims=True) / n, 0.0)
        b = np.where(mask, B - (B * mask).sum(axis=1, keepdims=True) / n, 0.0)
    return _ratio(a, b, np.abs(A).max(axis=1), np.abs(B).max(axis=1))


def cosine(A: FloatArray, B: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the cosine of each pair of rows; NaN where a row is zero.

    Parameters
    ----------
    A, B
        Values [C, G].
    mask
        Columns to use in each row [C, G]; all by default.
    """
    a, b = (A, B) if mask is None else (A * mask, B * mask)
    return _ratio(a, b, np.zeros(len(A)), np.zeros(len(B)))


def _ratio(a: FloatArray, b: FloatArray, scale_a: FloatArray, scale_b: FloatArray) -> FloatArray:
    dot = np.einsum("ij,ij->i", a, b)
    na, nb = np.sqrt(np.einsum("ij,ij->i", a, a)), np.sqrt(np.einsum("ij,ij->i", b, b))
    # A row that is constant up to rounding has no direction.
    width = np.sqrt(a.shape[1])
    defined = (na > _CONSTANT * width * scale_a) & (nb > _CONSTANT * width * scale_b) & (na > 0) & (nb > 0)
    out = np.full(len(a), np.nan)
    np.divide(dot, na * nb, out=out, where=defined)
    return np.asarray(np.clip(out, -1.0, 1.0))


def mean_square(A: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the mean of squares of each row."""
    if mask is None:
        out: FloatArray = np.einsum("ij,ij->i", A, A) / A.shape[1]
        return out
    masked = A * mask
    return np.asarray(np.einsum("ij,ij->i", masked, masked) / mask.sum(axis=1))


def mean_absolute(A: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the mean of absolute values of each row."""
    if mask is None:
        return np.asarray(np.abs(A).mean(axis=1))
    return np.asarray((np.abs(A) * mask).sum(axis=1) / mask.sum(axis=1))


def top_overlap(A: FloatArray, B: FloatArray, k: int, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the share of the k columns of largest |B| that are among the k columns of largest |A|.

    Ties go to the earlier column. NaN where there are no more than k columns, or all values of a row are equal.

    Parameters
    ----------
    A, B
        Values [C, G].
    k
        Number of columns in each of the two sets.
    mask
        Columns to use in each row [C, G]; all by default.
    """
    a, b = np.abs(A), np.abs(B)
    if mask is not None:
        a, b = np.where(mask, a, -1.0), np.where(mask, b, -1.0)
    out = np.full(len(A), np.nan)
    columns = A.shape[1] if mask is None else int(mask.sum(axis=1).min(initial=A.shape[1]))
    if columns <= k:
        return out
    low_a = np.min(np.where(a < 0, np.inf, a), axis=1)
    low_b = np.min(np.where(b < 0, np.inf, b), axis=1)
    ordered = (a.max(axis=1) > low_a) & (b.max(axis=1) > low_b)
    top_a = np.argsort(-a, axis=1, kind="stable")[:, :k]
    top_b = np.argsort(-b, axis=1, kind="stable")[:, :k]
    hit = np.zeros(A.shape, dtype=np.bool_)
    np.put_along_axis(hit, top_a, True, axis=1)
    share = np.take_along_axis(hit, top_b, axis=1).mean(axis=1)
    out[ordered] = share[ordered]
    return out
