"""Splits with unseen batches, donors or replicates: `batch_ood`."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Level
from perturbfm_core.splits.draft import Draft, Names, must_be_known, partition, split_kind, wanted_folds


class BatchParams(Frozen):
    """Parameters of ``batch_ood``."""

    holdout: Annotated[Names, CommandOption("--holdout-batch")] = Field(
        (), description="Batch (donor, replicate) to hold out."
    )
    known: Annotated[Names, CommandOption(hidden=True)] = Field(
        (), description="Batches that have perturbed rows."
    )
    level: Annotated[Level, CommandOption(hidden=True)] = Field("cell", description="Level of the data set.")


def _batches(ds: PerturbDataset) -> dict[str, Any]:
    """Return the parameters of `BatchParams` that follow from the rows of a data set."""
    treated = ds.obs.loc[ds.condition_codes >= 0, schema.BATCH_ID]
    return {"level": ds.metadata.level, "known": sorted(str(b) for b in treated.unique())}


@split_kind("batch_ood", BatchParams, facts=_batches)
def batch_ood(conditions: pd.DataFrame, spec: SplitSpec, params: BatchParams) -> list[Draft]:
    """Hold out the rows of named batches (``holdout``), or partition the batches into k folds.

    A batch is any value of ``batch_id``: a plate, a donor, a replicate. All rows of a batch are in one fold;
    the same condition may be in train in another batch. Models may not read control rows of held-out batches,
    but a training batch without control rows is matched to all other controls of its context.

    Parameters
    ----------
    conditions
        Condition table [C] of the data set.
    spec
        Split specification: seed and number of folds.
    params
        Parameters of this kind.

    Raises
    ------
    SplitError
        If the data are not single cells, have fewer than two batches, or nothing or everything is held out.
    """
    if params.level != "cell":
        msg = "batch_ood needs cells: the replicates of a condition-level data set stay in one fold; use another kind"
        raise SplitError(msg)
    batches = list(params.known)
    if len(batches) < 2:
        msg = f"batch_ood needs at least 2 batches with perturbed rows, found {batches}; import with --batch-col"
        raise SplitError(msg)
    if spec.folds is None:
        holdout = sorted(set(params.holdout))
        if not holdout:
            msg = f"batch_ood needs --holdout-batch or --folds; batches: {', '.join(batches[:12])}"
            raise SplitError(msg)
        must_be_known(holdout, batches, "batch")
        parts, wanted = [holdout], [0]
    else:
        if params.holdout:
            msg = "give either --holdout-batch or --folds, not both"
            raise SplitError(msg)
        parts, wanted = partition(batches, spec.folds, spec.seed, "batches"), wanted_folds(spec)
    if len(parts[0]) == len(batches):
        msg = f"holding out {', '.join(parts[0])} leaves no batch to train on; hold out fewer"
        raise SplitError(msg)
    return [
        Draft(
            test=[],
            batches=tuple(parts[f]),
            params={"holdout": parts[f]},
            ood_axes=("batch",),
            fold=f if spec.folds else None,
            k=spec.folds,
        )
        for f in wanted
    ]
