"""Import and simulation at the sizes that the project promises.

Targets: import of 50,000 x 2,000 (10 % dense) with its condition table in 15 s and 1.5 GB on 2 cores;
simulation of 200,000 x 5,000 within 4 GB.
"""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp


@pytest.fixture(scope="module")
def large_h5ad(tmp_path_factory):
    n, g = 50_000, 2_000
    rng = np.random.default_rng(0)
    nnz = n * g // 10
    columns = np.concatenate([np.sort(rng.choice(g, size=g // 10, replace=False)) for _ in range(n)])
    data = np.log1p(rng.gamma(2.0, 1.0, size=nnz)).astype(np.float32)
    X = sp.csr_matrix((data, columns.astype(np.int32), np.arange(0, nnz + 1, g // 10)), shape=(n, g))
    perts = np.asarray(["control"] * 5 + [f"P{i}" for i in range(100)])
    obs = pd.DataFrame(
        {
            "condition": perts[rng.integers(0, len(perts), size=n)],
            "cell_type": rng.choice(["A", "B", "C", "D"], size=n),
            "batch": rng.choice(["1", "2"], size=n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    path = tmp_path_factory.mktemp("h5ad") / "large.h5ad"
    anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)])).write_h5ad(path)
    return path


def test_import_50k_2k(record, large_h5ad, tmp_path):
    columns = ["--pert-col", "condition", "--context-col", "cell_type", "--batch-col", "batch"]
    out = tmp_path / "out"
    record("data", "import", large_h5ad, "--out", out, *columns, "--control-label", "control")
    assert (out / "meta.json").is_file()


def test_simulate_200k_5k(record, tmp_path):
    size = ["--n-obs", 200_000, "--n-genes", 5_000, "--n-contexts", 4, "--n-perts", 100]
    record("data", "make-synth", "--out", tmp_path / "out", *size, "--storage", "zarr")
    assert (tmp_path / "out" / "meta.json").is_file()
