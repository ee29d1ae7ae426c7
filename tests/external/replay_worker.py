"""Worker that gives made-up recordings of any model in place of a training: cells near the control, and a control of its own."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import anndata
import numpy as np

view, out = map(Path, sys.argv[1:3])
request = json.loads((view / "request.json").read_text())
controls = anndata.read_h5ad(view / "query_controls.h5ad")
context = controls.obs["context_id"].astype(str).to_numpy()
G = len(request["genes"])


def effect(gene: str) -> np.ndarray:
    """Return the effect of a perturbation's part, the same whenever it is asked for."""
    rng = np.random.default_rng(zlib.crc32(gene.encode()))
    return rng.normal(0, 0.3, G) * (rng.random(G) < 0.3)


base = {c: np.asarray(controls.X[context == c].mean(axis=0)).ravel() for c in sorted(set(context))}
conditions = request["conditions"]
own = np.stack([base[c["context_id"]] * 0.98 + 0.01 for c in conditions])
change = np.stack([np.sum([effect(g) for g in c["genes"] or [c["pert_id"]]], axis=0) for c in conditions])
np.savez(
    out / "raw.npz",
    mean=np.maximum(own + change, 0).astype(np.float32),
    control=own.astype(np.float32),
    key=np.asarray([c["key"] for c in conditions]),
    genes=np.asarray(request["genes"]),
    n_cells=np.full(len(conditions), 100),
)
about = {"format": 1, "kind": "expression", "space": "log1p", "level": "cell", "control": "own"}
about |= {"versions": {"numpy": np.__version__}, "seconds": 0.1, "skipped": [], "notes": ["a recording"]}
(out / "raw.json").write_text(json.dumps(about))
