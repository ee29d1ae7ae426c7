"""The permutation control: with the labels of train conditions shuffled, no entry may beat its floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from perturbfm_core.errors import SplitError
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.audit.core import Finding, finding
from perturbfm_core.splits.view import Query, TrainView

FitPredict = Callable[[TrainView, Query, int], FloatArray]
Score = Callable[[FloatArray, FloatArray], float]
MARGIN = 0.02
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class PermutationControl:
    """What an entry scores with shuffled labels.

    Attributes
    ----------
    true
        Its score with the true labels.
    shuffled
        Its score for each shuffling.
    floor
        Score of the train mean, which needs no labels.
    findings
        ``permutation_control`` if shuffled labels beat the floor.
    """

    true: float
    shuffled: tuple[float, ...]
    floor: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Return whether shuffled labels stay at or below the floor."""
        return not self.findings


def mean_pearson(mean: FloatArray, truth: FloatArray) -> float:
    """Return the Pearson correlation over genes, averaged over conditions; undefined ones count 0."""
    a = mean - mean.mean(axis=1, keepdims=True)
    b = truth - truth.mean(axis=1, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    r = np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 0)
    return float(r.mean())


def permutation_control(
    view: TrainView,
    query: Query,
    truth: FloatArray,
    fit_predict: FitPredict,
    *,
    n: int = 10,
    seed: int = 0,
    score: Score = mean_pearson,
) -> PermutationControl:
    """Score an entry with the labels of its train conditions shuffled.

    Every shuffling gives each train condition another one's deltas (with their variance and n), so that labels
    tell nothing of effects. What then still beats the train mean comes from elsewhere: from the test cells.

    Parameters
    ----------
    view, query
        What the entry fits on and is asked for.
    truth
        [C, G], observed deltas of the query.
    fit_predict
        (view, query, seed) -> predicted deltas [C, G]. The view has no cells, whose labels are not shuffled.
    n, seed
        Number of shufflings, and their seed.
    score
        (predicted, truth) -> score, higher is better.

    Raises
    ------
    SplitError
        If there are fewer than 3 train conditions, whose labels cannot be shuffled.
    """
    if len(view) < 3:
        msg = (
            f"a permutation control needs at least 3 train conditions, found {len(view)}; use a larger split"
        )
        raise SplitError(msg)
    plain = replace(view, dataset=None, allowed_rows=None)
    truth = np.asarray(truth, dtype=np.float64)

    def scored(v: TrainView) -> float:
        return score(np.asarray(fit_predict(v, query, seed), dtype=np.float64), truth)

    floor = score(np.broadcast_to(view.delta.mean(axis=0, dtype=np.float64), truth.shape), truth)
    rng = np.random.default_rng(seed)
    shuffled = []
    for _ in range(n):
        order = rng.permutation(len(view))
        moved = replace(plain, delta=view.delta[order], s2=view.s2[order], n_cells=view.n_cells[order])
        shuffled.append(scored(moved))
    values = np.asarray(shuffled)
    spread = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    beats = float(values.mean()) - floor
    found = beats > MARGIN and beats > STANDARD_ERRORS * spread
    message = (
        f"with shuffled labels the entry scores {values.mean():.3f}, its floor is {floor:.3f}: it knows the test "
        "conditions from elsewhere; look for what it reads beside the train view"
    )
    return PermutationControl(
        true=scored(plain),
        shuffled=tuple(float(s) for s in shuffled),
        floor=floor,
        findings=tuple(finding("permutation_control", ["shuffled labels"] if found else [], message)),
    )
