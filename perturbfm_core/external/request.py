"""Requests to external models: the conditions that will be asked, by role, with their matched input controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.table import condition_table
from perturbfm_core.external.asked import Asked
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.store.artifacts import ArtifactStore

FORMAT = 1
REQUEST_FILE, VIEW_FILE, CONTROLS_FILE = "request.json", "view.h5ad", "query_controls.h5ad"
ValidationFrom = Literal["split", "inner_fold_0", "none"]


@dataclass(frozen=True, eq=False)
class Request:
    """Conditions asked of an external model before it is fitted.

    Attributes
    ----------
    asked
        All of them, each once.
    roles
        ``test``, ``calibration`` or ``validation`` [C].
    validation_from
        Where the validation conditions come from.
    """

    asked: Asked
    roles: StrArray
    validation_from: ValidationFrom

    def to_json(self, ds: PerturbDataset, split: FrozenSplit, known: pd.DataFrame) -> dict[str, Any]:
        """Return the content of ``request.json``, without model, parameters and seed.

        Parameters
        ----------
        ds, split
            Data and split.
        known
            Table of the conditions that the model is trained and validated on.
        """
        rows = self.asked.conditions.astype(str)
        trained = sorted(known[schema.PERT_ID].astype(str).unique())
        return {
            "format": FORMAT,
            "model": None,
            "params": {},
            "seed": 0,
            "dataset": ds.name,
            "split_hash": split.hash,
            "data_content_sha256": ds.content_sha256,
            "space": "log1p",
            "target_sum": self.asked.target_sum,
            "genes": [str(g) for g in ds.genes],
            "contexts": ds.contexts,
            "validation_from": self.validation_from,
            "perturbations_known": trained,
            "perturbation_genes": {p: pert_genes(p) for p in trained},
            "conditions": [
                {
                    "key": str(key),
                    "pert_id": row[schema.PERT_ID],
                    "genes": pert_genes(row[schema.PERT_ID]),
                    "context_id": row[schema.CONTEXT_ID],
                    "modality": row[schema.MODALITY],
                    "doses": row[schema.DOSES],
                    "covariates": row[schema.COVARIATES],
                    "role": str(role),
                }
                for (key, row), role in zip(rows.iterrows(), self.roles, strict=True)
            ],
        }


@dataclass(frozen=True, eq=False)
class Ahead:
    """What an external model is given beside its train view: its request, and where its work is kept.

    Attributes
    ----------
    dataset, split
        What is exported: train rows and input controls only.
    request
        The conditions that it will be asked for.
    calibration
        (positions in the request, float32 [n, G] observed deltas) of the calibration conditions; empty without a
        calibration fold.
    store
        Where the export and the worker's output are kept.
    tell
        Called with a line of text about progress.
    """

    dataset: PerturbDataset
    split: FrozenSplit
    request: Request
    calibration: tuple[IntArray, FloatArray]
    store: ArtifactStore
    tell: Progress = quiet


def held_for_validation(view: TrainView) -> tuple[BoolArray, ValidationFrom]:
    """Return (bool [n], train conditions that early stopping may hold out; where validation comes from)."""
    none = np.zeros(len(view), dtype=np.bool_)
    if view.validation is not None:
        return none, "split"
    return (view.inner[0][1], "inner_fold_0") if view.inner else (none, "none")


def request_of(ds: PerturbDataset, split: FrozenSplit, view: TrainView) -> Request:
    """Return the request for the test, calibration and validation conditions of a split.

    Parameters
    ----------
    ds, split
        Data and split.
    view
        Its train view.
    """
    held, origin = held_for_validation(view)
    parts = [
        ("test", _query(ds, split.rows(ds, "test"))),
        ("calibration", _query(ds, split.rows(ds, "calib"))),
    ]
    validation = view.validation if view.validation is not None else view.subset(held)
    parts.append(("validation", validation.query()))
    seen: set[str] = set()
    tables, controls, roles = [], [], []
    for role, query in parts:
        # Splits by row have conditions in several folds: the first role counts.
        new = ~query.conditions.index.isin(seen)
        seen |= set(query.conditions.index)
        tables.append(query.conditions[new])
        roles += [role] * int(new.sum())
        if query.control is not None:
            controls.append(query.control[new])
    merged = Query(pd.concat(tables), ds.genes, np.concatenate(controls) if controls else None)
    return Request(Asked.of(ds, merged), np.asarray(roles, dtype=np.str_), origin)


def ahead_of(
    store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit, view: TrainView, tell: Progress = quiet
) -> Ahead:
    """Return what an external model is given beside its train view.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds, split, view
        Data, split and its train view.
    tell
        Called with a line of text about progress.
    """
    request = request_of(ds, split, view)
    table = condition_table(ds, split.rows(ds, "calib"))
    index = request.asked.conditions.index.get_indexer(table.conditions.index)
    # A condition that is tested as well gives nothing away about its calibration rows, nor the other way round.
    mine = np.asarray(request.roles[index] == "calibration") if len(index) else np.zeros(0, dtype=np.bool_)
    return Ahead(ds, split, request, (index[mine], table.delta["input"][mine]), store, tell)


def _query(ds: PerturbDataset, rows: IntArray) -> Query:
    table = condition_table(ds, rows)
    return Query(table.conditions, ds.genes, table.control.get("input"))
