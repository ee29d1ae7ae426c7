"""A screen with 12 conditions asked of a model, and raw output of its conditions in any form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.table import condition_table
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.raw import Raw
from perturbfm_core.splits.view import Query

# Gene ids of the simulated screen are G00, G01, ...; conditions are keys such as C0|G10+G33|CRISPRa||.
ASKED = 12


def control_by_hand(ds: PerturbDataset, contexts: list[str]) -> np.ndarray:
    """Return the mean of the input control cells of each context [C, G], of a screen without batches."""
    cells = ds.expression.toarray().astype(np.float64)
    mine = ds.obs["context_id"].astype(str).to_numpy()
    role = ds.controls.has_role("input")
    return np.stack([cells[role & (mine == c)].mean(axis=0) for c in contexts])


class Model:
    """Answers of a model: expression that changes each condition's control by a random effect."""

    def __init__(self, ds: PerturbDataset) -> None:
        table = condition_table(ds)
        n = len(table.conditions)
        picked = np.linspace(0, n - 1, ASKED).astype(int)
        self.asked = Asked.of(
            ds, Query(table.conditions.iloc[picked], ds.genes, table.control["input"][picked])
        )
        self.keys = [str(k) for k in self.asked.conditions.index]
        self.other_keys = [str(k) for k in table.conditions.index if str(k) not in self.keys]
        rng = np.random.default_rng(3)
        self.control = self.asked.control.astype(np.float64)
        self.delta = rng.normal(0, 0.4, self.control.shape) * (rng.random(self.control.shape) < 0.4)
        self.delta = np.maximum(self.delta, -self.control)
        self.expression = (self.control + self.delta).astype(np.float32)
        # A decoder that blurs: like the controls, and not they.
        self.own = (self.control * 0.95 + 0.05).astype(np.float32)

    def raw(self, mean: Any = None, *, keys: Any = None, genes: Any = None, **meta: Any) -> Raw:
        return Raw(
            mean=np.asarray(self.expression if mean is None else mean, dtype=np.float32),
            key=np.asarray(self.keys if keys is None else keys, dtype=np.str_),
            genes=np.asarray(self.asked.genes if genes is None else genes, dtype=np.str_),
            meta={"space": "log1p", "kind": "expression", **meta},
            source="raw.npz",
        )

    def raw_with_own(self, mean: Any = None, own: Any = None, **meta: Any) -> Raw:
        own = self.own if own is None else np.asarray(own, dtype=np.float32)
        mean = own + self.delta if mean is None else mean
        return replace(self.raw(mean, **meta), control=own)


def write_raw(folder: Path, raw: Raw, **arrays: Any) -> Path:
    """Write a worker's output folder, with arrays in place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {"mean": raw.mean, "key": raw.key, "genes": raw.genes, "var": raw.var, "control": raw.control}
    np.savez(folder / "raw.npz", **{k: v for k, v in {**own, **arrays}.items() if v is not None})
    (folder / "raw.json").write_text(json.dumps({"format": 1, **raw.meta}))
    return folder
