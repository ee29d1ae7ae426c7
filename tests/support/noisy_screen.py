"""A screen whose effects are known up to noise, for tests of ceilings and floors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.splits.split import FrozenSplit
from tests.support.factories import grid_rows, screen, split_one

PERTS = ["g0", "g1", "P2", "P3", "P4", "P5"]
GENES = 40


def noisy(
    *, effect: float, controls: int, reps: int = 24, contexts: Sequence[str] = "xyz", **metadata: Any
) -> PerturbDataset:
    """Return cells: noise of deviation 1 around 5, plus an effect of each perturbation."""
    rows = grid_rows(PERTS, contexts, reps=reps, controls=controls)
    rng = np.random.default_rng(0)
    effects = {p: effect * rng.normal(size=GENES) for p in PERTS}
    X = 5 + rng.normal(size=(len(rows), GENES)) + np.stack([effects.get(p, np.zeros(GENES)) for p, _ in rows])
    return screen(rows, X=np.maximum(X, 0), genes=GENES, **metadata)


def held_out(ds: PerturbDataset) -> FrozenSplit:
    """Return the split that tests two perturbations in the contexts that train has, and so with its controls."""
    return split_one(ds, "perturbation_ood", {"holdout": ["g0", "g1"]})
