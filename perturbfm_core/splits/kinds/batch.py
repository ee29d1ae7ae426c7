"""Unseen batches, donors or replicates: the same conditions, measured another time."""

from __future__ import annotations

import pandas as pd

from perturbfm_core.config import SplitSpec
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import KINDS, Draft, must_be_known, partition, take_params, wanted_folds


@KINDS.register("batch_ood")
def batch_ood(conditions: pd.DataFrame, spec: SplitSpec) -> list[Draft]:
    """Hold out the rows of named batches (``holdout``), or partition the batches into k folds.

    A batch is whatever the data set has as ``batch_id``: a plate, a donor, a replicate. Conditions may be in
    train too, in another batch; the rows of one batch stay together. Control rows of held-out batches are not
    read in fitting.
    """
    # Freezing adds the level and the names of the batches that have perturbed rows.
    params = take_params(spec, {"holdout": [], "known": [], "level": "cell"})
    if params["level"] != "cell":
        msg = "batch_ood needs cells: the replicates of a condition-level data set stay in one fold; use another kind"
        raise SplitError(msg)
    batches = [str(b) for b in params["known"]]
    if len(batches) < 2:
        msg = f"batch_ood needs at least 2 batches with perturbed rows, found {batches}; import with --batch-col"
        raise SplitError(msg)
    if spec.folds is None:
        holdout = sorted({str(b) for b in params["holdout"]})
        if not holdout:
            msg = f"batch_ood needs --holdout-batch or --folds; batches: {', '.join(batches[:12])}"
            raise SplitError(msg)
        must_be_known(holdout, batches, "batch")
        parts, wanted = [holdout], [0]
    else:
        if params["holdout"]:
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
