"""The easy floor: rows (or whole conditions of condition-level data) at random."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perturbfm_core.config import SplitSpec
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import KINDS, Draft, share, take_params


@KINDS.register("iid")
def iid(conditions: pd.DataFrame, spec: SplitSpec) -> list[Draft]:
    """Hold out a random ``test_frac`` of the rows; of condition-level data, of the conditions.

    Replicates of a condition stay in one fold, since condition-level rows are drawn by condition.
    """
    params = take_params(spec, {"test_frac": 0.2, "level": "cell"})
    if spec.folds is not None:
        msg = "iid takes --seed for repeats, not --folds"
        raise SplitError(msg)
    fraction = share(params, "test_frac")
    if params["level"] == "cell":
        return [Draft(test=[], params={"test_frac": fraction}, ood_axes=(), row_fraction=fraction)]
    n = max(1, round(fraction * len(conditions)))
    if n >= len(conditions):
        msg = f"iid cannot hold out {n} of {len(conditions)} conditions; lower test_frac"
        raise SplitError(msg)
    chosen = np.sort(np.random.default_rng(spec.seed).permutation(len(conditions))[:n])
    return [
        Draft(test=conditions.index[chosen].tolist(), params={"test_frac": fraction}, ood_axes=("condition",))
    ]
