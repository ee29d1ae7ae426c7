"""A screen from Python, step by step: `python docs/python_api.py` runs it in the current folder.

Read it as a notebook: every block stands for a cell.
"""

# %% A data set: from an h5ad file, an AnnData object, or the simulator.
import numpy as np

import perturbfm_core as pfm
from perturbfm_core.data.simulate import SimulationConfig, simulate

simulated, truth = simulate(SimulationConfig(name="screen", n_obs=900, n_genes=60, n_perts=8, n_combos=4))
adata = simulated.to_anndata()
print(adata)

ds = pfm.from_anndata(
    adata,
    name="screen",
    pert_col="pert_id",
    context_col="context_id",
    control_label="control",
    space="counts",
)
print(ds)

# Tables of a data set are read-only: a split is bound to their content.
print(ds.obs.head())
print(ds.conditions.head())

# %% A split: frozen, audited for leaks, found again by the same request.
split = pfm.freeze(ds, "perturbation_ood", folds=4, fold=0)
print(split.hash[:12], split.definition.kind)
test = sorted(split.definition.folds.table["test"])

# %% Runs: fitted, predicted, scored and published.
ridge = pfm.run(ds, split, "ridge")
print(ridge)
print(pfm.run(ds, split, "global_mean"))
stiff = pfm.run(ds, split, "ridge", alphas=[1000.0], name="stiff_ridge")
print(ridge.metrics["delta"]["global"]["pearson"], stiff.metrics["delta"]["global"]["pearson"])
print(ridge.scores.query("panel == 'delta' and metric == 'pearson' and scope == 'condition'").head())

# %% Any prediction of yours: a data frame of deltas, one row per test condition.
import pandas as pd  # noqa: E402

mine = pd.DataFrame(np.zeros((len(test), ds.n_genes)), index=test, columns=ds.genes)
scores = pfm.score(ds, split, mine)
print(scores.metrics["delta"]["global"]["rmse"], scores.flags, scores.warnings)

# %% The leaderboard, as a data frame.
print(pfm.leaderboard("delta.pearson_centered")[["board", "rank", "entry", "value", "ci_low", "ci_high"]])
