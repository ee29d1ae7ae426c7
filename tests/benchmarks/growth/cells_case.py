"""Simulated cells of growing number as h5ad files, written in blocks of rows."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

GENES, SHARE = 2_000, 0.1
_BLOCK = 20_000


def write_cells(
    path: Path, n: int, genes: int = GENES, *, share: float = SHARE, space: str = "counts", seed: int = 0
) -> Path:
    """Write an h5ad file of `n` cells with CSR values, 200 cells per perturbation and 5 % controls.

    Parameters
    ----------
    path
        The file.
    n, genes
        Rows and columns.
    share
        Share of the values that are not zero.
    space
        ``counts``, or ``log1p`` for values without a scale of counts.
    seed
        Seed of everything random.
    """
    from anndata.io import write_elem

    rng = np.random.default_rng(seed)
    per = int(genes * share)
    perts = np.asarray(["control", *(f"P{i:05d}" for i in range(max(n // 200, 5)))])
    codes = np.where(rng.random(n) < 0.05, 0, rng.integers(1, len(perts), size=n))
    codes[: len(perts)] = np.arange(len(perts))
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical.from_codes(codes, perts),
            "cell_type": pd.Categorical.from_codes(rng.integers(0, 2, size=n), ["A", "B"]),
            "batch": pd.Categorical.from_codes(rng.integers(0, 4, size=n), ["1", "2", "3", "4"]),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    step = genes // per
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"G{i}" for i in range(genes)]))
        X = file.create_group("X")
        X.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n, genes)})
        X["indptr"] = np.arange(n + 1, dtype=np.int64) * per
        data = X.create_dataset("data", (n * per,), np.float32)
        indices = X.create_dataset("indices", (n * per,), np.int32)
        for start in range(0, n, _BLOCK):
            rows = min(_BLOCK, n - start)
            # One gene of each stretch of genes, so that the columns of a row are sorted.
            columns = np.arange(per) * step + rng.integers(0, step, size=(rows, per))
            values = rng.geometric(0.35, size=(rows, per)).astype(np.float32)
            if space == "log1p":
                values = np.log1p(values * rng.gamma(2.0, 1.0, size=(rows, per))).astype(np.float32)
            place = slice(start * per, (start + rows) * per)
            data[place], indices[place] = values.ravel(), columns.ravel()
    return path
