"""Random (i.i.d.) splits of rows, or of conditions for condition-level data: `iid`."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Level
from perturbfm_core.splits.draft import Draft, share, split_kind


class IidParams(Frozen):
    """Parameters of ``iid``."""

    test_frac: float = Field(0.2, description="Share to test.")
    level: Annotated[Level, CommandOption(hidden=True)] = Field("cell", description="Level of the data set.")


def _level(ds: PerturbDataset) -> dict[str, Any]:
    """Return the parameters of `IidParams` that follow from the data set."""
    return {"level": ds.metadata.level}


@split_kind("iid", IidParams, facts=_level)
def iid(conditions: pd.DataFrame, spec: SplitSpec, params: IidParams) -> list[Draft]:
    """Hold out a random ``test_frac`` of the rows; of condition-level data, of the conditions.

    Condition-level data are drawn by condition, so that the replicates of a condition stay in one fold.

    Parameters
    ----------
    conditions
        Condition table [C] of the data set.
    spec
        Split specification: seed.
    params
        Parameters of this kind.

    Raises
    ------
    SplitError
        If folds are requested, or the share is invalid or leaves no condition to train on.
    """
    if spec.folds is not None:
        msg = "iid takes --seed for repeats, not --folds"
        raise SplitError(msg)
    fraction = share(params.test_frac, "test_frac")
    if params.level == "cell":
        return [Draft(test=[], params={"test_frac": fraction}, ood_axes=(), row_fraction=fraction)]
    n = max(1, round(fraction * len(conditions)))
    if n >= len(conditions):
        msg = f"iid cannot hold out {n} of {len(conditions)} conditions; lower test_frac"
        raise SplitError(msg)
    chosen = np.sort(np.random.default_rng(spec.seed).permutation(len(conditions))[:n])
    return [
        Draft(test=conditions.index[chosen].tolist(), params={"test_frac": fraction}, ood_axes=("condition",))
    ]
