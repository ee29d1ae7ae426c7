"""Stage `prediction`: the predicted deltas, variances and intervals of a split's test conditions."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction, write_prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.models.base import Model, load_model
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.splits.audit.own import query_reads
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query
from perturbfm_core.splits.view import query as query_of
from perturbfm_core.store.artifacts import Artifact
from perturbfm_core.store.atomic import write_json
from perturbfm_core.uncertainty.calibrator import Calibrator, load_calibrator

PREDICT_FILE = "predict.json"


def predict(e: Experiment, fitted: Artifact) -> Artifact:
    """Predict an experiment's test conditions, or find that prediction.

    Parameters
    ----------
    e
        The experiment.
    fitted
        What `fit` returned for it.

    Returns
    -------
    Artifact
        ``predictions.npz`` and ``predict.json``.
    """
    key = e.keys.prediction
    if (found := e.store.find(key)) is not None:
        return found
    e.tell(f"predicting with {e.config.entry}, seed {e.config.seed}")
    model, calibrator = load_model(fitted.path), load_calibrator(fitted.path)

    def fill(folder: Path) -> None:
        start, cpu = time.perf_counter(), time.process_time()
        query = query_of_test(e.dataset, e.split)
        rows = predict_rows(e.dataset, e.split, model, query, calibrator)
        write_prediction(rows, folder / schema.PREDICTIONS_FILE)
        seconds, cost = time.perf_counter() - start, {"predict_cpu_s": time.process_time() - cpu}
        write_json(folder / PREDICT_FILE, {"predict_s": seconds, "cost": cost, "reads": query_reads(query)})

    return Artifact(key, e.store.put_object(key, fill), reused=False)


def query_of_test(ds: PerturbDataset, split: FrozenSplit) -> Query:
    """Return a split's test conditions as models are asked for them: names and matched input controls only."""
    return query_of(ds, condition_table(ds, split.rows(ds, "test")))


def predict_rows(
    ds: PerturbDataset,
    split: FrozenSplit,
    model: Model,
    query: Query | None = None,
    calibrator: Calibrator | None = None,
) -> RowPrediction:
    """Return a model's prediction for the test rows of a split, one row of means per condition.

    Parameters
    ----------
    ds, split
        Data and split.
    model
        A fitted model; it is given `query` and nothing else.
    query
        What `query_of_test` gives, where the caller has it already.
    calibrator
        Applied to the prediction, if given.
    """
    rows = split.rows(ds, "test")
    row = np.unique(ds.condition_codes[rows], return_inverse=True)[1]
    query = query_of_test(ds, split) if query is None else query
    prediction = model.predict(query)
    if calibrator is not None:
        prediction = calibrator.apply(prediction, query.conditions)
    absent, intervals = prediction.not_predicted, prediction.intervals
    if absent is not None and intervals is not None:
        intervals = intervals.without(absent)
    return RowPrediction(
        mean=prediction.mean,
        var=prediction.var,
        idx=rows,
        row=row.astype(np.int64),
        genes=ds.genes,
        row_id=ds.row_ids[rows],
        split_hash=split.hash,
        data_content_sha256=ds.content_sha256,
        space="log1p" if ds.metadata.space == "counts" else ds.metadata.space,
        control=ds.metadata.control_policy,
        var_epistemic=prediction.var_epistemic,
        intervals=intervals,
        kind="delta",
        condition=np.asarray(query.conditions.index.to_numpy(), dtype=np.str_),
        not_predicted=absent,
        warnings=prediction.warnings,
    )
