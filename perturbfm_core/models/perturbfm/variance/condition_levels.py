"""Error level of a whole condition, regressed on its covariates and on each gene that it perturbs.

    log(excess_i / var_i) = c + a'u_i + sum_{p in i} level_p + noise

over out-of-fold rows i with covariates u_i ("traits") and parts p (a gene and its modality). Both terms are
ridge regressions, i.e. random effects. The penalties are those with the smallest error on held-out folds;
leaving a term out is one of the choices. A part that occurs in no row (an unseen gene) has level zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Candidate ridge penalties of the two terms, in numbers of rows.
PART_SHRINKAGE = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
TRAIT_SHRINKAGE = (3.0, 10.0, 30.0, 100.0, 300.0)
MIN_ROWS = 20
# By chance, squared errors can be below the sampling variance: ratios below this are set to it before the
# logarithm.
_FLOOR = 0.25
# Largest absolute log factor.
_MOST = 2.5
# Standardised traits are clipped here, so that conditions far from train do not get extrapolated levels.
_MOST_TRAIT = 3.0
# Ridge penalty of the intercept: practically none.
_INTERCEPT = 0.01
# Share of the error that a term must explain to be kept; chance explains less, even with several penalties to
# try.
_LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Shrinkage:
    """Ridge penalties of the two terms, None for a term that is left out."""

    traits: float | None = None
    parts: float | None = None


def effect_traits(mean: FloatArray, process: FloatArray) -> FloatArray:
    """Return float64 [n, 3], traits of predictions that relate to the size of their errors.

    Log root mean square and log mean magnitude of the predicted delta, and log standard deviation by the set
    process. The root mean square is dominated by single strong entries such as the target's own; the mean
    magnitude reflects the other genes. `mean` and `process` are float [n, G], predicted delta and variance by
    the set process.
    """
    size = np.log(np.sqrt((mean.astype(np.float64) ** 2).mean(axis=1)) + 1e-4)
    spread = np.log(np.abs(mean.astype(np.float64)).mean(axis=1) + 1e-4)
    unsure = 0.5 * np.log(process.astype(np.float64).mean(axis=1) + 1e-8)
    return np.stack([size, spread, unsure], axis=1)


def excess_of(error: FloatArray, s2: FloatArray, var: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return float64 [m] each: excess squared error, and predicted variance, as weighted means over genes.

    The excess is the squared error minus the sampling variance. Genes are weighted by the root of their mean
    variance: genes with large errors are the most informative about a condition.

    Parameters
    ----------
    error, s2, var
        float [m, G], error of the prediction, sampling variance, predicted variance without sampling noise.
    """
    weight = np.sqrt(var.mean(axis=0, dtype=np.float64))
    weight /= weight.sum()
    return (error.astype(np.float64) ** 2 - s2) @ weight, var.astype(np.float64) @ weight


