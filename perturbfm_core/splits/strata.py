"""Strata of test conditions, by which scores are broken down."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.splits.split import FrozenSplit


def strata_of(ds: PerturbDataset, frozen: FrozenSplit) -> dict[str, dict[str, str]]:
    """Return {stratum: {test condition key: value}}.

    ``seen``: how many of a combination's singles train has (0, 1, 2, ...), for combinations only.
    """
    fit = ds.conditions.iloc[np.unique(ds.condition_codes[frozen.rows(ds, *frozen.fit_folds)])]
    singles = {p for p in fit[schema.PERT_ID].astype(str) if len(pert_genes(p)) == 1}
    test = ds.conditions.iloc[np.unique(ds.condition_codes[frozen.rows(ds, "test")])]
    seen = {
        str(key): str(sum(g in singles for g in pert_genes(pert)))
        for key, pert in zip(test.index, test[schema.PERT_ID].astype(str), strict=True)
        if len(pert_genes(pert)) > 1
    }
    return {"seen": seen} if seen else {}
