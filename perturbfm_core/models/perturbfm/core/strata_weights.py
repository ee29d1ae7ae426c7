"""Weights of a stack's members by stratum of conditions, from the products of their out-of-fold errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.models.perturbfm.core.weights import best_member, error_products, simplex_weights
from perturbfm_core.schema import FloatArray

# A stratum with fewer units than this has no weights of its own; with fewer in total see `weights_of_few`.
MIN_UNITS = 10
ALL = "all"
"""The stratum of all conditions."""
# Strength of shrinkage to the single best member, in numbers of units.
_SHRINK_UNITS = 10.0

StratumErrors = tuple[FloatArray, FloatArray, set[str]]


def error_products_of_strata(
    errors: FloatArray, weight: FloatArray, strata: list[str], units: list[tuple[str, ...]]
) -> dict[str, StratumErrors]:
    """Return products of the members' weighted errors, number of rows, and units, per stratum and over all.

    For mixture weights w the squared error is w' gram w, so that the [k, k] products are all that fitting
    needs.

    Parameters
    ----------
    errors
        float32 [members, rows, G], errors of the members on held-out conditions.
    weight
        float64 [rows], weight of each condition.
    strata
        Stratum of each row.
    units
        Units of each row.
    """
    k = len(errors)
    row = np.asarray(strata)
    out: dict[str, StratumErrors] = {}
    for name in [ALL, *sorted(set(strata))]:
        at = np.flatnonzero(row == name) if name != ALL else np.arange(len(row))
        E = errors[:, at] * np.sqrt(weight[at]).astype(np.float32)[None, :, None]
        flat = E.reshape(k, -1)
        found = {u for i in at for u in units[i]} or {str(i) for i in at}
        out[name] = (
            error_products(flat) if name != ALL else np.zeros((k, k)),
            np.asarray([float(len(at))]),
            found,
        )
    out[ALL] = (np.sum([g[0] for n, g in out.items() if n != ALL], axis=0), out[ALL][1], out[ALL][2])
    return out


def summed(grams: Sequence[dict[str, StratumErrors]]) -> dict[str, StratumErrors]:
    """Return the products, numbers of rows and units of several folds together."""
    out: dict[str, StratumErrors] = {}
    for one in grams:
        for name, (gram, n, units) in one.items():
            if name in out:
                out[name] = (out[name][0] + gram, out[name][1] + n, out[name][2] | units)
            else:
                out[name] = (gram, n, units)
    return out


def weights_of_strata(grams: dict[str, StratumErrors], k: int) -> tuple[dict[str, FloatArray], int]:
    """Return ({stratum: weights [k]}, the member that is best alone).

    The weights minimise the error of the mixture under the constraints w >= 0 and sum 1, and are shrunk to
    the single best member of the stratum. A stratum with few units takes the weights of all; with few units
    in total the best member stands alone (but see `weights_of_few`).
    """
    best = best_member(grams[ALL][0])
    out = {ALL: np.eye(k)[best]}
    if len(grams[ALL][2]) < MIN_UNITS:
        return out, best
    for name, (gram, _, units) in grams.items():
        if len(units) < MIN_UNITS:
            continue
        alone = np.eye(k)[best_member(gram)]
        share = _SHRINK_UNITS / (len(units) + _SHRINK_UNITS)
        mixed = (1.0 - share) * simplex_weights(gram) + share * alone
        out[name] = np.where(mixed < 1e-3, 0.0, mixed) / mixed[mixed >= 1e-3].sum()
    return out, best
