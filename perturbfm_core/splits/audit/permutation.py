"""Permutation control: a model's score after fitting on shuffled condition labels, against a floor."""

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
    """Scores of a model fitted on true and on shuffled labels.

    Attributes
    ----------
    true
        Score with the true labels.
    shuffled
        Score for each permutation of the labels.
    floor
        Score of the mean training delta, which needs no labels.
    findings
        ``permutation_control`` if the scores with shuffled labels exceed the floor.
    """

    true: float
    shuffled: tuple[float, ...]
    floor: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Return whether the scores with shuffled labels do not exceed the floor."""
        return not self.findings


def mean_pearson(mean: FloatArray, truth: FloatArray) -> float:
    """Return the Pearson correlation over genes, averaged over conditions [C, G]; 0 where undefined."""
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
    """Score a model that is fitted on shuffled labels of the training conditions.

    Each permutation reassigns the deltas (with their variances and numbers of cells) among the training
    conditions, so that labels carry no information on effects. A model that still scores better than the mean
    training delta must have its information from elsewhere, for example from test cells.

    Parameters
    ----------
    view
        Training view to fit on.
    query
        Conditions to predict.
    truth
        float [C, G], observed deltas of the query.
    fit_predict
        (view, query, seed) -> predicted deltas [C, G]. The view gives no access to single cells, whose labels
        are not shuffled.
    n
        Number of permutations.
    seed
        Seed of the permutations and of every fit.
    score
        (predicted, truth) -> score, higher is better.

    Raises
    ------
    SplitError
        If there are fewer than 3 training conditions.
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
    # A finding needs both an effect of practical size and several standard errors of the mean over
    # permutations.
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