class ConditionLevels:
    """Levels of error by trait and by perturbed gene."""

    def __init__(self) -> None:
        self.shrinkage = Shrinkage()
        self._labels: list[str] = []
        self._levels: FloatArray = np.zeros(0)
        self._slopes: FloatArray = np.zeros(0)
        self._center: FloatArray = np.zeros(0)
        self._spread: FloatArray = np.zeros(0)
        self._offset = 0.0

    def fit(
        self,
        conditions: pd.DataFrame,
        traits: FloatArray,
        excess: FloatArray,
        var: FloatArray,
        fold: IntArray,
        usable: BoolArray,
    ) -> FloatArray:
        """Learn the levels and return float64 [m], the log factor of every row by levels from other folds.

        Penalties, standardisation of traits and the offset are shared by all folds.

        Parameters
        ----------
        conditions
            Condition table of the out-of-fold rows [m].
        traits
            float [m, K], covariates of the rows.
        excess, var
            float [m], squared error minus sampling variance, and predicted variance, each a mean over genes.
        fold
            int64 [m], inner fold that held out the row.
        usable
            bool [folds, m], rows whose condition the fold's predictor was fitted on.
        """
        m = len(excess)
        self._center, self._spread = np.zeros(traits.shape[1]), np.ones(traits.shape[1])
        self._slopes = np.zeros(traits.shape[1])
        if m < MIN_ROWS or len(usable) < 2:
            return np.zeros(m)
        self._center, self._spread = traits.mean(axis=0), traits.std(axis=0) + 1e-6
        ratio = excess / np.maximum(var, 1e-12)
        y = np.log(np.maximum(ratio, _FLOOR))
        parts = interventions(conditions)
        labels = sorted(set(parts.labels))
        design = _Design(self._standardised(traits), _incidence(parts.owner, parts.labels, labels, m))
        self.shrinkage, out = _choose(design, y, fold, usable)
        if self.shrinkage == Shrinkage():
            return np.zeros(m)
        self._labels = labels
        _, self._slopes, self._levels = design.solve(y, np.ones(m, dtype=np.bool_), self.shrinkage)
        out = np.clip(out, -_MOST, _MOST)
        # The offset keeps the mean of excess / variance, which the entry variance has already fitted,
        # unchanged.
        before, after = max(float(ratio.mean()), _FLOOR), max(float((ratio / np.exp(out)).mean()), _FLOOR)
        self._offset = float(np.log(after / before))
        return out + self._offset

    def read(self, conditions: pd.DataFrame, traits: FloatArray) -> FloatArray:
        """Return float64 [n], the log factor on the variance of each condition."""
        if self.shrinkage == Shrinkage():
            return np.zeros(len(conditions))
        parts = interventions(conditions)
        Z = _incidence(parts.owner, parts.labels, self._labels, len(conditions))
        level = self._standardised(traits) @ self._slopes + Z @ self._levels
        return np.asarray(np.clip(level, -_MOST, _MOST) + self._offset)

    def _standardised(self, traits: FloatArray) -> FloatArray:
        return np.clip((traits - self._center) / self._spread, -_MOST_TRAIT, _MOST_TRAIT)

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {
            f"{prefix}.levels": self._levels,
            f"{prefix}.slopes": self._slopes,
            f"{prefix}.center": self._center,
            f"{prefix}.spread": self._spread,
        }

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.labels": self._labels,
            f"{prefix}.offset": self._offset,
            f"{prefix}.shrinkage": vars(self.shrinkage),
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        """
        self._levels, self._slopes = arrays[f"{prefix}.levels"], arrays[f"{prefix}.slopes"]
        self._center, self._spread = arrays[f"{prefix}.center"], arrays[f"{prefix}.spread"]
        self._labels, self._offset = list(meta[f"{prefix}.labels"]), float(meta[f"{prefix}.offset"])
        self.shrinkage = Shrinkage(**meta[f"{prefix}.shrinkage"])


class _Design:
    """Traits [m, K] and incidence of parts [m, P] as one regression with a ridge penalty for each."""

    def __init__(self, U: FloatArray, Z: sp.csr_array) -> None:
        self._U, self._Z = U, Z

    def solve(
        self, y: FloatArray, rows: BoolArray, shrinkage: Shrinkage
    ) -> tuple[float, FloatArray, FloatArray]:
        """Return (intercept, [K] slopes, [P] levels) of the ridge regression on some rows.

        Slopes or levels are zero if their term is left out.

        Parameters
        ----------
        y
            float64 [m], log ratio of excess error to variance.
        rows
            bool [m], rows to fit on.
        shrinkage
            Penalties of the two terms.
        """
        from scipy.sparse.linalg import lsqr

        K, P = self._U.shape[1], self._Z.shape[1]
        scales = [np.asarray([_INTERCEPT**-0.5])]
        blocks: list[Any] = [np.ones((int(rows.sum()), 1))]
        if shrinkage.traits is not None:
            blocks.append(self._U[rows])
            scales.append(np.full(K, shrinkage.traits**-0.5))
        if shrinkage.parts is not None:
            blocks.append(self._Z[rows])
            scales.append(np.full(P, shrinkage.parts**-0.5))
        scale = np.concatenate(scales)
        # lsqr with damp = 1 has unit penalties; scaling a column by penalty^-1/2 gives its coefficient that
        # penalty.
        X = sp.hstack([sp.csr_array(b) for b in blocks], format="csr") @ sp.diags_array(scale)
        found = scale * lsqr(X, y[rows], damp=1.0, atol=1e-10, btol=1e-10)[0]
        slopes = found[1 : 1 + K] if shrinkage.traits is not None else np.zeros(K)
        levels = found[len(found) - P :] if shrinkage.parts is not None else np.zeros(P)
        return float(found[0]), slopes, levels

    def beyond_intercept(self, rows: BoolArray, slopes: FloatArray, levels: FloatArray) -> FloatArray:
        """Return float64 [rows], the sum of the two terms, without the intercept, for some rows.

        Parameters
        ----------
        rows
            bool [m].
        slopes
            float64 [K], slopes of the traits.
        levels
            float64 [P], levels of the parts.
        """
        return np.asarray(self._U[rows] @ slopes + self._Z[rows] @ levels)


def _choose(
    design: _Design, y: FloatArray, fold: IntArray, usable: BoolArray
) -> tuple[Shrinkage, FloatArray]:
    """Return the penalties with the smallest error on held-out folds, and the cross-fitted terms [m].

    The penalty of the traits is chosen first, then that of the parts.
    """

    def crossed(shrinkage: Shrinkage) -> tuple[float, FloatArray]:
        out: FloatArray = np.zeros(len(y))
        error = 0.0
        for j in np.unique(fold):
            mine, others = fold == j, usable[j] & (fold != j)
            if not others.any():
                error += float((y[mine] ** 2).sum())
                continue
            intercept, slopes, levels = design.solve(y, others, shrinkage)
            out[mine] = design.beyond_intercept(mine, slopes, levels)
            error += float(((y[mine] - intercept - out[mine]) ** 2).sum())
        return error, out

    best = Shrinkage()
    least, terms = crossed(best)
    for term, penalties in (("traits", TRAIT_SHRINKAGE), ("parts", PART_SHRINKAGE)):
        options = [replace(best, **{term: x}) for x in penalties]
        found = [crossed(option) for option in options]
        winner = int(np.argmin([error for error, _ in found]))
        if found[winner][0] < (1.0 - _LEAST_GAIN) * least:
            best, (least, terms) = options[winner], found[winner]
    return best, terms


def _incidence(owner: IntArray, labels: list[str], known: list[str], n: int) -> sp.csr_array:
    """Return float64 [n, known], how often each known part occurs in each condition."""
    column = pd.Index(known).get_indexer(labels)
    at = np.flatnonzero(column >= 0)
    return sp.csr_array((np.ones(len(at)), (owner[at], column[at])), shape=(n, len(known)))
