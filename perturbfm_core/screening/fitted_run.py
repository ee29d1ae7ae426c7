"""`FittedRun`: a stored run loaded for screening, with model, calibrator, split and data set."""

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
from perturbfm_core.screening.yardstick import Yardstick, kept_yardstick
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query, TrainView, train_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord, read_run_record
from perturbfm_core.uncertainty.calibrator import Calibrator, load_calibrator
from perturbfm_core.uncertainty.novelty import membership


@dataclass(frozen=True, eq=False)
class FittedRun:
    """A fitted run with its data set and split.

    Attributes
    ----------
    record
        Content of the run's ``config.json``.
    ds, split
        Data set and split; only training conditions and input controls of the data are ever read.
    model, calibrator
        The fitted model, and its calibrator or None.
    store
        Where the yardstick of verdicts is kept; None computes it anew.
    """

    record: RunRecord
    ds: PerturbDataset
    split: FrozenSplit
    model: Model
    calibrator: Calibrator | None
    store: ArtifactStore | None = None

    @property
    def id(self) -> str:
        """Return the run's id."""
        return self.record.run_id

    @cached_property
    def view(self) -> TrainView:
        """Return the training view of the split."""
        return train_view(self.ds, self.split)

    @cached_property
    def process(self) -> ConditionProcess | None:
        """Return the model's Gaussian process over conditions, None if it has none."""
        return self.model.condition_process()

    @cached_property
    def doses(self) -> TrainDoses:
        """Return the training doses, in the notation of the data set."""
        return TrainDoses(self.view.conditions, self.ds.conditions)

    @property
    def reference(self) -> FloatArray:
        """Return float64 [m], novelty of every held-out condition of the inner folds; empty without folds.

        Each condition is compared with the conditions that the models of its fold were fitted on.
        """
        return self._yardstick.reference

    @property
    def train_epistemic(self) -> float | None:
        """Return the median epistemic share of the training conditions, None if the model has none."""
        return self._yardstick.train_epistemic

    @cached_property
    def _yardstick(self) -> Yardstick:
        def compute() -> Yardstick:
            share = epistemic_share(self.predict(self.view.query()))
            return Yardstick(self._novelty_held_out(), None if share is None else float(np.median(share)))

        if self.store is None or self.record.objects is None:
            return compute()
        parts = (__name__, membership.__module__, load_calibrator.__module__, *self.model.modules())
        process = () if self.process is None else (type(self.process).__module__,)
        return kept_yardstick(self.store, self.record.objects.model, [*parts, *process], compute)

    def _novelty_held_out(self) -> FloatArray:
        table = self.view.conditions
        folds = [membership(table[held], table[fit]) for fit, held in self.view.inner]
        if not folds:
            return np.zeros(0)
        if self.process is None:
            return np.concatenate([m.novelty for m in folds])
        cuts = np.cumsum([len(m.parts) for m in folds])[:-1]
        similarity = np.split(self.process.out_of_fold(self.view), cuts)
        return np.concatenate([m.with_similarity(x) for m, x in zip(folds, similarity, strict=True)])

    @cached_property
    def contexts_held_out(self) -> bool:
        """Return whether every inner fold holds out whole contexts."""
        context = self.view.conditions[schema.CONTEXT_ID].astype(str)
        return bool(self.view.inner) and all(
            not set(context[fit]) & set(context[held]) for fit, held in self.view.inner
        )

    def predict(self, query: Query) -> Prediction:
        """Return the calibrated prediction of the conditions in `query`."""
        prediction = self.model.predict(query)
        if self.calibrator is None:
            return prediction
        return self.calibrator.apply(prediction, query.conditions)

    def novelty(self, query: Query) -> FloatArray:
        """Return float64 [C], distance to train by gene names and, if the model has one, its similarity."""
        m = membership(query.conditions, self.view.conditions)
        return (
            m.novelty
            if self.process is None
            else m.with_similarity(self.process.similarity(query).max(axis=1))
        )


def epistemic_share(prediction: Prediction) -> FloatArray | None:
    """Return float64 [C], the epistemic share (0 to 1) of the predicted variance summed over genes.

    None if the prediction has no epistemic variance.
    """
    if prediction.var_epistemic is None:
        return None
    total = np.maximum(prediction.var.mean(axis=1, dtype=np.float64), 1e-300)
    return np.asarray(np.clip(prediction.var_epistemic.mean(axis=1, dtype=np.float64) / total, 0.0, 1.0))


def open_run(store: ArtifactStore, split: str, run: str, data: Path | None = None) -> FittedRun:
    """Load a run with its model, calibrator, split and data set.

    Model and calibrator are read from the run's directory or, if they are missing there, from the stored
    object that they were copied from.

    Parameters
    ----------
    store
        Store of runs and objects.
    split
        Hash, prefix or key of the split.
    run
        Directory, id or prefix of the id of the run.
    data
        Directory of the data set, unless the store has it.

    Raises
    ------
    SplitError
        If the run belongs to another split.
    ModelError
        If it has no model of its own, or its model is neither in the run nor among the stored objects.
    """
    path = store.find_run(run)
    record = read_run_record(path)
    if record.family == "external":
        msg = (
            f"run {record.run_id} holds predictions made elsewhere and no fitted model; give a run of `perturbfm run` "
            "or `train`, or read the predictions with `perturbfm export`"
        )
        raise ModelError(msg)
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
        store,
    )
