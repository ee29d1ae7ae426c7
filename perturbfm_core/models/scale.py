"""Sizes above which models approximate, and the rows and conditions that then stand for all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.schema import BoolArray, IntArray
from perturbfm_core.splits.view import TrainView

_SEED = 0


@dataclass(frozen=True)
class Scale:
    """How many conditions a model treats exactly, and how many stand for all beyond that.

    Up to `exact` train conditions nothing is approximated. Which rows stand for all depends on their number alone.

    Attributes
    ----------
    exact
        Most train conditions (or rows of one decomposition) that are treated exactly.
    inducing
        Conditions whose kernel with all others replaces that among all.
    sample
        Conditions on which the options of a process are chosen.
    held
        Held-out conditions, of all inner folds together, from which weights, gate, networks and variance are learnt.
    genes
        Genes from which the options of a process and the noise of its conditions are estimated.
    """

    exact: int = 1500
    inducing: int = 1500
    sample: int = 1000
    held: int = 2000
    genes: int = 1000

    def approximates(self, n: int) -> bool:
        """Return whether `n` conditions are more than are treated exactly."""
        return n > self.exact

    def inducing_rows(self, n: int) -> IntArray:
        """Return the positions of the conditions, of `n`, that stand for all in a kernel."""
        return some_rows(n, self.inducing)


USUAL = Scale()


def some_rows(n: int, k: int) -> IntArray:
    """Return int64 [min(n, k)], positions drawn at random without replacement, in order; the same at every call."""
    if k >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(_SEED).choice(n, size=k, replace=False)).astype(np.int64)


def some_held(view: TrainView, k: int) -> TrainView:
    """Return the view with at most `k` conditions held out by its inner folds together; what folds fit on stays."""
    total = sum(int(held.sum()) for _, held in view.inner)
    if total <= k:
        return view
    inner = []
    for fit, held in view.inner:
        rows = np.flatnonzero(held)
        kept = np.zeros_like(held)
        kept[rows[some_rows(len(rows), max(1, round(k * len(rows) / total)))]] = True
        inner.append((fit, kept))
    return replace(view, inner=inner)


def sample_of(view: TrainView, k: int) -> TrainView:
    """Return a view of about `k` conditions at most that keeps together what belongs together.

    Genes are drawn, not conditions: a condition is kept if all of its genes are, so that combinations come with their
    singles and a perturbation with all its contexts and doses. Where single genes have more conditions than that, or no
    gene has any alone, conditions are drawn.
    """
    n = len(view)
    if n <= k:
        return view
    kept = _of_some_genes(view, k)
    if not 0.5 * k <= int(kept.sum()) <= k:
        kept = np.zeros(n, dtype=np.bool_)
        kept[some_rows(n, k)] = True
    return view.subset(kept)


def _of_some_genes(view: TrainView, k: int) -> BoolArray:
    """Return bool [n], the conditions whose genes are all among the first of a random order, `k` at most."""
    genes = [pert_genes(p) for p in view.conditions[schema.PERT_ID].astype(str)]
    names = sorted({g for gs in genes for g in gs})
    place = dict(zip(names, np.random.default_rng(_SEED).permutation(len(names)).tolist(), strict=True))
    # A condition enters with the last of its genes.
    last = np.asarray([max((place[g] for g in gs), default=-1) for gs in genes], dtype=np.int64)
    enter = np.sort(last)
    # Conditions that enter together stay together.
    limit = enter[k] if k < len(enter) else len(names)
    return np.asarray(last < limit, dtype=np.bool_)
