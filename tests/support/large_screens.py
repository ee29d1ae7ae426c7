"""Simulated pseudobulk screens of any size, with what their conditions share: gene features, contexts or combinations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.splits.view import Query, TrainView
from tests.support.factories import conditions_of

KINDS = ("genes", "contexts", "combos")
_TRAITS, _RANK, _CONTEXTS, _FOLDS = 10, 40, 5, 5
_NOISE = 0.15


@dataclass(frozen=True, eq=False)
class Screen:
    """Train conditions, conditions to predict, their measured deltas, and gene features if there are any."""

    view: TrainView
    query: Query
    truth: Any
    info: SideInfo

    @property
    def tables(self) -> list[GeneFeatures]:
        """Return the tables of gene features."""
        return list(self.info.features.values())

    def pearson(self, mean: Any) -> float:
        """Return the mean Pearson correlation of predicted deltas; a constant one counts as zero."""
        pairs = zip(np.asarray(mean, dtype=np.float64), self.truth, strict=True)
        return float(np.mean([np.corrcoef(p, t)[0, 1] if np.ptp(p) else 0.0 for p, t in pairs]))

    def squared_z(self, prediction: Any) -> float:
        """Return the mean squared error over its predicted variance, 1 where that is calibrated."""
        return float(np.mean((self.truth - prediction.mean) ** 2 / prediction.var))


def screen(kind: str, n: int, genes: int, *, test: int = 200, seed: int = 0) -> Screen:
    """Return a screen whose responses are a saturating function of low rank of the perturbed genes' traits.

    ``genes``: unseen genes with features, in one context. ``contexts``: unseen pairs of gene and context. ``combos``:
    unseen pairs of genes that are all measured alone.

    Parameters
    ----------
    kind
        One of `KINDS`.
    n, genes
        Train conditions and measured genes.
    test
        Conditions to predict.
    seed
        Seed of everything random.
    """
    rng = np.random.default_rng(seed)
    total = n + test
    loadings = rng.normal(size=(_RANK, genes)) * 0.6 / np.sqrt(_RANK)
    W = rng.normal(size=(_TRAITS, _RANK)) * 0.5
    if kind == "combos":
        singles = max(40, int(3 * np.sqrt(n)))
        traits = rng.normal(size=(singles, _TRAITS))
        pairs = np.stack(np.triu_indices(singles, 1), axis=1)
        pairs = pairs[rng.permutation(len(pairs))[: total - singles]]
        rows = [("c0", f"g{i}") for i in range(singles)] + [("c0", f"g{i}+g{j}") for i, j in pairs]
        latent = np.concatenate([traits, traits[pairs[:, 0]] + traits[pairs[:, 1]]])
        place, alone = np.zeros(len(rows), dtype=np.int64), np.arange(len(rows)) < singles
        held_out = singles + rng.permutation(len(rows) - singles)[:test]
        tables = {}
    else:
        contexts = _CONTEXTS if kind == "contexts" else 1
        count = -(-total // contexts)
        traits = rng.normal(size=(count, _TRAITS))
        every = [(c, p) for c in range(contexts) for p in range(count)]
        drawn = [every[i] for i in rng.permutation(len(every))[:total]]
        rows = [(f"c{c}", f"g{p}") for c, p in drawn]
        place, target = np.asarray(drawn).T
        latent, alone = traits[target], np.zeros(total, dtype=np.bool_)
        held_out = np.arange(n, total)
        names = np.asarray([f"g{i}" for i in range(count)])
        noisy = (traits + 0.3 * rng.normal(size=traits.shape)).astype(np.float32)
        tables = {"traits": GeneFeatures("traits", names, noisy)}
    base = (2 * rng.random((place.max() + 1, genes))).astype(np.float32)
    shifts = 0.35 * rng.normal(size=(place.max() + 1, *W.shape)) * (place.max() > 0)
    spread = (_NOISE * rng.uniform(0.6, 1.6, size=(len(rows), 1))).astype(np.float32)
    delta = np.empty((len(rows), genes), dtype=np.float32)
    # In blocks, so that nothing beyond the deltas themselves takes memory.
    for start in range(0, len(rows), 1024):
        at = slice(start, start + 1024)
        for c in np.unique(place[at]):
            mine = start + np.flatnonzero(place[at] == c)
            delta[mine] = np.tanh(latent[mine] @ (W + shifts[c])) @ loadings
        delta[at] += spread[at] * rng.standard_normal(delta[at].shape, dtype=np.float32)
    if kind != "combos":
        # What is perturbed loses half of its expression.
        own = np.flatnonzero(target < genes)
        delta[own, target[own]] -= 0.5 * base[place[own], target[own]]
    train = np.setdiff1d(np.arange(len(rows)), held_out)
    fold = np.where(alone[train], -1, rng.integers(0, _FOLDS, size=len(train)))
    conditions = _table(rows)
    measured = np.asarray([f"g{i}" for i in range(genes)])
    view = TrainView(
        conditions=conditions.iloc[train],
        genes=measured,
        delta=delta[train],
        s2=np.repeat(spread[train] ** 2, genes, axis=1),
        n_cells=np.full(len(train), 100),
        control=base[place[train]],
        inner=[(fold != j, fold == j) for j in range(_FOLDS)],
        unit="condition" if kind == "contexts" else "perturbation",
    )
    query = Query(conditions.iloc[held_out], measured, base[place[held_out]])
    return Screen(view, query, delta[held_out], SideInfo(features=tables))


def _table(rows: list[tuple[str, str]]) -> pd.DataFrame:
    table = conditions_of([(c, p, "CRISPRi") for c, p in rows])
    assert table[schema.PERT_ID].notna().all()
    return table
