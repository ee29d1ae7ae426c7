"""Cases whose cost is measured by size: import with its table, bounds, ridge, splits, panels, the leaderboard, the demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from tests.benchmarks.growth.cells_case import write_cells
from tests.support.command import perturbfm
from tests.support.paths import REPO

# Genes of a genome-scale pseudobulk, and control cells beside it.
GENES, CONTROLS = 8_000, 75_000


def _folder() -> Any:
    return tempfile.TemporaryDirectory(dir=os.environ.get("GROWTH_DIR"))


@contextmanager
def _home() -> Iterator[Path]:
    """Work in a store of its own."""
    with _folder() as folder:
        home = Path(folder)
        os.environ.update(PERTURBFM_HOME=str(home), PERTURBFM_SPLIT_DIR=str(home / "splits"))
        os.chdir(home)
        yield home


# ---- cells -----------------------------------------------------------------------------------------------


def import_with_table(n: int) -> Iterator[None]:
    """Import `n` cells x 2,000 genes (CSR, 10 %), write the artifact, open it and make its condition table."""
    from perturbfm_core.data.artifact import load_dataset, write_dataset
    from perturbfm_core.data.importing import ColumnMapping, import_h5ad
    from perturbfm_core.data.table import condition_table

    with _folder() as folder:
        path = write_cells(Path(folder) / "cells.h5ad", n)
        mapping = ColumnMapping(
            pert_col="condition",
            context_col="cell_type",
            batch_col="batch",
            control_label=("control",),
            space="counts",
        )
        yield
        write_dataset(import_h5ad(path, mapping, name="cells", stream=True), Path(folder) / "data")
        condition_table(load_dataset(Path(folder) / "data"))
        yield


def shard_of_table(n: int) -> Iterator[None]:
    """Sum the second quarter of the rows of an artifact of `n` cells, for a table that is merged of four."""
    from perturbfm_core.data.artifact import load_dataset, write_dataset
    from perturbfm_core.data.importing import ColumnMapping, import_h5ad
    from perturbfm_core.data.table_shards import table_shard, write_shard

    with _folder() as folder:
        path = write_cells(Path(folder) / "cells.h5ad", n)
        mapping = ColumnMapping(
            pert_col="condition", context_col="cell_type", control_label=("control",), space="counts"
        )
        write_dataset(import_h5ad(path, mapping, name="cells", stream=True), Path(folder) / "data")
        yield
        ds = load_dataset(Path(folder) / "data")
        write_shard(Path(folder) / "shard.npz", table_shard(ds, n // 4, n // 2))
        yield


def all_panels(n: int) -> Iterator[None]:
    """Run ``global_mean`` with all panels on `n` cells x 18,533 genes of counts, 12 % stored."""
    with _home() as home:
        path = write_cells(home / "cells.h5ad", n, 18_533, share=0.12)
        columns = ("--pert-col", "condition", "--context-col", "cell_type", "--batch-col", "batch")
        perturbfm(
            *("data", "import", path, "--name", "big", *columns, "--control-label", "control"),
            *("--space", "counts", "--out", "data/big"),
            warns=True,
        )
        path.unlink()
        made = perturbfm(
            *("splits", "create", "--data", "big", "--spec", "perturbation_ood", "--folds", 5, "--fold", 0),
            *("--no-bounds", "--json"),
            warns=True,
        ).json
        yield
        perturbfm("run", "--split", made["split_hash"], "--entry", "global_mean", warns=True)
        yield


# ---- cells of the grid -----------------------------------------------------------------------------------


def demo(n: int) -> Iterator[None]:
    """Run ``make demo``'s job, `n` cells of the grid in one process."""
    with _home() as home:
        shutil.copy(REPO / "dagster.yaml", home)
        shutil.copytree(REPO / "splits", home / "splits")
        yield
        done = subprocess.run(
            [sys.executable, "-m", "perturbfm_assets.demo"], check=True, cwd=home, capture_output=True
        )
        yield
        assert len(list((home / "runs").glob("2*"))) == n, done.stdout[-2000:]


# ---- conditions ------------------------------------------------------------------------------------------


def screen(n: int, genes: int = GENES, controls: int = CONTROLS, per: int = 10) -> PerturbDataset:
    """Return simulated cells: `n` conditions of `per` cells each, 5 % of the values stored.

    Parameters
    ----------
    n, genes, controls, per
        Conditions, genes, control cells, cells per condition.
    """
    rng = np.random.default_rng(0)
    rows, stored = controls + n * per, genes // 20
    perts = np.concatenate([np.zeros(controls, int), 1 + np.repeat(np.arange(n), per)])
    names = np.asarray([schema.CONTROL, *(f"P{i:05d}" for i in range(n))])
    order = np.argsort(names)
    # One gene of each stretch, so that the columns of a row are sorted.
    indices = np.arange(stored) * 20 + rng.integers(0, 20, (rows, stored), dtype=np.int32)
    values = rng.exponential(1, (rows, stored)).astype(np.float32) + np.float32(0.1)
    X = sp.csr_array(
        (values.ravel(), indices.astype(np.int32).ravel(), np.arange(rows + 1) * stored), shape=(rows, genes)
    )
    obs = make_obs(
        {"pert_id": pd.Categorical.from_codes(np.argsort(order)[perts], names[order])},
        [f"cell{i}" for i in range(rows)],
    )
    # The hash of its content is not what is measured.
    metadata = DatasetMetadata(name="large", content_sha256="a" * 64)
    return PerturbDataset(obs, [f"g{i}" for i in range(genes)], lambda: Values(expression=X), metadata)


