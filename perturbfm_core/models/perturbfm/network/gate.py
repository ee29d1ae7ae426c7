"""How far the network is believed: its gain on inner folds that neither it nor the prior was fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core.models.perturbfm.prior.gaussian_process import relative_weights
from perturbfm_core.schema import FloatArray, IntArray

if TYPE_CHECKING:
    from perturbfm_core.models.perturbfm.network.tensors import TensorSource

MIN_GROUPS = 10
CLOSED = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What a network is trained on.

    Attributes
    ----------
    source
        Inputs [m].
    truth, prior, s2
        float32 [m, G]: measured delta, the prior out of fold, sampling variance.
    fold
        int64 [m], inner fold that held the row out; -1 where there are none.
    groups
        The unit of each row, for paired comparisons.
    """

    source: TensorSource
    truth: FloatArray
    prior: FloatArray
    s2: FloatArray
    fold: IntArray
    groups: list[str]


@dataclass(frozen=True)
class GateDecision:
    """How much of the network is used.

    Attributes
    ----------
    g
        Factors of its two parts: through the latent state, through the channels.
    gain, standard_error
        Mean paired gain of centred Pearson over the prior on gate folds, and its standard error over groups.
    groups
        Number of groups.
    reason
        In words.
    """

    g: tuple[float, float]
    gain: float | None
    standard_error: float | None
    groups: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON."""
        return {**vars(self), "g": list(self.g)}


def centred_pearson(A: FloatArray, B: FloatArray, center: FloatArray) -> FloatArray:
    """Return float64 [n], Pearson correlation over genes of rows less a common centre."""
    a, b = A.astype(np.float64) - center, B.astype(np.float64) - center
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    out: FloatArray = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1) + 1e-30)
    return out


def decide(data: TrainingRows, added: FloatArray, rows: IntArray) -> tuple[GateDecision, FloatArray]:
    """Return the gate and float64 [2, rows], the cross-fitted factors of each row.

    The factors are the least-squares ones between 0 and 1 on the other folds. The channels, few numbers, are opened
    if the mean paired gain over the prior exceeds one standard error over groups and errors do not grow; the
    latent part then if it gains as much on top of what is open.

    Parameters
    ----------
    data
        The training rows.
    added
        float32 [2, rows, G], what the networks that did not see them add.
    rows
        int64, which rows they are.
    """
    truth, prior = data.truth[rows], data.prior[rows]
    center = truth.mean(axis=0)
    weight = relative_weights(truth - center)
    residual = (truth - prior).astype(np.float64)
    along = weight * np.einsum("prg,rg->pr", added, residual, optimize=True)
    size = weight * np.einsum("prg,qrg->pqr", added, added, optimize=True)
    fold = data.fold[rows]
    names, code = np.unique(np.asarray([data.groups[i] for i in rows]), return_inverse=True)
    n = len(names)
    closed: FloatArray = np.zeros((2, len(rows)))
    if n < MIN_GROUPS:
        return GateDecision(CLOSED, None, None, n, f"{n} groups are fewer than {MIN_GROUPS}"), closed

    def mixture(factors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the centred Pearson and the relative squared error of each row."""
        mixed = prior + np.einsum("pr,prg->rg", factors, added, optimize=True).astype(np.float32)
        errors = weight * ((truth - mixed).astype(np.float64) ** 2).sum(axis=1)
        return centred_pearson(mixed, truth, center), errors

    g: FloatArray = np.zeros(2)
    crossed: FloatArray = closed
    current = mixture(closed)
    start = current[0]
    for parts in (np.asarray([0.0, 1.0]), np.ones(2)):
        mask = np.outer(parts, parts)

        def factors(at: Any, mask: FloatArray = mask, parts: FloatArray = parts) -> FloatArray:
            return _box_least_squares(size[:, :, at].sum(axis=2) * mask, along[:, at].sum(axis=1) * parts)

        by_fold = {j: factors(fold != j) for j in np.unique(fold)}
        proposed = np.stack([by_fold[j] for j in fold], axis=1)
        scores = mixture(proposed)
        gain = np.bincount(code, scores[0] - current[0]) / np.bincount(code)
        error = float(gain.std(ddof=1) / np.sqrt(n))
        if float(gain.mean()) > error and float((current[1] - scores[1]).sum()) > 0:
            g, crossed, current = factors(slice(None)), proposed, scores
    total = np.bincount(code, current[0] - start) / np.bincount(code)
    mean, error = float(total.mean()), float(total.std(ddof=1) / np.sqrt(n))
    reason = "gain over one standard error" if g.any() else "no gain over one standard error"
    return GateDecision((float(g[0]), float(g[1])), mean, error, n, reason), crossed


def _box_least_squares(gram: FloatArray, along: FloatArray) -> FloatArray:
    """Return the two factors in [0, 1] that minimise g' gram g - 2 g' along, exactly."""
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
