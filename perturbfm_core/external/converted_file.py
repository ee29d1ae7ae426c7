"""Converted predictions of a split's test conditions as ``predictions.npz``, one file per control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.npz import publish_npz
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.conversion import Converted
from perturbfm_core.external.refusals import ControlOf
from perturbfm_core.splits.split import FrozenSplit


def variant_path(out: Path, control: ControlOf) -> Path:
    """Return where the variant against another control is written, beside the prediction itself."""
    return out.with_name(f"{out.stem}.{control}_control{out.suffix}")


def write_converted(
    ds: PerturbDataset, split: FrozenSplit, asked: Asked, converted: Converted, out: Path, model: str
) -> list[Path]:
    """Write a converted prediction, and its variant beside it, each by one rename; return the files.

    Parameters
    ----------
    ds, split
        Data and split.
    asked
        The test conditions of the split, in the order of the prediction.
    converted
        The prediction.
    out
        The file; the variant against the other control is named after it.
    model
        Name of the model, which the file states.

    Raises
    ------
    PredictionError
        If other conditions were asked for than the split tests.
    """
    rows = split.rows(ds, "test")
    row = asked.conditions.index.get_indexer(ds.conditions.index[ds.condition_codes[rows]])
    if (row < 0).any():
        msg = f"{int((row < 0).sum())} test rows of split {split.hash[:12]} are of conditions that were not asked for"
        raise PredictionError(msg)
    written = []
    for control, mean in converted.variants.items():
        path = out if control == converted.control else variant_path(out, control)
        arrays: dict[str, Any] = {
            "mean": mean,
            "idx": rows.astype(np.int64),
            "row": row.astype(np.int64),
            "genes": ds.genes,
            "row_id": ds.row_ids[rows],
            "condition": np.asarray([str(k) for k in asked.conditions.index], dtype=np.str_),
            "split_hash": np.asarray(split.hash),
            "data_content_sha256": np.asarray(ds.content_sha256),
            "space": np.asarray(asked.space),
            "kind": np.asarray("delta"),
            "model": np.asarray(model),
            "subtracted_control": np.asarray(control),
        }
        if converted.var is not None:
            arrays["var"] = converted.var
        if converted.missing.any():
            arrays["not_predicted"] = converted.missing
        if converted.warnings:
            arrays["warnings"] = np.asarray(converted.warnings, dtype=np.str_)
        publish_npz(path, arrays)
        written.append(path)
    return written