def _split(ds: PerturbDataset) -> Any:
    from perturbfm_core.catalog.entries import SplitSpec
    from perturbfm_core.splits.freeze import freeze

    (split,) = freeze(ds, SplitSpec(kind="perturbation_ood", folds=5, fold=0))
    return split


def panels(n: int) -> Iterator[None]:
    """Score a prediction of one fold of a screen of `n` conditions x 8,000 genes, two cells each, with all panels."""
    from perturbfm_core.data.prediction import RowPrediction
    from perturbfm_core.evaluation.comparison import compare, observed
    from perturbfm_core.evaluation.panel import PANELS, evaluate

    ds = screen(n, controls=2_000, per=2)
    split = _split(ds)
    truth = observed(ds, split)
    noise = np.random.default_rng(1).normal(size=truth.observed.shape)
    mean = (0.5 * truth.observed + 0.1 * noise).astype(np.float32)
    prediction = RowPrediction(
        mean, np.full_like(mean, 0.05), truth.rows, truth.codes.astype(np.int64), ds.genes, kind="delta"
    )
    yield
    evaluate(compare(ds, split, prediction, truth), sorted(PANELS), level="condition")
    yield


def split_frozen(n: int) -> Iterator[None]:
    """Freeze one fold of a screen of `n` conditions, without bounds."""
    ds = screen(n, genes=200, controls=1_000)
    yield
    _split(ds)


def bounds(n: int) -> Iterator[None]:
    """Compute null floor and split-half ceiling of one fold of a screen of `n` conditions x 8,000 genes."""
    from perturbfm_core.evaluation.ceilings import bounds_of

    ds = screen(n)
    split = _split(ds)
    _ = ds.values
    yield
    bounds_of(ds, split)


def ridge(n: int) -> Iterator[None]:
    """Fit ``ridge`` on the effects of `n` conditions x 8,000 genes."""
    from perturbfm_core.models.base import new_model
    from perturbfm_core.splits.view import TrainView

    rng = np.random.default_rng(0)
    loadings = (rng.normal(size=(30, GENES)) * 0.05).astype(np.float32)
    delta = rng.normal(size=(n, 30)).astype(np.float32) @ loadings
    delta += rng.standard_normal((n, GENES), dtype=np.float32) * np.float32(0.1)
    ids = [f"g{i}" for i in range(n)]
    conditions = pd.DataFrame(
        {"context_id": "c0", "pert_id": ids, "modality": "ko", "doses": "", "covariates": ""},
        index=[f"c0|{i}|ko||" for i in ids],
    )
    fold = rng.integers(0, 5, n)
    view = TrainView(
        conditions=conditions,
        genes=np.asarray([f"g{i}" for i in range(GENES)]),
        delta=delta,
        s2=np.full((n, GENES), 0.01, np.float32),
        n_cells=np.full(n, 100),
        control=np.broadcast_to(rng.random(GENES, dtype=np.float32), (n, GENES)),
        inner=[(fold != k, fold == k) for k in range(5)],
    )
    yield
    new_model("ridge").fit(view, 0)


# ---- runs ------------------------------------------------------------------------------------------------


def leaderboard(n: int) -> Iterator[None]:
    """Make the leaderboard of `n` runs of full size from nothing."""
    from perturbfm_core.leaderboard import database
    from perturbfm_core.store.artifacts import ArtifactStore
    from tests.support.simulated_runs import Grid, Simulator

    with _folder() as folder:
        store = ArtifactStore(Path(folder) / "home", Path(folder) / "splits")
        boards = {24: [1], 300: [5] * 2 + [1] * 3}.get(n, [5] * 3 + [1] * 10)
        grid = Grid(entries=24, seeds=max(-(-n // (24 * sum(boards))), 1), boards=boards)
        simulator = Simulator(store)
        for i, (entry, seed, split) in enumerate(grid.cells[:n]):
            simulator.write(entry, seed, split, created=i)
        yield
        database.rebuild(store, lambda: grid.splits, lambda _: pd.DataFrame({"dataset": ["screen"]}))
        yield


def published(n: int) -> Iterator[None]:
    """Find what publishing one more run needs to know of `n` runs."""
    from perturbfm_core.store.artifacts import ArtifactStore
    from perturbfm_core.store.entry_names import run_of_entry
    from perturbfm_core.store.run_index import add_run, runs_named, runs_of_split
    from tests.support.simulated_runs import Grid, Simulator

    with _folder() as folder:
        store = ArtifactStore(Path(folder) / "home", Path(folder) / "splits")
        grid = Grid(entries=24, seeds=max(-(-n // 600), 1), boards=[5] * 3 + [1] * 10)
        simulator = Simulator(store, n_metrics=1)
        for i, (entry, seed, split) in enumerate(grid.cells[:n]):
            simulator.write(entry, seed, split, created=i)
        split = "f" * 64
        add_run(store, f"20260101-000000_{split[:7]}_new_{'0' * 8}", "new", external=False)
        yield
        for _ in range(100):
            add_run(store, f"20260101-000001_{split[:7]}_new_{'0' * 8}", "new", external=False)
            runs_named(store, f"{split[:7]}_new_{'0' * 8}")
            runs_of_split(store, split)
            run_of_entry(store, "new", external=True)
        yield
