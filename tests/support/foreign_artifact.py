"""Tables and matrices of a data set that another program wrote, and edits of its arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

OBS: dict[str, list[Any]] = {
    "pert_id": ["DMSO", "B+A", "A"],
    "context_id": ["K562", "K562", "K562"],
    "batch_id": ["b1", "b1", "b2"],
    "is_control": [True, False, False],
}
GENES = ["g1", "g2"]
CONTROL = np.array([[1.0, 2.0], [1.5, 2.0], [1.0, 0.5]], dtype=np.float32)
DELTA = np.array([[0.0, 0.0], [0.5, -1.0], [-1.0, 2.0]], dtype=np.float32)


def edit_npz(path: Path, **changed: Any) -> None:
    """Replace arrays of an npz file; None leaves one out."""
    with np.load(path) as archive:
        arrays = dict(archive) | changed
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
