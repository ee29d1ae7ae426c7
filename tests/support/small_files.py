"""Four cells of three genes in every scale, and how a file of them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import ColumnMapping, import_h5ad

COUNTS = np.array([[1, 3, 0], [0, 2, 2], [5, 0, 0], [4, 4, 8]], dtype=np.float32)
LOG1P = np.array([[0.5, 1.5, 0.0], [0.0, 2.0, 0.25], [1.0, 0.0, 0.0], [0.1, 0.2, 0.3]], dtype=np.float32)
SIGNED = LOG1P - np.float32(0.5)
MATRICES = {"counts": COUNTS, "log1p": LOG1P, "delta": SIGNED, "zscore": SIGNED * 4}
PERTS = ["ctrl", "A", "B+A", "ctrl"]
OBS = {"pert": PERTS, "cell": ["x", "x", "x", "x"]}
MAPPING: dict[str, Any] = {"pert_col": "pert", "context_col": "cell", "control_label": "ctrl"}


def read(path: Path, **changed: Any) -> PerturbDataset:
    return import_h5ad(path, ColumnMapping(**{**MAPPING, **changed}), name="imported")
