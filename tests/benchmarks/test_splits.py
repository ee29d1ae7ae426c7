"""Splits at scale: a by-condition split on 1,000,000 rows with 2,000 conditions."""

import time

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.store.artifacts import ArtifactStore

N_ROWS = 1_000_000
LIMIT_S = 5.0
LIMIT_BYTES = 200_000


def large() -> PerturbDataset:
    """Return 1,000,000 rows of 400 perturbations in 5 contexts with controls; its matrix is never loaded."""
    perts = np.asarray(
        [schema.CONTROL, *(f"P{i}" for i in range(340)), *(f"P{i}+P{i + 1}" for i in range(60))]
    )
    rng = np.random.default_rng(0)
    pert = rng.integers(0, len(perts), N_ROWS)
    context = rng.integers(0, 5, N_ROWS)
    names = np.sort(perts)
    columns = {
        "pert_id": pd.Categorical.from_codes(np.searchsorted(names, perts[pert]), names),
        "context_id": pd.Categorical.from_codes(context, [f"c{i}" for i in range(5)]),
    }

    def matrix() -> Values:
        return Values(expression=sp.csr_array((N_ROWS, 20), dtype=np.float32))

    obs = make_obs(columns, [f"cell{i}" for i in range(N_ROWS)])
    return PerturbDataset(
        obs, [f"g{i}" for i in range(20)], matrix, DatasetMetadata(name="large", content_sha256="a" * 64)
    )


def test_a_split_of_a_million_rows_is_created_and_loaded_in_five_seconds(tmp_path, benchmark):
    ds = large()
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    folder = SplitFolder(store.split_dir)
    spec = SplitSpec(kind="perturbation_ood", folds=5, fold=0)
    # Its content hash would be checked against the matrix, which is another benchmark's.
    ds.__dict__["computed_sha256"] = ds.content_sha256
    seconds = {}

    def run():
        start = time.perf_counter()
        ((split, stats, new),) = freeze_split(store, ds, spec, bounds=False)
        assert new
        seconds["create"] = time.perf_counter() - start
        start = time.perf_counter()
        loaded = folder.load(split.hash)
        assert len(loaded.rows(ds, "test")) == stats.counts["test"]["rows"]
        seconds["load"] = time.perf_counter() - start
        return split

    split = benchmark.pedantic(run, rounds=1, iterations=1)
    size = (store.split_dir / f"{split.hash}.json").stat().st_size
    benchmark.extra_info.update({**seconds, "file_bytes": size, "conditions": len(ds.conditions)})
    print(f"create {seconds['create']:.2f} s, load {seconds['load']:.2f} s, file {size} bytes")
    assert len(ds.conditions) == 2000
    assert size <= LIMIT_BYTES
    assert sum(seconds.values()) <= LIMIT_S


def test_every_kind_is_frozen_within_seconds(benchmark):
    ds = large()
    kinds = {
        "context_ood": {"holdout": ["c0"], "few_shot_frac": 0.1},
        "combo_ood": {"holdout": ["P0+P1"]},
        "context_perturbation_ood": {"contexts": ["c0"], "perturbations": ["P1"]},
        "covariate_transfer": {"test_frac": 0.2},
    }
    _ = ds.conditions

    def run():
        for kind, params in kinds.items():
            freeze(ds, SplitSpec(kind=kind, params=params))

    benchmark.pedantic(run, rounds=1, iterations=1)
    assert benchmark.stats.stats.max <= LIMIT_S * len(kinds)
