"""Export of data sets as AnnData objects that `from_anndata` can read without further options."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.anndata_object import STATED
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.imports.labels import MISSING
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.own_fields import DEPTH, GUIDE_NOTES, OWN_MAPPING, OwnFields

if TYPE_CHECKING:
    from anndata import AnnData


def _kept(obs: pd.DataFrame) -> tuple[str, ...]:
    """Return the texts of a row table that are labels although an import would ask what they mean."""
    texts = {
        str(x)
        for c in obs
        if isinstance(obs[c].dtype, pd.CategoricalDtype)
        for x in obs[c].cat.categories
        if str(x) in MISSING or (str(x).casefold() == schema.CONTROL and str(x) != schema.CONTROL)
    }
    # No modality, dose or covariate is written as no text.
    return tuple(sorted(texts | {""}))


def _accepted(ds: PerturbDataset) -> tuple[str, ...]:
    columns = ds.metadata.notes.get("columns")
    return tuple(columns.get("accept") or ()) if isinstance(columns, dict) else ()


def to_anndata(ds: PerturbDataset) -> AnnData:
    """Return a data set as AnnData: counts, else log1p expression, else deltas in ``X``.

    ``obs`` has `schema.OBS_COLUMNS`, a name that a covariate has with ``_`` behind it, a column per covariate, and beside
    counts the depth of cells (``total_counts``), by which a selection of genes is noticed;
    ``layers`` hold ``delta`` and ``X_control`` where the data set states them; ``uns["perturbfm"]`` holds the mapping by
    which `from_anndata` reads the object back, and `read_h5ad` its file, where data are from, how controls are taken, and which names are guides.

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
    # Covariates are known by the names of their columns, so that a column of the data set gives way.
    own = {
        c: c + "_" * next(n for n in range(len(covariates) + 1) if c + "_" * n not in covariates)
        for c in (*obs, DEPTH)
    }
    obs = obs.rename(columns=own)
    if values.counts is not None:
        # By which an object or file of some of the genes is known: its cells would be normalised to another depth.
        obs[own[DEPTH]] = np.asarray(values.counts.sum(axis=1, dtype=np.int64)).reshape(-1)
    for name in covariates:
        obs[name] = pd.Categorical([row.get(name, "") for row in parsed])
    mapping = ColumnMapping(
        pert_col=own[schema.PERT_ID],
        context_col=own[schema.CONTEXT_ID],
        batch_col=own[schema.BATCH_ID],
        control_label=(schema.CONTROL,) if ds.is_control.any() else (),
        dose_col=own[schema.DOSES] if (ds.obs[schema.DOSES].astype(str) != "").any() else None,
        modality_col=own[schema.MODALITY],
        weight_col=own.get(schema.WEIGHT),
        covariate_cols=tuple(covariates),
        # Guides that the import took as their gene are that gene by now; others were kept apart.
        guides="separate",
        keep_labels=_kept(obs),
        accept=_accepted(ds),
        space=ds.metadata.space,
        level=ds.metadata.level,
        target_sum=ds.metadata.normalization.target_sum if ds.metadata.normalization else 1e4,
    )
    policy = ds.metadata.control_policy
    notes = {k: ds.metadata.notes[k] for k in GUIDE_NOTES if ds.metadata.notes.get(k)}
    beside = OwnFields(
        source=ds.metadata.source,
        licence=ds.metadata.licence,
        gene_selection=ds.metadata.gene_selection,
        control_policy="mean" if policy == "none" else policy,
        control_seed=ds.metadata.control_seed,
        guide_notes=json.dumps(notes) if notes else "",
        depth_col=own[DEPTH] if values.counts is not None else "",
    )
    adata = AnnData(
        X=main.copy(),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(ds.genes.tolist(), name="gene")),
        uns={
            OWN_MAPPING: {
                "name": ds.name,
                **beside.model_dump(mode="json", exclude_defaults=True),
                **mapping.model_dump(mode="json", exclude_defaults=True),
            }
        },
    )
    for key, field in STATED.items():
        X = getattr(values, field)
        if X is not None and X is not main:
            adata.layers[key] = np.array(X)
    return adata
