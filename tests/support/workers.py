"""Workers of external models, loaded from their files, and requests to them."""

from __future__ import annotations

import os

import anndata
import numpy as np
import pandas as pd

from tests.support.paths import REPO

WORKERS = REPO / "perturbfm_core/external/workers"
FILES = sorted(WORKERS.glob("*.py"))
# Whether the models themselves are trained, in environments of 5 GB that are built where they are absent.
TRAINED = os.environ.get("PERTURBFM_EXTERNAL") == "1"
NOT_TRAINED = "PERTURBFM_EXTERNAL=1 is not set, with which the models themselves are trained"


REQUEST = {
    "format": 1,
    "seed": 1,
    "params": {},
    "genes": ["A", "B+x", "C_1"],
    "perturbation_genes": {"A": ["A"], "B+x+A": ["B+x", "A"]},
    "conditions": [{"key": "k", "pert_id": "C_1", "genes": ["C_1"], "context_id": "c"}],
}


def frames(perts, contexts, folds):
    obs = pd.DataFrame({"pert_id": perts, "context_id": contexts, "fold": folds, "batch_id": "b"})
    obs["is_control"] = obs["pert_id"] == "control"
    return anndata.AnnData(X=np.zeros((len(obs), 3)), obs=obs.set_index(obs.index.astype(str)))


ASKED = {
    **REQUEST,
    "conditions": [
        {"key": key, "pert_id": pert, "genes": pert.split("+"), "context_id": context}
        for key, pert, context in (
            ("seen", "A", "c2"),
            ("val only", "V", "c1"),
            ("never", "N", "c1"),
            ("combo of seen", "A+B", "c1"),
            ("three", "A+B+D", "c1"),
            ("new context", "A", "c3"),
            ("no cells", "A", "c4"),
        )
    ],
}


def asked(*conditions):
    return {
        **REQUEST,
        "conditions": [
            {"key": f"{p}|{c}", "pert_id": p, "genes": [p], "context_id": c, "role": role}
            for p, c, role in conditions
        ],
    }


SMALL_STATE = {
    "steps": 4,
    "batch_size": 4,
    "cell_set_len": 8,
    "hidden_dim": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_cells": 16,
}
