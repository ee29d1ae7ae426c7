"""Evidence for the audit of a run: its predictions, and its records of rows that were fitted on and read.

A run declares its records in ``audit.json`` in its directory. What it does not declare cannot be audited, and
the checks report this as not applicable.
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
BORROWED = "borrowed"
What = Literal[
    "graph",
    "features",
    "scaler",
    "pca",
    "embedding",
    "cache",
    "de_genes",
    "statistics",
    "encoder",
    "model",
    "borrowed",
]


class TestOverlap(Frozen):
    """What another data set has of a split's test (and calibration) conditions.

    Attributes
    ----------
    perturbations, measured
        How many perturbations are tested, and how many of these the other data set has measured, all of their parts at
        least.
    same_context
        How many test conditions it has measured in a context of the same name.
    rows, same_values
        How many test rows it has by id with the same perturbation, and how many of these have the same values.
    compared, same_profiles
        How many test rows were compared with all of its rows of the same perturbation, and how many were found there,
        whatever their ids.
    """

    __test__ = False

    perturbations: int
    measured: int
    same_context: int = 0
    rows: int = 0
    same_values: int = 0
    compared: int = 0
    same_profiles: int = 0


class FitRecord(Frozen):
    """Record of one object computed from rows of a data set: a graph, scaler, cache, encoder or model.

    Attributes
    ----------
    what, name
        Kind of the object, and its name for messages.
    split_hash
        Hash of the split that it was made for.
    rows_sha256
        Digest of the sorted ids of its rows (see `rows_record`).
    rows
        Which rows, if no digest is known: ``fit`` (train, or train and validation, as the split defines),
        ``all``, ``external`` (no row of this data set) or ``unknown``.
    content_sha256
        Content hash of the data set that it was made from.
    overlap
        Of effects of another data set: what it has of the split's test conditions.
    source
        Public source, its version and the hash of what was made of it; None for all others.
    """

    what: What
    name: str = ""
    split_hash: str | None = None
    rows_sha256: str | None = None
    rows: Literal["fit", "all", "external", "unknown"] = "unknown"
    content_sha256: str | None = None
    overlap: TestOverlap | None = None
    source: str | None = None


class RunRecords(Frozen):
    """Declarations of a run (``audit.json``); None means not declared.

    Attributes
    ----------
    made
        Records of everything that was computed from rows before or during fitting.
    rows_read
        Positions of all rows that were read in fitting, including controls.
    control_roles
        Roles of the controls that were read in fitting or prediction.
    predict_reads
        Fields of the test conditions that were read for prediction: ``conditions``, ``control``, ...
    """

    made: tuple[FitRecord, ...] | None = None
    rows_read: tuple[int, ...] | None = None
    control_roles: tuple[str, ...] | None = None
    predict_reads: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class RunEvidence:
    """Declarations and predictions of a run.

    Attributes
    ----------
    records
        Its declarations.
    prediction
        Its predictions, None if there are none.
    """

    records: RunRecords = field(default_factory=RunRecords)
    prediction: RowPrediction | None = None


def read_run(path: Path) -> RunEvidence:
    """Read ``audit.json`` and ``predictions.npz`` from a run's directory, where present.

    Raises
    ------
    SplitError
        If there is no such directory, or ``audit.json`` is damaged.
    """
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
    """Return the digest of a set of rows (positions), for `FitRecord.rows_sha256`."""
    return rows_digest(np.sort(ds.row_ids[rows]))
