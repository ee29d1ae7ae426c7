"""A screen with planted effects, and PerturBench's networks fitted to it."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.models.base import Model, new_model
from perturbfm_core.splits.view import Query, TrainView, train_view
from tests.support.factories import grid_rows, query_of, screen, split_one

NETWORKS = ["linear_additive", "latent_additive", "decoder_only"]
every_network = pytest.mark.parametrize("name", NETWORKS)

GENES = 10
SINGLES = [f"p{i}" for i in range(6)]
PAIRS = ["p0+p1", "p2+p3", "p4+p5", "p1+p2"]
EFFECT = np.random.default_rng(5).normal(0, 0.8, size=(6, GENES)) * (
    np.random.default_rng(6).random((6, GENES)) < 0.5
)
BASE = {"x": np.linspace(2.0, 4.0, GENES), "y": np.linspace(4.5, 2.5, GENES)}
SHORT = {"epochs": 25, "lr": 1e-2, "patience": 25}


def planted(perturbation: str) -> np.ndarray:
    """Return the sum of the effects of the parts."""
    return sum((EFFECT[SINGLES.index(p)] for p in perturbation.split("+")), np.zeros(GENES))


@cache
def world() -> tuple[PerturbDataset, TrainView]:
    """Return cells of two contexts with planted additive effects, and the train view without the last pair."""
    rng = np.random.default_rng(0)
    rows = grid_rows([*SINGLES, *PAIRS], ["x", "y"], reps=15, controls=110)
    mean = [BASE[c] + (0 if p == schema.CONTROL else planted(p)) for p, c in rows]
    X = np.maximum(np.asarray(mean) + rng.normal(0, 0.3, size=(len(rows), GENES)), 0)
    ds = screen(rows, X=X, genes=GENES)
    table = {"train": list(ds.conditions.index[~(ds.conditions[schema.PERT_ID] == PAIRS[-1]).to_numpy()])}
    table["test"] = [k for k in ds.conditions.index if k not in table["train"]]
    split = split_one(ds, "explicit", {"folds": table}, validation="inner_cv")
    return ds, train_view(ds, split)


@cache
def _fitted(name: str) -> Model:
    model = new_model(name, SHORT)
    model.fit(world()[1], 1)
    return model


def fitted(name: str) -> Model:
    """Return a private copy of a network that is fitted once."""
    return copy.deepcopy(_fitted(name))


def asked(*rows: tuple[str, ...], shift: float = 0.0) -> Query:
    """Return conditions (context, perturbation, ...) with the base of their context as control."""
    control = [BASE.get(r[0], BASE["x"]) + shift for r in rows]
    return query_of(rows, GENES, control=control)


def expression(model: Model, query: Query) -> np.ndarray:
    """Return the predicted expression."""
    assert query.control is not None
    return model.predict(query).mean + query.control
