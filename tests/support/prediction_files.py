"""A screen with predictions of its own, and the forms of file that a user may write them in."""

from __future__ import annotations

import anndata
import pandas as pd

GENES = [f"G{i}" for i in range(40)]


def of(metrics, name):
    panel, metric = name.split(".")
    return metrics[panel]["global"][metric]


def adata(X, obs, **more):
    return anndata.AnnData(
        X, obs=pd.DataFrame(obs).set_index(pd.Index([f"p{i}" for i in range(X.shape[0])])), **more
    )


def perts(s):
    return [k.split("|")[1] for k in s.keys], [k.split("|")[0] for k in s.keys]
