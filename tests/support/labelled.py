"""Small screens with labels as files have them, and what an import made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import from_anndata

GENES = [f"G{i}" for i in range(8)]


def cells(labels: Sequence[Any], genes: Sequence[str] = tuple(GENES), **obs: Any) -> anndata.AnnData:
    """Return four cells per label, in two cell lines."""
    each = [x for x in labels for _ in range(4)]
    rng = np.random.default_rng(0)
    table = {"pert": each, "line": ["a", "a", "b", "b"] * len(labels)}
    table |= {k: [x for x in v for _ in range(4)] for k, v in obs.items()}
    X = rng.poisson(3.0, (len(each), len(genes))).astype(np.float32)
    names = [f"r{i}" for i in range(len(each))]
    return anndata.AnnData(X, pd.DataFrame(table, index=names), pd.DataFrame(index=list(genes)))


def read(adata: anndata.AnnData, **mapping: Any) -> PerturbDataset:
    given = {
        "pert_col": "pert",
        "context_col": "line",
        "control_label": "control",
        "space": "counts",
        **mapping,
    }
    return from_anndata(adata, **given)


def perts(ds: PerturbDataset) -> list[str]:
    return sorted(set(ds.conditions[schema.PERT_ID].astype(str)))


def report(ds: PerturbDataset) -> dict[str, Any]:
    return ds.metadata.notes["import_report"]


def warned(ds: PerturbDataset, text: str) -> bool:
    return any(text in w for w in report(ds)["warnings"])
