"""A screen with ties, zeros and constant vectors, and the scores of its predictions."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.schema import CONTEXT_ID, PERT_ID
from perturbfm_core.splits.split import FrozenSplit
from tests.support.factories import prediction_of, split_one

GENES = 120
PERTS = [f"g{i:03d}" for i in (3, 7, 11, 15, 19, 23)] + ["g003+g007", "drug"]


def quantised(seed: int = 0) -> PerturbDataset:
    """Return cells with few different values: many ties and zeros, genes without counts, a gene of one value."""
    rng = np.random.default_rng(seed)
    labels = [("control", c) for c in ("A", "B") for _ in range(24)]
    labels += [(p, c) for c in ("A", "B") for p in PERTS for _ in range(8)]
    X = rng.integers(0, 3, size=(len(labels), GENES)).astype(np.float32) * 0.5
    for i, (pert, context) in enumerate(labels):
        shift = np.zeros(GENES)
        own = PERTS.index(pert) if pert in PERTS else None
        if own is not None:
            shift[5 * own : 5 * own + 12] = 1.0
            shift[60 + own] = 0.5 * (context == "B")
        X[i] += shift.astype(np.float32)
    X[:, 90:] = 0.0
    X[:, 89] = 1.5
    # This perturbation changes nothing: its cells are those of the controls.
    for context in ("A", "B"):
        controls = [i for i, row in enumerate(labels) if row == ("control", context)]
        still = [i for i, row in enumerate(labels) if row == ("drug", context)]
        X[still] = X[controls[: len(still)]]
        X[controls] = X[np.tile(controls[: len(still)], 3)]
    obs = make_obs(
        {PERT_ID: [p for p, _ in labels], CONTEXT_ID: [c for _, c in labels]},
        [f"r{i}" for i in range(len(labels))],
    )
    names = [f"g{i:03d}" for i in range(GENES)]
    return PerturbDataset(obs, names, Values(expression=X), DatasetMetadata(name="quantised"))


@lru_cache(maxsize=1)
def case() -> tuple[PerturbDataset, FrozenSplit]:
    ds = quantised()
    return ds, split_one(ds, "context_ood", {"holdout": ["B"]})


def predictions(ds: PerturbDataset, split: FrozenSplit) -> dict[str, np.ndarray]:
    """Return a prediction of each condition: with ties, sparse, zero, constant, near constant, and one of the truth."""
    side = observed(ds, split)
    rng = np.random.default_rng(1)
    out = {}
    for i, key in enumerate(side.conditions.index):
        kind = i % 6
        sparse = np.zeros(GENES)
        sparse[rng.choice(90, 9, replace=False)] = 0.5
        out[key] = [
            rng.integers(-2, 3, GENES) * 0.25 * (np.arange(GENES) < 90),
            sparse,
            np.zeros(GENES),
            np.full(GENES, 0.25),
            0.1 + 1e-9 * rng.normal(size=GENES),
            side.observed[i],
        ][kind].astype(np.float32)
    return out


def permuted(ds: PerturbDataset, order: np.ndarray) -> PerturbDataset:
    X = ds.values.expression
    assert X is not None
    return PerturbDataset(ds.obs, ds.genes[order], Values(expression=X[:, order]), ds.metadata)


def table(order: np.ndarray) -> pd.DataFrame:
    """Return the scores of every metric with the columns in an order."""
    ds, split = case()
    means = predictions(ds, split)
    moved = permuted(ds, order)
    moved_split = split_one(moved, "context_ood", {"holdout": ["B"]})
    given = prediction_of(moved, moved_split, {k: m[order] for k, m in means.items()})
    var = (0.1 + 0.1 * (np.arange(GENES) % 3))[order].astype(np.float32)
    given = replace(given, var=np.broadcast_to(var, given.mean.shape).copy())
    scores = evaluate(compare(moved, moved_split, given)).table()
    scores["name"] = scores["panel"] + "." + scores["metric"]
    return scores.set_index(["name", "scope", "key"])


@lru_cache(maxsize=1)
def plain() -> pd.DataFrame:
    return table(np.arange(GENES))


@lru_cache(maxsize=2)
def shuffled(seed: int) -> pd.DataFrame:
    return table(np.random.default_rng(seed).permutation(GENES))
