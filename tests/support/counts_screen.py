"""A small screen of counts whose perturbations have a shared and an own effect, as an AnnData object or a data set."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata, Normalization
from perturbfm_core.data.obs import make_obs

N_GENES = 80
GENES = tuple(f"GENE{i:03d}" for i in range(N_GENES))


def counts_screen(
    perts: Sequence[str] = GENES[10:18],
    contexts: Sequence[str] = ("A549",),
    *,
    cells: int = 30,
    controls: int = 110,
    control: str = "non-targeting",
    seed: int = 0,
) -> anndata.AnnData:
    """Return cells of every perturbation in every context, with obs columns ``target`` and ``line``."""
    rng = np.random.default_rng(seed)
    shared = np.exp(rng.normal(0, 0.4, N_GENES) * (rng.random(N_GENES) < 0.4))
    own = {p: np.exp(rng.normal(0, 0.7, N_GENES) * (rng.random(N_GENES) < 0.4)) for p in perts}
    rows, X = [], []
    for context in contexts:
        base = rng.gamma(1.5, 6.0, N_GENES)
        for pert in (control, *perts):
            n = controls if pert == control else cells
            mean = base if pert == control else base * shared * own[pert]
            if pert in GENES:
                mean = np.where(np.asarray(GENES) == pert, 0.3 * mean, mean)
            X.append(rng.poisson(mean * rng.gamma(10, 0.1, (n, 1))))
            rows += [(pert, context)] * n
    obs = pd.DataFrame(rows, columns=["target", "line"], index=[f"cell{i}" for i in range(len(rows))])
    return anndata.AnnData(
        sp.csr_matrix(np.vstack(X).astype(np.float32)), obs=obs, var=pd.DataFrame(index=list(GENES))
    )


def counts_dataset(screen: anndata.AnnData, control: str = "non-targeting") -> PerturbDataset:
    """Return the screen as a data set in memory."""
    target = screen.obs["target"].astype(str)
    columns = {
        "pert_id": target.where(target != control, "control").tolist(),
        "context_id": screen.obs["line"].astype(str).tolist(),
    }
    return PerturbDataset(
        make_obs(columns, list(screen.obs_names)),
        list(screen.var_names),
        Values(counts=sp.csr_array(screen.X).astype(np.int32)),
        DatasetMetadata(name="counts-screen", space="counts", normalization=Normalization()),
    )
