"""How wrong a condition is as a whole: a level from its traits and from each gene that it perturbs.

    log(excess_i / var_i) = c + a'u_i + sum_{p in i} level_p + noise

over out-of-fold rows i with traits u_i and parts p (a gene and its modality). Both terms are ridge regressions, that
is, random effects; the strengths of shrinkage are those of least error on held-out folds, and leaving a term out is
among the choices. A part that no row has (an unseen gene) has level zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd


# Rows' worth of evidence that a part is like all others, and that a trait of unit spread says nothing.
PART_SHRINKAGE = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
TRAIT_SHRINKAGE = (3.0, 10.0, 30.0, 100.0, 300.0)
MIN_ROWS = 20
# Errors may be below sampling noise by chance; their logarithm must not say how far.
_FLOOR = 0.25
_MOST = 2.5
# Conditions far from all of train must not get a level that no error supports.
_MOST_TRAIT = 3.0
_INTERCEPT = 0.01
# Share of the error that a term must explain: chance finds less among as many penalties.
_LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Shrinkage:
    """Ridge penalties of the two terms, None for a term that is left out."""

    traits: float | None = None
    parts: float | None = None


def effect_traits(mean: FloatArray, process: FloatArray) -> FloatArray:
    """Return float64 [n, 3]: log size and log spread of the predicted delta [n, G], and its variance by the process.

    One strong entry, such as a target's own, says little of the rest: the mean magnitude says more.
    """

    import numpy as np

    size = np.log(np.sqrt((mean.astype(np.float64) ** 2).mean(axis=1)) + 1e-4)
    spread = np.log(np.abs(mean.astype(np.float64)).mean(axis=1) + 1e-4)
    unsure = 0.5 * np.log(process.astype(np.float64).mean(axis=1) + 1e-8)
    return np.stack([size, spread, unsure], axis=1)


def excess_of(error: FloatArray, s2: FloatArray, var: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return float64 ([m] squared error less sampling variance, [m] predicted variance), weighted means over genes.

    Genes weigh by the root of their variance: where errors vary most they tell most of the condition.

    Parameters
    ----------
    error, s2, var
        float [m, G].
    """

    import numpy as np

    weight = np.sqrt(var.mean(axis=0, dtype=np.float64))
    weight /= weight.sum()
    return (error.astype(np.float64) ** 2 - s2) @ weight, var.astype(np.float64) @ weight


class ConditionLevels:
    """Levels of error by trait and by perturbed gene."""

    def __init__(self) -> None:
        import numpy as np

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
        """Learn the levels and return float64 [m], the log factor of every row by levels learned from other folds.

        Penalties, the scale of traits and the offset are those of all rows.

        Parameters
        ----------
        conditions
            Condition table of the out-of-fold rows [m].
        traits
            float [m, K].
        excess, var
            float [m], squared error less sampling variance, and predicted variance, each a mean over genes.
        fold
            int64 [m].
        usable
            bool [folds, m]: rows whose condition the fold's predictor was fitted on.
        """

        import numpy as np

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
        # The factors must leave the mean of the variance as it was right before.
        before, after = max(float(ratio.mean()), _FLOOR), max(float((ratio / np.exp(out)).mean()), _FLOOR)
        self._offset = float(np.log(after / before))
        return out + self._offset

    def read(self, conditions: pd.DataFrame, traits: FloatArray) -> FloatArray:
        """Return float64 [n], the log factor on the variance of each condition."""

        import numpy as np

        if self.shrinkage == Shrinkage():
            return np.zeros(len(conditions))
        parts = interventions(conditions)
        Z = _incidence(parts.owner, parts.labels, self._labels, len(conditions))
        level = self._standardised(traits) @ self._slopes + Z @ self._levels
        return np.asarray(np.clip(level, -_MOST, _MOST) + self._offset)

    def _standardised(self, traits: FloatArray) -> FloatArray:
        import numpy as np

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
        """Take back what `arrays` and `meta` returned."""
        self._levels, self._slopes = arrays[f"{prefix}.levels"], arrays[f"{prefix}.slopes"]
        self._center, self._spread = arrays[f"{prefix}.center"], arrays[f"{prefix}.spread"]
        self._labels, self._offset = list(meta[f"{prefix}.labels"]), float(meta[f"{prefix}.offset"])
        self.shrinkage = Shrinkage(**meta[f"{prefix}.shrinkage"])


class _Design:
    """Traits [m, K] and incidence of parts [m, P] as one regression with a ridge for each."""

    def __init__(self, U: FloatArray, Z: sp.csr_array) -> None:
        self._U, self._Z = U, Z

    def solve(
        self, y: FloatArray, rows: BoolArray, shrinkage: Shrinkage
    ) -> tuple[float, FloatArray, FloatArray]:
        """Return (intercept, [K] slopes, [P] levels) of least squares on some rows; zeros for what is left out."""

        import numpy as np
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
        X = sp.hstack([sp.csr_array(b) for b in blocks], format="csr") @ sp.diags_array(scale)
        found = scale * lsqr(X, y[rows], damp=1.0, atol=1e-10, btol=1e-10)[0]
        slopes = found[1 : 1 + K] if shrinkage.traits is not None else np.zeros(K)
        levels = found[len(found) - P :] if shrinkage.parts is not None else np.zeros(P)
        return float(found[0]), slopes, levels

    def beyond_intercept(self, rows: BoolArray, slopes: FloatArray, levels: FloatArray) -> FloatArray:
        """Return float64 [rows], what the terms say of some rows."""

        import numpy as np

        return np.asarray(self._U[rows] @ slopes + self._Z[rows] @ levels)


def _choose(
    design: _Design, y: FloatArray, fold: IntArray, usable: BoolArray
) -> tuple[Shrinkage, FloatArray]:
    """Return the penalties of least error on held-out folds, those of traits first, and the cross-fitted terms [m]."""

    import numpy as np

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
    """Return float64 [n, known], how often each known part is in each condition."""

    import numpy as np
    import pandas as pd

    column = pd.Index(known).get_indexer(labels)
    at = np.flatnonzero(column >= 0)
    return sp.csr_array((np.ones(len(at)), (owner[at], column[at])), shape=(n, len(known)))
