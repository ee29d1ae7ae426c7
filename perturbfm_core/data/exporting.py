"""Export of data sets as AnnData objects that `from_anndata` can read without further options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import OWN_MAPPING, OwnControls
from perturbfm_core.data.imports.mapping import ColumnMapping

if TYPE_CHECKING:
    from anndata import AnnData


def to_anndata(ds: PerturbDataset) -> AnnData:
    """Return a data set as AnnData: counts, else log1p expression, else deltas in ``X``.

    ``obs`` has `schema.OBS_COLUMNS` with a column per covariate; ``layers`` hold ``delta`` and ``X_control`` where the
    data set states them; ``uns["perturbfm"]`` holds the mapping by which `from_anndata` reads the object back, and how
    controls are taken.

    Parameters
    ----------
    ds
        The data set.
    """
    from anndata import AnnData

    values = ds.values
    main: Any = values.counts if values.counts is not None else values.expression
    if main is None:
        main = values.delta
    obs = ds.obs.drop(columns=[schema.COVARIATES])
    parsed = [parse_covariates(text) for text in ds.obs[schema.COVARIATES].astype(str)]
    covariates = sorted({name for row in parsed for name in row})
    for name in covariates:
        obs[name] = pd.Categorical([row.get(name, "") for row in parsed])
    mapping = ColumnMapping(
        pert_col=schema.PERT_ID,
        context_col=schema.CONTEXT_ID,
        batch_col=schema.BATCH_ID,
        control_label=(schema.CONTROL,) if ds.is_control.any() else (),
        dose_col=schema.DOSES if (ds.obs[schema.DOSES].astype(str) != "").any() else None,
        modality_col=schema.MODALITY,
        weight_col=schema.WEIGHT if schema.WEIGHT in ds.obs else None,
        covariate_cols=tuple(covariates),
        # No modality, dose or covariate is written as no text.
        keep_labels=("",),
        space=ds.metadata.space,
        level=ds.metadata.level,
        target_sum=ds.metadata.normalization.target_sum if ds.metadata.normalization else 1e4,
    )
    controls = OwnControls(
        control_policy="sampled" if ds.metadata.control_policy == "sampled" else "mean",
        control_seed=ds.metadata.control_seed,
    )
    adata = AnnData(
        X=main.copy(),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(ds.genes.tolist(), name="gene")),
        uns={
            OWN_MAPPING: {
                "name": ds.name,
                **controls.model_dump(mode="json", exclude_defaults=True),
                **mapping.model_dump(mode="json", exclude_defaults=True),
            }
        },
    )
    for key, X in (("delta", values.delta), ("X_control", values.x_control)):
        if X is not None and X is not main:
            adata.layers[key] = np.array(X)
    return adata
