"""Gate of the network: how much of its correction is used, decided by its gain on held-out inner folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core.models.perturbfm.agreement import centred_pearson
from perturbfm_core.models.perturbfm.core.gaussian_process import relative_weights
from perturbfm_core.schema import FloatArray, IntArray

if TYPE_CHECKING:
    from perturbfm_core.models.perturbfm.network.tensors import TensorSource

MIN_GROUPS = 10
CLOSED = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Rows on which networks are trained.

    Attributes
    ----------
    source
        Inputs [m].
    truth, core, s2
        float32 [m, G]: measured delta and out-of-fold core in log1p units, and sampling variance of the
        former.
    fold
        int64 [m], inner fold that held the row out; -1 without inner folds.
    groups
        The unit of each row, for paired comparisons.
    """

    source: TensorSource
    truth: FloatArray
    core: FloatArray
    s2: FloatArray
    fold: IntArray
    groups: list[str]


@dataclass(frozen=True)
class GateDecision:
    """How much of the network's correction is used.

    Attributes
    ----------
    g
        Factors of its two parts: through the latent state, through the channels.
    gain, standard_error
        Mean paired gain in centred Pearson correlation over the core, out of fold, and its standard error
        over groups.
    groups
        Number of groups.
    reason
        The reason in words.
    tried
        Of each part that was tried, in order: ``part``, its mean paired ``gain`` over what was open before, the
        ``standard_error`` that this had to exceed, and ``error_fell``, whether the squared error fell.
    """

    g: tuple[float, float]
    gain: float | None
    standard_error: float | None
    groups: int
    reason: str
    tried: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON."""
        return {**vars(self), "g": list(self.g)}


@dataclass(frozen=True, eq=False)
class _Judged:
    """Corrections of some rows, as normal equations of their factors and as a function of these.

    Attributes
    ----------
    along
        float64 [2, rows], weighted inner products of the two corrections with the residual.
    size
        float64 [2, 2, rows], those with each other: the factors g minimise g' size g - 2 g' along, summed over rows.
    mixture
        Function from factors [2, rows] to centred Pearson and relative squared error of each row.
    """

    along: FloatArray
    size: FloatArray
    mixture: Callable[[FloatArray], tuple[FloatArray, FloatArray]]

    def factors(self, at: Any, parts: FloatArray) -> FloatArray:
        """Return the least-squares factors [2] on the rows `at` of the parts with a 1 in `parts` [2]."""
        gram = self.size[:, :, at].sum(axis=2) * np.outer(parts, parts)
        return _box_least_squares(gram, self.along[:, at].sum(axis=1) * parts)

    def proposed(self, fold: IntArray, parts: FloatArray) -> FloatArray:
        """Return float64 [2, rows], the factors of each row by the other folds."""
        by_fold = {j: self.factors(fold != j, parts) for j in np.unique(fold)}
        return np.stack([by_fold[j] for j in fold], axis=1)


# First the channels alone, then both parts.
_PARTS = (("channels", np.asarray([0.0, 1.0])), ("latent state", np.ones(2)))


def _judged(data: TrainingRows, added: FloatArray, rows: IntArray) -> _Judged:
    truth, core, mine = data.truth[rows], data.core[rows], added[:, rows]
    center = truth.mean(axis=0)
    weight = relative_weights(truth - center)
    residual = (truth - core).astype(np.float64)

    def mixture(factors: FloatArray) -> tuple[FloatArray, FloatArray]:
        mixed = core + np.einsum("pr,prg->rg", factors, mine, optimize=True).astype(np.float32)
        errors = weight * ((truth - mixed).astype(np.float64) ** 2).sum(axis=1)
        return centred_pearson(mixed, truth, center), errors

    return _Judged(
        weight * np.einsum("prg,rg->pr", mine, residual, optimize=True),
        weight * np.einsum("prg,qrg->pqr", mine, mine, optimize=True),
        mixture,
    )


def without_gain(data: TrainingRows, added: FloatArray, folds: Sequence[IntArray]) -> bool:
    """Return whether neither part of the correction gains on any of these folds, at the factors of the others.

    With fewer units than a decision needs, nothing is said.

    Parameters
    ----------
    data
        The training rows.
    added
        float32 [2, m, G], corrections by the networks that did not see the rows.
    folds
        int64 positions of the rows of each fold, two folds or more.
    """
    rows = np.concatenate(list(folds))
    if len({data.groups[i] for i in rows}) < MIN_GROUPS:
        return False
    fold = np.repeat(np.arange(len(folds)), [len(at) for at in folds])
    judged = _judged(data, added, rows)
    start = judged.mixture(np.zeros((2, len(rows))))[0]
    for _, parts in _PARTS:
        gain = judged.mixture(judged.proposed(fold, parts))[0] - start
        if (np.bincount(fold, gain) > 0).any():
            return False
    return True


def decide(
    data: TrainingRows, added: FloatArray, rows: IntArray, seen: IntArray | None = None
) -> tuple[GateDecision, FloatArray]:
    """Return the gate and float64 [2, rows], the cross-fitted factors of each row.

    The factors of a row are the least-squares factors between 0 and 1 on the other folds. The channels, which
    have few parameters, are opened if the mean paired gain over the core exceeds one standard error over
    groups and the squared error falls; the latent part is opened if it has such a gain on top of that.

    Parameters
    ----------
    data
        The training rows.
    added
        float32 [2, rows, G], corrections by the networks that did not see the rows.
    rows
        int64, positions of the rows in `data`.
    seen
        Those of the rows on which two folds without a gain have decided already (default: all are judged).
    """
    if seen is not None:
        decision, _ = decide(data, added, seen)
        shut = replace(decision, g=CLOSED, reason="no gain on the first two inner folds")
        return shut, np.zeros((2, len(rows)))
    fold = data.fold[rows]
    names, code = np.unique(np.asarray([data.groups[i] for i in rows]), return_inverse=True)
    n = len(names)
    closed: FloatArray = np.zeros((2, len(rows)))
    if n < MIN_GROUPS:
        return GateDecision(CLOSED, None, None, n, f"{n} groups are fewer than {MIN_GROUPS}"), closed

    judged = _judged(data, added, rows)
    g: FloatArray = np.zeros(2)
    crossed: FloatArray = closed
    current = judged.mixture(closed)
    start = current[0]
    tried: list[dict[str, Any]] = []
    for name, parts in _PARTS:
        # Cross-fitting: no row is judged with factors that were estimated on its own fold.
        proposed = judged.proposed(fold, parts)
        scores = judged.mixture(proposed)
        # Mean gain per group: rows of a group are not independent, so the standard error is over groups.
        gain = np.bincount(code, scores[0] - current[0]) / np.bincount(code)
        error = float(gain.std(ddof=1) / np.sqrt(n))
        fell = float((current[1] - scores[1]).sum()) > 0
        tried.append({"part": name, "gain": float(gain.mean()), "standard_error": error, "error_fell": fell})
        if float(gain.mean()) > error and fell:
            g, crossed, current = judged.factors(slice(None), parts), proposed, scores
    total = np.bincount(code, current[0] - start) / np.bincount(code)
    mean, error = float(total.mean()), float(total.std(ddof=1) / np.sqrt(n))
    reason = "gain over one standard error" if g.any() else "no gain over one standard error"
    return GateDecision((float(g[0]), float(g[1])), mean, error, n, reason, tried), crossed


def _box_least_squares(gram: FloatArray, along: FloatArray) -> FloatArray:
    """Return the two factors in [0, 1] that minimise g' gram g - 2 g' along, exactly.

    The minimum is the unconstrained one if that lies inside the square, else it lies on one of the four
    edges.
    """
    best: FloatArray = np.zeros(2)
    found = 0.0
    candidates: list[FloatArray] = [np.zeros(2)]
    if (np.diag(gram) > 0).all() and np.linalg.cond(gram) < 1e10:
        candidates.append(np.linalg.solve(gram, along))
    for fixed in (0, 1):
        free = 1 - fixed
        for value in (0.0, 1.0):
            if gram[free, free] > 0:
                g: FloatArray = np.empty(2)
                g[fixed] = value
                g[free] = np.clip((along[free] - gram[free, fixed] * value) / gram[free, free], 0.0, 1.0)
                candidates.append(g)
    for g in candidates:
        if (g >= 0).all() and (g <= 1).all():
            loss = float(g @ gram @ g - 2 * g @ along)
            if loss < found:
                best, found = g, loss
    return best
