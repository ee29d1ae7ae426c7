"""What a run says of itself: predictions, and records of what was fitted and read on which rows.

A run declares its records in ``audit.json`` beside its other files; what it does not declare cannot be
audited, and the checks say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from perturbfm_core import schema
from perturbfm_core.config import Frozen, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.data.prediction import RowPrediction, read_prediction
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import IntArray
from perturbfm_core.store.atomic import read_json

PREPARED = ("graph", "features", "scaler", "pca", "embedding", "cache")
STATISTICS = ("de_genes", "statistics")
PRETRAINED = ("encoder",)
What = Literal[
    "graph", "features", "scaler", "pca", "embedding", "cache", "de_genes", "statistics", "encoder", "model"
]


class FitRecord(Frozen):
    """One thing that was made from rows: a graph, a selection of genes, a scaler, a cache, a list, an encoder.

    Attributes
    ----------
    what, name
        Its kind, and a name for messages.
    split_hash
        The split that it was made for.
    rows_sha256
        Digest of the sorted ids of its rows (see `rows_record`).
    rows
        Which rows, where no digest is known: ``fit`` (train, or train and validation as the split says),
        ``all``, ``external`` (no row of this data set) or ``unknown``.
    content_sha256
        The data set that it was made from.
    """

    what: What
    name: str = ""
    split_hash: str | None = None
    rows_sha256: str | None = None
    rows: Literal["fit", "all", "external", "unknown"] = "unknown"
    content_sha256: str | None = None


class RunRecords(Frozen):
    """What a run declares (``audit.json``); None means that it does not say.

    Attributes
    ----------
    made
        Everything that was made from rows before or in fitting.
    rows_read
        Positions of all rows that were read in fitting, controls included.
    control_roles
        Roles of the controls that were read in fitting or prediction.
    predict_reads
        What was read of the test conditions at prediction: ``conditions``, ``control``, ...
    """

    made: tuple[FitRecord, ...] | None = None
    rows_read: tuple[int, ...] | None = None
    control_roles: tuple[str, ...] | None = None
    predict_reads: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class RunEvidence:
    """What is known of a run.

    Attributes
    ----------
    records
        What it declares.
    prediction
        What it predicted, None if there is nothing to look at.
    """

    records: RunRecords = field(default_factory=RunRecords)
    prediction: RowPrediction | None = None


def read_run(path: Path) -> RunEvidence:
    """Read what a run's directory holds for the audit: ``audit.json`` and ``predictions.npz``, where present."""
    if not path.is_dir():
        msg = f"{path} is no directory of a run; give the one that `perturbfm run` printed"
        raise SplitError(msg)
    declared, predicted = path / schema.RECORDS_FILE, path / schema.PREDICTIONS_FILE
    return RunEvidence(
        records=parse(RunRecords, read_json(declared, SplitError), str(declared))
        if declared.is_file()
        else RunRecords(),
        prediction=read_prediction(predicted) if predicted.is_file() else None,
    )


def rows_record(ds: PerturbDataset, rows: IntArray) -> str:
    """Return the digest of a set of rows, as `FitRecord.rows_sha256` states it."""
    return rows_digest(np.sort(ds.row_ids[rows]))
