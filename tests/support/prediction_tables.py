"""Tables of predictions for `perturbfm submit`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.folder import SplitFolder


def keys_of(work) -> list[str]:
    split = SplitFolder(work.path / "splits").load(work.split)
    return sorted(split.definition.folds.table["test"])


def table_of(work, scale: float = 1.0, seed: int = 0, data: str = "D") -> pd.DataFrame:
    """Return random deltas, a row per test condition."""
    keys, genes = keys_of(work), open_dataset(work.path / data).genes
    values = np.random.default_rng(seed).normal(0, scale, (len(keys), len(genes)))
    return pd.DataFrame(values, index=pd.Index(keys, name="condition"), columns=genes)


def line(work, file, entry="mine", *options):
    return ["submit", file, "--data", "D", "--split", work.split, "--entry", entry, *options]
