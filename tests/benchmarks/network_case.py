"""Simulated fits at full size: 237 conditions x 5,000 genes with three graphs, and 91,000 cells x 5,000 genes.

python -m tests.benchmarks.network_case      # makes the cells and fits v2 on them
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.condition import keys_of
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import new_model
from perturbfm_core.progress import EpochReport
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.view import TrainView, train_view

REPO = Path(__file__).resolve().parents[2]
GENES, SINGLES, DOUBLES = 5000, 107, 130
DEGREE = 20
N_CELLS, DENSITY = 91_000, 0.1
# Epochs that are not timed.
WARM = 3
GRAPHS = ("g0", "g1", "g2")


def gene_names() -> np.ndarray:
    """Return the gene ids."""
    return np.asarray([f"G{i:04d}" for i in range(GENES)])


def knowledge() -> SideInfo:
    """Return three random undirected graphs of about 40 neighbours."""
    graphs = {}
    for k, name in enumerate(GRAPHS):
        A = sp.random_array(
            (GENES, GENES), density=DEGREE / GENES, rng=np.random.default_rng(k), format="csr"
        )
        graphs[name] = GeneGraph(name, gene_names(), A + A.T)
    return SideInfo(graphs=graphs)


def perturbations() -> list[str]:
    """Return 107 singles and 130 doubles of them."""
    rng = np.random.default_rng(0)
    singles = [str(g) for g in rng.choice(gene_names(), SINGLES, replace=False)]
    doubles = sorted({"+".join(sorted(rng.choice(singles, 2, replace=False))) for _ in range(300)})[:DOUBLES]
    return singles + doubles


def conditions(names: list[str]) -> pd.DataFrame:
    """Return a condition table of one context."""
    table = pd.DataFrame(
        {"context_id": "x", "pert_id": names, "modality": "CRISPRa", "doses": "", "covariates": ""}
    )
    table.index = pd.Index(keys_of(table), name="condition")
    return table


class Stamps:
    """Time at the end of every epoch, by phase.

    Parameters
    ----------
    clock
        Function that returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.by_phase: dict[str, list[float]] = {}

    def __call__(self, report: EpochReport) -> None:
        self.by_phase.setdefault(report.phase, []).append(self.clock())

    def per_epoch(self, phase: str) -> float:
        """Return the median seconds of an epoch, the first few left out."""
        return float(np.median(np.diff(self.by_phase[phase])[WARM:]))


def condition_view(more: int = 0) -> TrainView:
    """Return 237 conditions, and so many more doubles, of rank 30 with noise, inner folds over the doubles."""
    rng = np.random.default_rng(1)
    names = perturbations()
    singles, n = names[:SINGLES], len(names) + more
    while len(names) < n:
        drawn = ["+".join(sorted(rng.choice(singles, 2, replace=False))) for _ in range(n - len(names))]
        names = list(dict.fromkeys([*names, *drawn]))
    Y = 0.1 * (rng.normal(size=(n, 30)) @ rng.normal(size=(30, GENES)) + rng.normal(size=(n, GENES)))
    fold = np.full(n, -1)
    fold[SINGLES:] = np.arange(n - SINGLES) % 5
    return TrainView(
        conditions(names),
        gene_names(),
        Y.astype(np.float32),
        np.full(Y.shape, 0.01, dtype=np.float32),
        np.full(n, 100),
        np.tile(rng.random(GENES).astype(np.float32), (n, 1)),
        [(fold != j, fold == j) for j in range(5)],
        "combo",
    )


def cells() -> PerturbDataset:
    """Return 91,000 cells x 5,000 genes in CSR, a tenth of it non-zero, 237 conditions and controls."""
    rng = np.random.default_rng(2)
    names = [schema.CONTROL, *perturbations()]
    pert = np.where(rng.random(N_CELLS) < 0.1, 0, rng.integers(1, len(names), N_CELLS))
    per_cell = int(GENES * DENSITY)
    # One gene of each stretch of ten: sorted columns without sorting.
    stretch = GENES // per_cell
    columns = (np.arange(per_cell) * stretch).astype(np.int32)
    indices = (columns[None] + rng.integers(0, stretch, (N_CELLS, per_cell), dtype=np.int32)).ravel()
    data = rng.random(N_CELLS * per_cell, dtype=np.float32)
    X = sp.csr_array(
        (data, indices, np.arange(N_CELLS + 1, dtype=np.int64) * per_cell), shape=(N_CELLS, GENES)
    )
    columns_of = {"pert_id": np.asarray(names)[pert].tolist(), "context_id": ["x"] * N_CELLS}
    return PerturbDataset(
        make_obs(columns_of, [f"cell{i}" for i in range(N_CELLS)]),
        gene_names().tolist(),
        Values(expression=X),
        DatasetMetadata(name="large"),
    )


def fit_cells() -> None:
    """Fit v2 with three graphs on the train cells of unseen combinations."""
    ds = cells()
    spec = SplitSpec(kind="combo_ood", folds=5, fold=0, validation="inner_cv", calibration="inner_cv")
    (split,) = freeze(ds, spec)
    model = new_model("perturbfm-v2", {"adjacency": GRAPHS, "gate": "on", "epochs": 20})
    model.side_info = knowledge()
    model.fit(train_view(ds, split), 0)


if __name__ == "__main__":
    fit_cells()
