"""Metrics of mean expression and of its change from the controls, one value per perturbation."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from perturbfm_core.evaluation import rowwise
from perturbfm_core.schema import FloatArray, IntArray, StrArray

Distance = Literal["l1", "l2", "cosine"]
# Share of a distance that is rounding.
_TIE = 1e-12
_SINGLE_TIE = 1e-6
# scikit-learn does not scale vectors that are shorter than this in single precision to length 1.
_SHORT = 10 * float(np.finfo(np.float32).eps)
DISTANCES: tuple[Distance, ...] = ("l1", "l2", "cosine")


def pearson(pred: FloatArray, real: FloatArray) -> FloatArray:
    """Return [P], the Pearson correlation over all genes [P, G]; NaN where a row is constant."""
    return rowwise.pearson(pred, real)


def mse(pred: FloatArray, real: FloatArray) -> FloatArray:
    """Return [P], the mean squared difference over genes [P, G]."""
    return rowwise.mean_square(pred - real)


def mae(pred: FloatArray, real: FloatArray) -> FloatArray:
    """Return [P], the mean absolute difference over genes [P, G]."""
    return rowwise.mean_absolute(pred - real)


def discrimination(
    pred: FloatArray, real: FloatArray, names: StrArray, genes: StrArray, distance: Distance
) -> FloatArray:
    """Return [P], 1 - rank / P of a perturbation among all observed ones by distance to its prediction.

    The gene that has exactly the name of the perturbation is left out. Ranks count from 0; a tie counts one half.

    Parameters
    ----------
    pred, real
        Predicted and observed change from the controls [P, G].
    names, genes
        Perturbations [P] and genes [G].
    distance
        ``l1``, ``l2`` or ``cosine``.
    """
    D, scale = _distances(pred, real, _own_gene(names, genes), distance)
    # Up to rounding, so that the order of summation does not break ties.
    nearer, tied = _nearer(D, _TIE * scale)
    return np.asarray(1.0 - (nearer + 0.5 * tied) / len(D))


def discrimination_bounds(
    pred: FloatArray, real: FloatArray, names: StrArray, genes: StrArray, distance: Distance
) -> tuple[FloatArray, FloatArray]:
    """Return the least and the most [P] that `discrimination` can be where ties come in any order.

    cell-eval sorts distances in single precision, with a sort that is not stable.

    Parameters
    ----------
    pred, real, names, genes, distance
        See `discrimination`.
    """
    D, scale = _distances(pred, real, _own_gene(names, genes), distance, shortest=_SHORT)
    nearer, tied = _nearer(D, _SINGLE_TIE * scale)
    return 1.0 - (nearer + tied) / len(D), 1.0 - nearer / len(D)


def _nearer(D: FloatArray, tolerance: FloatArray) -> tuple[IntArray, IntArray]:
    """Return [P], how many other observations are nearer to a prediction than its own, and as near within [P]."""
    gap = np.diag(D)[:, None] - D
    tied = np.abs(gap) <= tolerance[:, None]
    return ((gap > 0) & ~tied).sum(axis=1), tied.sum(axis=1) - 1


def _own_gene(names: StrArray, genes: StrArray) -> list[int | None]:
    position = {str(g): i for i, g in enumerate(genes)}
    return [position.get(str(name)) for name in names]


def _distances(
    pred: FloatArray,
    real: FloatArray,
    own: list[int | None],
    distance: Distance,
    *,
    shortest: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Return ([P, P]: row p holds the distances from prediction p to every observation, without gene own[p]; [P]: scale of a row's rounding errors).

    Parameters
    ----------
    pred, real, distance
        See `discrimination`.
    own
        Position of the gene to leave out of each row.
    shortest
        Changes shorter than this have no direction.
    """
    has = np.asarray([i for i, g in enumerate(own) if g is not None], dtype=np.int64)
    gene = np.asarray([g for g in own if g is not None], dtype=np.int64)
    # Distances over all genes come from one matrix operation; the left-out gene's term is then taken off again.
    x, y = pred[has, gene][:, None], real[:, gene].T
    if distance != "cosine":
        power = 1 if distance == "l1" else 2
        D = cdist(pred, real, "cityblock" if power == 1 else "sqeuclidean")
        scale = D.max(axis=1)
        D[has] -= np.abs(x - y) ** power
        return np.asarray(D), np.asarray(scale)
    dot = pred @ real.T
    a = np.repeat(np.einsum("ij,ij->i", pred, pred)[:, None], len(real), axis=1)
    b = np.repeat(np.einsum("ij,ij->i", real, real)[None, :], len(pred), axis=0)
    whole_a, whole_b = a.copy(), b.copy()
    dot[has] -= x * y
    a[has] -= x * x
    b[has] -= y * y
    # A change of the left-out gene alone leaves nothing but rounding, which has no direction.
    some = (a > np.maximum(_TIE * whole_a, shortest**2)) & (b > np.maximum(_TIE * whole_b, shortest**2))
    size = np.sqrt(np.where(some, a, 0.0) * np.where(some, b, 0.0))
    out = 1.0 - np.divide(dot, size, out=np.zeros_like(dot), where=size > 0)
    return np.asarray(out), np.ones(len(out))
