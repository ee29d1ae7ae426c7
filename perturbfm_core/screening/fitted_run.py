"""A fitted run opened for screening: its model and calibrator, its train view, the novelty of its held-out conditions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ModelError, SplitError
from perturbfm_core.models.base import Model, load_model
from perturbfm_core.models.similarity import ConditionProcess
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.schema import FloatArray
from perturbfm_core.screening.doses import TrainDoses
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query, TrainView, train_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord, read_run_record
from perturbfm_core.uncertainty.calibrator import Calibrator, load_calibrator
from perturbfm_core.uncertainty.novelty import membership


@dataclass(frozen=True, eq=False)
class FittedRun:
    """A run with what it was made from.

    Attributes
    ----------
    record
        What the run's ``config.json`` holds.
    ds, split
        Data and split; of the data only train conditions and input controls are ever read.
    model, calibrator
        As fitted; no calibrator where the run has none.
    """

    record: RunRecord
    ds: PerturbDataset
    split: FrozenSplit
    model: Model
    calibrator: Calibrator | None

    @property
    def id(self) -> str:
        """Return the run's id."""
        return self.record.run_id

    @cached_property
    def view(self) -> TrainView:
        """Return the train view of the split."""
        return train_view(self.ds, self.split)

    @cached_property
    def process(self) -> ConditionProcess | None:
        """Return the model's process over conditions, None without one."""
        return self.model.condition_process()

    @cached_property
    def doses(self) -> TrainDoses:
        """Return the doses of train, and how the data set writes doses."""
        return TrainDoses(self.view.conditions, self.ds.conditions)

    @cached_property
    def reference(self) -> FloatArray:
        """Return float64 [m], the novelty of every condition that an inner fold held out, empty without folds."""
        table = self.view.conditions
        folds = [membership(table[held], table[fit]) for fit, held in self.view.inner]
        if not folds:
            return np.zeros(0)
        if self.process is None:
            return np.concatenate([m.novelty for m in folds])
        cuts = np.cumsum([len(m.parts) for m in folds])[:-1]
        alike = np.split(self.process.out_of_fold(self.view), cuts)
        return np.concatenate([m.with_similarity(x) for m, x in zip(folds, alike, strict=True)])

    @cached_property
    def contexts_held_out(self) -> bool:
        """Return whether every inner fold holds out whole contexts."""
        context = self.view.conditions[schema.CONTEXT_ID].astype(str)
        return bool(self.view.inner) and all(
            not set(context[fit]) & set(context[held]) for fit, held in self.view.inner
        )

    @cached_property
    def train_epistemic(self) -> float | None:
        """Return the median epistemic share of the variance of the conditions fitted on, None without one."""
        share = epistemic_share(self.predict(self.view.query()))
        return None if share is None else float(np.median(share))

    def predict(self, query: Query) -> Prediction:
        """Return the calibrated prediction of some conditions."""
        prediction = self.model.predict(query)
        if self.calibrator is None:
            return prediction
        return self.calibrator.apply(prediction, query.conditions)

    def novelty(self, query: Query) -> FloatArray:
        """Return float64 [C], distance to train: by the model's similarity and by name, by name alone without one."""
        m = membership(query.conditions, self.view.conditions)
        return (
            m.novelty
            if self.process is None
            else m.with_similarity(self.process.similarity(query).max(axis=1))
        )


def epistemic_share(prediction: Prediction) -> FloatArray | None:
    """Return float64 [C] from 0 to 1, the epistemic part of the predicted variance over all genes; None if unknown."""
    if prediction.var_epistemic is None:
        return None
    total = np.maximum(prediction.var.mean(axis=1, dtype=np.float64), 1e-300)
    return np.asarray(np.clip(prediction.var_epistemic.mean(axis=1, dtype=np.float64) / total, 0.0, 1.0))


def open_run(store: ArtifactStore, split: str, run: str, data: Path | None = None) -> FittedRun:
    """Open a run by path, id or prefix; its files serve, else the object that they were copied from.

    Raises
    ------
    SplitError
        If the run is of another split.
    ModelError
        If its model is neither in the run nor among the objects.
    """
    path = store.find_run(run)
    record = read_run_record(path)
    frozen_split = SplitFolder(store.split_dir).load(split)
    if record.split_hash != frozen_split.hash:
        msg = (
            f"run {record.run_id} is of split {record.split_hash[:12]}, not {frozen_split.hash[:12]}; "
            "give the run's own --split"
        )
        raise SplitError(msg)
    ds = dataset_of(store, frozen_split, data)
    frozen_split.check_dataset(ds)
    places = [path] if record.objects is None else [path, store.object(record.objects.model)]

    def place(*names: str) -> Path | None:
        return next((p for p in places if all((p / n).is_file() for n in names)), None)

    folder = place(schema.MODEL_FILE, schema.MODEL_META_FILE)
    if folder is None:
        msg = f"run {record.run_id} has no {schema.MODEL_FILE}, and its object is gone; train again"
        raise ModelError(msg)
    calibrated = place(schema.CALIBRATOR_FILE, schema.CALIBRATOR_META_FILE)
    return FittedRun(
        record,
        ds,
        frozen_split,
        load_model(folder),
        None if calibrated is None else load_calibrator(calibrated),
    )
