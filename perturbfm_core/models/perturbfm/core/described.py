"""Conditions as inputs of the kernel, and the similarities of their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbfm_core.models.perturbfm.interventions import Interventions
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Factor on the context similarity of conditions with different covariates.
OTHER_COVARIATES = 0.5


@dataclass(frozen=True, eq=False)
class Described:
    """Conditions as inputs of the kernel."""

    parts: Interventions
    effects: FloatArray  # [parts, k], measured single effect of each part, zero where unknown
    sums: FloatArray  # [n, k]
    tables: list[tuple[FloatArray, BoolArray]]  # per table: unit-length features [parts, F], whether known
    context: FloatArray | None  # [n, k] principal components of the controls
    names: list[str]  # context ids
    covariates: list[str]


def squared_distances(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return float64 [a, b], squared Euclidean distances between the rows of A [a, k] and B [b, k]."""
    out = (A * A).sum(axis=1)[:, None] + (B * B).sum(axis=1)[None] - 2.0 * A @ B.T
    # Rounding in the expanded square can make small distances negative.
    return np.asarray(np.maximum(out, 0.0))


def median_of(D: FloatArray) -> float:
    """Return the median of the entries above rounding error, 1 if there are none."""
    found = D[1e-9 * max(float(D.max(initial=0.0)), 1e-300) < D]
    return float(np.median(found)) if found.size else 1.0


def over_parts(a: Described, b: Described, L: FloatArray, *, signed: bool = False) -> FloatArray:
    """Return float64 [a, b], a similarity L of parts [parts of a, parts of b] summed over pairs of parts.

    Each pair is weighted by the product of the two amounts, with their signs if `signed`.

    Parameters
    ----------
    a, b
        Conditions.
    L
        float64 [parts of a, parts of b], similarity of their parts.
    signed
        Whether a part counts with its sign.
    """

    def spread(x: Described) -> FloatArray:
        value = x.parts.amount * x.parts.sign if signed else x.parts.amount
        out = np.zeros((x.parts.n, len(x.parts.owner)))
        out[x.parts.owner, np.arange(len(x.parts.owner))] = value
        return out

    out: FloatArray = spread(a) @ L @ spread(b).T
    return out


def only(a: Described, at: Any) -> Described:
    """Return the same conditions with the parts at some positions alone."""
    return Described(
        a.parts,
        a.effects[at],
        a.sums,
        [(x[at], p[at]) for x, p in a.tables],
        a.context,
        a.names,
        a.covariates,
    )


def context_of_pairs(
    a: Described, b: Described, pairs: tuple[IntArray, IntArray], width: float
) -> FloatArray:
    """Return float64 [pairs], the similarity of the contexts of conditions of `a` and of `b`.

    Parameters
    ----------
    a, b
        Conditions.
    pairs
        Positions in `a` and in `b`, int64 [pairs] each.
    width
        Squared distance of control profiles at which contexts are alike by 1 / e.
    """
    i, j = pairs
    if a.context is not None and b.context is not None:
        apart = ((a.context[i] - b.context[j]) ** 2).sum(axis=1)
        out: FloatArray = np.exp(-apart / width)
    else:
        out = (np.asarray(a.names)[i] == np.asarray(b.names)[j]).astype(np.float64)
    same = same_covariates_of_pairs(a, b, pairs)
    return np.asarray(np.where(same, out, OTHER_COVARIATES * out))


def same_covariates_of_pairs(a: Described, b: Described, pairs: tuple[IntArray, IntArray]) -> BoolArray:
    """Return bool [pairs], whether conditions of `a` and of `b` have the same covariates.

    Parameters
    ----------
    a, b
        Conditions.
    pairs
        Positions in `a` and in `b`, int64 [pairs] each.
    """
    i, j = pairs
    return np.asarray(np.asarray(a.covariates)[i] == np.asarray(b.covariates)[j])
