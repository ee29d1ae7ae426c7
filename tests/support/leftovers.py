"""What a killed process leaves behind: whole runs, and files that were being written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from perturbfm_core import schema
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json


def debris(root: Path) -> list[str]:
    """Return what an interrupted write may leave: temporary files, staging, files being built."""
    found = []
    for path in root.rglob("*"):
        staged = ".staging" in path.parts and path.name != ".staging"
        if staged or path.suffix == ".tmp" or ".building" in path.name or ".old." in path.name:
            found.append(str(path.relative_to(root)))
    return found


def check_runs(store: ArtifactStore) -> None:
    """Assert that every run directory is whole and that every file of it can be read."""
    folders = [p for p in store.runs.iterdir() if p.is_dir() and not p.name.startswith(".")]
    assert sorted(folders) == store.run_dirs()
    for run in folders:
        fitted = read_json(run / "config.json")["family"] != "external"
        own = (schema.MODEL_META_FILE, schema.TRAINING_FILE) if fitted else ()
        for name in ("config.json", "metrics.json", "calibration.json", *own):
            assert read_json(run / name)
        assert not fitted or load_file(run / schema.MODEL_FILE) is not None
        with np.load(run / schema.PREDICTIONS_FILE) as arrays:
            assert np.isfinite(arrays["mean"]).all()
        assert len(pd.read_parquet(run / schema.SCORES_FILE))
        assert (run / schema.REPORT_FILE).read_text().rstrip().endswith("</html>")
