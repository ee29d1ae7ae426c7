"""A small screen with two splits on which hyperparameters are searched."""

from __future__ import annotations

import numpy as np

from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.tuning.search import tune
from tests.support.factories import grid_rows, screen, with_values

PERTS, CONTEXTS, GENES = (
    ["A", "B", "C", "D", "A+B"],
    ["c0", "c1", "c2", "c3", "c4"],
    ["A", "B", "C", "D", "e", "f"],
)
FOLD = SplitSpec(
    kind="context_ood", params={"holdout": ["c0"]}, validation="fold", calibration="none", val_frac=0.5
)
INNER = SplitSpec(kind="context_ood", params={"holdout": ["c0"]}, validation="inner_cv", calibration="none")


def small_screen():
    """Return a screen with an effect per perturbation and context that regressions find."""
    rng = np.random.default_rng(1)
    rows = grid_rows(PERTS, CONTEXTS, reps=3, controls=100)
    effect = {p: rng.normal(size=len(GENES)) for p in PERTS[:4]}
    effect |= {"A+B": effect["A"] + effect["B"], "control": np.zeros(len(GENES))}
    level = {c: rng.normal(3, 0.5, size=len(GENES)) for c in CONTEXTS}
    scale = dict(zip(CONTEXTS, (1.0, 0.5, 1.5, 1.0, 0.8), strict=True))
    X = [level[c] + scale[c] * effect[p] + rng.normal(scale=0.4, size=len(GENES)) for p, c in rows]
    return screen(rows, X=np.asarray(X), genes=GENES, name="small")


def entry(model="linear", **fields) -> ModelEntry:
    """Return an entry of a model, by default `linear`."""
    return ModelEntry(**{"name": model, "description": "x", "model": model, **fields})


def run(store, split, model="linear", **options):
    """Search three trials of a model on a split."""
    return tune(store, split.hash, entry(model), **{"trials": 3, **options})


def untimed(study):
    """Return all that must not depend on time: number, state, value and parameters of the trials."""
    return [(t.number, t.state, t.value, t.mse, t.params) for t in study.trials]


def params_and_values(study):
    """Return (value, parameters) of each trial."""
    return [(t.value, t.params) for t in study.trials]


def poisoned(ds, rows):
    """Return the data set with other values in some rows."""
    X = np.asarray(
        ds.values.expression.toarray() if hasattr(ds.values.expression, "toarray") else ds.values.expression
    )
    X = X.copy()
    X[rows] = np.random.default_rng(9).uniform(50, 90, size=(len(rows), X.shape[1]))
    return with_values(ds, X)


def forbidden_rows(ds, split):
    """Return test rows, all controls of test contexts, and every reference control."""
    test = split.rows(ds, "test")
    contexts = set(ds.obs["context_id"].astype(str).iloc[test])
    hidden = np.asarray(ds.obs["context_id"].astype(str).isin(contexts)) & ds.is_control
    hidden |= ds.controls.has_role("reference") & ~ds.controls.has_role("input")
    return np.union1d(test, np.flatnonzero(hidden))
