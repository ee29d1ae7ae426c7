"""Small tables of counts, and what the report of their import says."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import from_anndata

GENES = [f"G{i}" for i in range(30)]
PERTS = ["control", "G1", "G2", "G3", "G4"]


def counts(n: int = 10, genes: list[str] = GENES, perts: list[str] = PERTS, seed: int = 0) -> anndata.AnnData:
    """Return counts of `n` cells per perturbation, in one cell line."""
    rng = np.random.default_rng(seed)
    labels = [p for p in perts for _ in range(n)]
    mean = rng.gamma(2.0, 3.0, len(genes))
    X = rng.poisson(mean * rng.gamma(10, 0.1, (len(labels), 1))).astype(np.float32)
    obs = pd.DataFrame({"pert": labels, "line": "K562"}, index=[f"r{i}" for i in range(len(labels))])
    return anndata.AnnData(X, obs, pd.DataFrame(index=genes))


def read(adata: anndata.AnnData, **mapping: Any) -> PerturbDataset:
    given = {
        "pert_col": "pert",
        "context_col": "line",
        "control_label": "control",
        "space": "counts",
        **mapping,
    }
    return from_anndata(adata, **given)


def report(ds: PerturbDataset) -> dict[str, Any]:
    return ds.metadata.notes["import_report"]


def warnings(ds: PerturbDataset) -> str:
    return "\n".join(report(ds)["warnings"])
