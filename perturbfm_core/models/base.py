"""The contract of all models, their registry, and saving without pickle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from perturbfm_core import schema
from perturbfm_core.config import Frozen, parse
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.errors import ModelError
from perturbfm_core.graphs.knowledge import Knowledge, Needs
from perturbfm_core.models.condition_process import ConditionProcess
from perturbfm_core.models.search import SearchDimension, SearchSpace
from perturbfm_core.registry import Registry
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.folder import SplitTraits
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.store import read_json, write_json
from perturbfm_core.training.progress import OnEpoch

Family = Literal["baseline", "perturbfm", "external"]


@dataclass(frozen=True)
class Requires:
    """What a model needs of data and split to be applicable."""

    controls: bool = False
    cells: bool = False
    combos: bool = False
    graph: bool = False
    min_contexts: int = 1


class Model(ABC):
    """A predictor of deltas.

    Subclasses set the class attributes and implement `_fit`, `_predict_mean` and the two state methods;
    `fit` and `predict` validate around them and add the variance.

    Parameters
    ----------
    params
        Validated parameters of the subclass's `Params`.
    """

    name: ClassVar[str]
    family: ClassVar[Family] = "baseline"
    requires: ClassVar[Requires] = Requires()
    search_space: ClassVar[SearchSpace] = {}
    """Where `perturbfm tune` looks for better values, by name of the parameter; nothing by default."""

    class Params(Frozen):
        """Parameters of the model; none by default."""

    def __init__(self, params: Frozen | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()
        self.knowledge = Knowledge()
        self.genes: list[str] = []
        self.training: dict[str, Any] = {}
        # Set by `fit`, not saved: what it says of train conditions it did not fit, None if it held nothing out.
        self.oof: OutOfFold | None = None
        # Set by who calls `fit`: told of every epoch, and where trainings keep what they can go on from.
        self.on_epoch: OnEpoch | None = None
        self.checkpoints: Path | None = None

    def needs(self) -> Needs:
        """Return the graphs and gene features that this configuration reads; none by default.

        They are set as `knowledge` before `fit`; a fitted model keeps what it needs among its arrays.
        """
        return Needs()

    def searchable(self) -> dict[str, SearchDimension]:
        """Return those dimensions of `search_space` that have an effect in this configuration; all by default."""
        return dict(self.search_space)

    def fit(self, view: TrainView, seed: int) -> None:
        """Fit on a train view.

        Parameters
        ----------
        view
            Train conditions; test rows cannot be reached from it.
        seed
            Seeds every random step.

        Raises
        ------
        ModelError
            If there is nothing to fit on, or the fit is not finite.
        """
        if not len(view):
            msg = f"model {self.name!r} got no train conditions"
            raise ModelError(msg)
        self.genes = [str(g) for g in view.genes]
        self._fit(view, seed)
        self._fit_variance(view, seed)

    def predict(self, query: Query) -> Prediction:
        """Predict the delta of each condition of `query`, genes in the order of fitting.

        Raises
        ------
        ModelError
            If the model is not fitted, or `query` has other genes.
        """
        if not self.genes:
            msg = f"model {self.name!r} is not fitted"
            raise ModelError(msg)
        if [str(g) for g in query.genes] != self.genes:
            msg = f"model {self.name!r} was fitted on {len(self.genes)} other genes than the {len(query.genes)} asked for"
            raise ModelError(msg)
        prediction = self._predict(query)
        if not (np.isfinite(prediction.mean).all() and np.isfinite(prediction.var).all()):
            msg = f"model {self.name!r} predicts values that are not finite; check its parameters"
            raise ModelError(msg)
        return prediction

    def condition_process(self) -> ConditionProcess | None:
        """Return the process over conditions that the fitted model rests on, None without one."""
        return None

    @abstractmethod
    def _fit(self, view: TrainView, seed: int) -> None:
        """Learn from the view."""

    @abstractmethod
    def _fit_variance(self, view: TrainView, seed: int) -> None:
        """Learn the predictive variance, from residuals of conditions that were held out."""

    @abstractmethod
    def _predict(self, query: Query) -> Prediction:
        """Predict mean and variance."""

    @abstractmethod
    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""

    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """Return the fitted state that is not an array, as JSON."""

    @abstractmethod
    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Take back what `arrays` and `meta` returned."""


MODELS: Registry[type[Model]] = Registry("model", ModelError)


def new_model(name: str, params: dict[str, Any] | None = None) -> Model:
    """Return an unfitted model by registered name, its parameters validated."""
    kind = MODELS.get(name)
    return kind(parse(kind.Params, params or {}, f"parameters of model {name!r}"))


def applicable(traits: SplitTraits, requires: Requires) -> str | None:
    """Return why a model cannot run on a split, None if it can."""
    if requires.controls and not traits.controls:
        return "needs control rows, the data set has differences only"
    if requires.cells and traits.level != "cell":
        return "needs single cells, the data set has one row per condition"
    if requires.combos and not traits.train_combos:
        return "needs combinations in train, there are none"
    if traits.train_contexts < requires.min_contexts:
        return f"needs {requires.min_contexts} train contexts, there are {traits.train_contexts}"
    return None


def save_model(model: Model, folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json`` into a folder."""
    arrays = {key: np.ascontiguousarray(value) for key, value in model.arrays().items()}
    save_file(arrays, folder / schema.MODEL_FILE)
    (folder / schema.MODEL_FILE).chmod(0o644)
    write_json(
        folder / schema.MODEL_META_FILE,
        {
            "schema_version": schema.RUN_SCHEMA_VERSION,
            "model": model.name,
            "params": model.params.model_dump(mode="json"),
            "genes": model.genes,
            "state": model.meta(),
            "training": model.training,
        },
    )


def load_model(folder: Path) -> Model:
    """Read a model back from its folder.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the model is not registered.
    """
    meta = read_json(folder / schema.MODEL_META_FILE, ModelError)
    try:
        model = new_model(meta["model"], meta["params"])
        arrays = load_file(folder / schema.MODEL_FILE)
        model.genes = list(meta["genes"])
        model.training = meta["training"]
        model.restore(arrays, meta["state"])
    except (OSError, SafetensorError) as error:
        msg = f"{folder / schema.MODEL_FILE} is missing or damaged ({error}); train again"
        raise ModelError(msg) from error
    except (KeyError, TypeError) as error:
        msg = f"{folder} does not hold a whole model ({error} not found); train again"
        raise ModelError(msg) from error
    return model
