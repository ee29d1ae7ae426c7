"""Base class of all models, their registry, and saving and loading without pickle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from perturbfm_core import schema
from perturbfm_core.config import Frozen, check_key, parse
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.errors import ModelError, named_fault, of_package
from perturbfm_core.graphs.side_info import Needs, SideInfo
from perturbfm_core.models.hooks import check_hooks, guard_hooks
from perturbfm_core.models.outputs import check_out_of_fold, check_prediction, checked_arrays, checked_state
from perturbfm_core.models.search import SearchDimension, SearchSpace
from perturbfm_core.models.similarity import ConditionProcess
from perturbfm_core.progress import OnEpoch
from perturbfm_core.registry.members import Discovery, Registry
from perturbfm_core.registry.sources import sources_kept
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.store.run_record import Family

if TYPE_CHECKING:
    from perturbfm_core.external.request import Ahead
    from perturbfm_core.splits.conditions import SplitConditions


@dataclass(frozen=True)
class Requires:
    """Requirements of a model on data and split."""

    controls: bool = False
    cells: bool = False
    combos: bool = False
    graph: bool = False
    min_contexts: int = 1


class Model(ABC):
    """A predictor of deltas.

    A subclass registers itself with ``@MODELS.register(name)``, sets `family` and, where they are not the
    default, `requires`, `Params` and `search_space`, and implements the abstract methods. `fit` and `predict`
    call these and validate their input and output.

    Parameters
    ----------
    params
        Validated parameters of the subclass's `Params`.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    requires: ClassVar[Requires] = Requires()
    search_space: ClassVar[SearchSpace] = {}
    """Ranges that `perturbfm tune` searches, by name of the parameter; none by default."""
    asks_ahead: ClassVar[bool] = False
    """Whether `ahead` must be set before `fit`: for models that run elsewhere and cannot be asked later."""

    class Params(Frozen):
        """Parameters of the model; none by default."""

    def __init__(self, params: Frozen | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()
        self.side_info = SideInfo()
        self.genes: list[str] = []
        self.training: dict[str, Any] = {}
        # Set by `fit`, not saved: CPU seconds, and largest memory, of other processes than this one that made what it keeps.
        self.cpu_s_elsewhere, self.peak_bytes_elsewhere = 0.0, 0
        # Set by `fit`, not saved: whether the variance is fitted on the split's calibration fold.
        self.variance_of_calibration_fold = False
        # Set by `fit`, not saved: predictions of held-out train conditions, None if nothing was held out.
        self.oof: OutOfFold | None = None
        # Set by whoever calls `fit`: called after every epoch, and the folder of training checkpoints.
        self.on_epoch: OnEpoch | None = None
        self.checkpoints: Path | None = None
        # Set by whoever calls `fit` of a model that `asks_ahead`.
        self.ahead: Ahead | None = None
        # Set by `load_model`.
        self._restored = False

    def needs(self) -> Needs:
        """Return the graphs and gene features that this configuration uses; none by default.

        They are set as `side_info` before `fit`; a fitted model keeps what it needs among its arrays.
        """
        return Needs()

    def requirements(self) -> Requires:
        """Return what this configuration requires of data and split: by default what the class does."""
        return self.requires

    def modules(self) -> tuple[str, ...]:
        """Return the modules that define the model.

        A change in the code that they reach by imports makes earlier fits of the model stale.
        """
        return (type(self).__module__,)

    def identity(self) -> dict[str, str]:
        """Return what decides a fit beside data, split, parameters, side information and code; nothing by default."""
        return {}

    def absent(self) -> str | None:
        """Return what the model lacks on this machine ("needs ..."), None if it can run; by default it can."""
        return None

    def cannot(self, conditions: SplitConditions) -> str | None:
        """Return why the model cannot predict some test conditions of a split, None if it can; by default it can."""
        return None

    def searchable(self) -> dict[str, SearchDimension]:
        """Return the dimensions of `search_space` that affect this configuration; all by default."""
        return dict(self.search_space)

    def fit(self, view: TrainView, seed: int) -> None:
        """Fit on a train view.

        Parameters
        ----------
        view
            Train conditions; test rows cannot be reached from it.
        seed
            Seed of every random step.

        Raises
        ------
        ModelError
            If there are no train conditions, a method of a plug-in fails, or a prediction of held-out conditions is not
            finite.
        """
        if not len(view):
            msg = f"model {self.name!r} got no train conditions"
            raise ModelError(msg)
        self.genes = [str(g) for g in view.genes]
        with self._running("_fit"):
            self._fit(view, seed)
        with self._running("_fit_variance"):
            self._fit_variance(view, seed)
        check_out_of_fold(self.name, self.oof)

    def predict(self, query: Query) -> Prediction:
        """Predict the delta of each condition of `query`, with genes in the order of fitting.

        Raises
        ------
        ModelError
            If the model is not fitted, `query` has other genes, or the prediction is not finite or of
            another shape than asked for.
        """
        if not self.genes:
            msg = f"model {self.name!r} is not fitted"
            raise ModelError(msg)
        if [str(g) for g in query.genes] != self.genes:
            msg = f"model {self.name!r} was fitted on {len(self.genes)} other genes than the {len(query.genes)} asked for"
            raise ModelError(msg)
        hint = "; what it reads must be set by `_fit` and by restoring" if self._restored else ""
        with self._running("_predict", hint):
            prediction = self._predict(query)
        check_prediction(self.name, prediction, (len(query), len(self.genes)))
        return prediction

    @property
    def _module(self) -> str:
        """Return the module to blame for a failure: one of a plug-in, if any of the model's is."""
        return next((m for m in self.modules() if not of_package(m)), type(self).__module__)

    @contextmanager
    def _running(self, method: str, hint: str = "") -> Iterator[None]:
        """Name a method of a plug-in where it fails, and keep what it imports."""
        module = self._module
        with named_fault(f"model {self.name!r}, {method}", module, ModelError, hint), sources_kept(module):
            yield

    def condition_process(self) -> ConditionProcess | None:
        """Return the Gaussian process over conditions that the fitted model rests on, None without one."""
        return None

    @abstractmethod
    def _fit(self, view: TrainView, seed: int) -> None:
        """Learn from the view."""

    @abstractmethod
    def _fit_variance(self, view: TrainView, seed: int) -> None:
        """Learn the predictive variance from residuals of held-out conditions."""

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
        """Restore the state that `arrays` and `meta` returned."""


class ModelRegistry(Registry[type[Model]]):
    """The registry of models; a class that does not meet the requirements on models is refused."""

    def add(self, name: str, item: type[Model], order: int = 0) -> type[Model]:
        """Register a model class under `name`, which becomes its `Model.name`.

        Parameters
        ----------
        name, item
            Name and class of the model.
        order
            Position in listings; models of the same order are listed as they were registered.

        Raises
        ------
        ModelError
            If the class lacks something that every model must have.
        """
        where = f"model {name!r} ({item.__module__}.{getattr(item, '__qualname__', item)})"
        given: Any = item
        if not (isinstance(given, type) and issubclass(given, Model)):
            msg = f"{where} is no subclass of Model"
            raise ModelError(msg)
        check_key(name, "name of a model")
        missing = sorted(item.__abstractmethods__)
        if missing:
            msg = f"{where} does not implement {', '.join(missing)}"
            raise ModelError(msg)
        if getattr(item, "family", None) not in get_args(Family):
            found = getattr(item, "family", None)
            msg = f"{where} must set `family` to one of {', '.join(get_args(Family))}, found {found!r}"
            raise ModelError(msg)
        if not issubclass(item.Params, Frozen):
            msg = f"{where}: Params must extend perturbfm_core.config.Frozen"
            raise ModelError(msg)
        needed = [k for k, f in item.Params.model_fields.items() if f.is_required()]
        if needed:
            msg = f"{where}: parameters {', '.join(needed)} have no default; every parameter needs one"
            raise ModelError(msg)
        requires: Any = item.requires
        if not isinstance(requires, Requires):
            msg = f"{where}: `requires` must be a Requires, found {type(requires).__name__}"
            raise ModelError(msg)
        for need in fields(Requires):
            found = getattr(requires, need.name)
            if type(found) is not type(need.default):
                wanted = "a whole number" if need.name == "min_contexts" else "True or False"
                msg = f"{where}: `{need.name}` of `requires` must be {wanted}, found {found!r}"
                raise ModelError(msg)
        check_hooks(where, item)
        unknown = sorted(set(item.search_space) - set(item.Params.model_fields))
        if unknown:
            msg = f"{where}: search_space names {', '.join(unknown)}, which are no parameters"
            raise ModelError(msg)
        item.name = name
        super().add(name, item, order)
        guard_hooks(item)
        return item


MODELS = ModelRegistry("model", ModelError, Discovery("perturbfm_core.models", "model", "perturbfm.models"))


def new_model(name: str, params: dict[str, Any] | None = None, entry: str | None = None) -> Model:
    """Return an unfitted model by registered name, with validated parameters.

    Parameters
    ----------
    name
        Registered name.
    params
        Its parameters; those left out are at their defaults.
    entry
        The catalog entry that these are from, for messages.

    Raises
    ------
    ModelError
        If the model is not registered, or cannot be made with its parameters.
    """
    kind = MODELS.get(name)
    source = f"parameters of model {name!r}" + (f" in entry {entry!r}" if entry not in (None, name) else "")
    given = parse(kind.Params, params or {}, source)
    hint = "; a model is made with its parameters: __init__(self, params)"
    with named_fault(f"model {name!r}, __init__", kind.__module__, ModelError, hint):
        model = kind(given)
    if not (hasattr(model, "params") and hasattr(model, "genes")):
        msg = f"model {name!r}: its __init__ must call super().__init__(params)"
        raise ModelError(msg)
    return model


def applicable(traits: SplitTraits, requires: Requires) -> str | None:
    """Return the reason why a model cannot run on a split, None if it can."""
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
    """Write ``model.safetensors`` and ``model.json`` into a folder.

    Raises
    ------
    ModelError
        If the fitted state cannot be written: arrays that hold no numbers, or other state that is no JSON.
    """
    name, module = model.name, model._module
    with named_fault(f"model {name!r}, arrays()", module, ModelError):
        arrays = checked_arrays(name, model.arrays())
    with named_fault(f"model {name!r}, meta()", module, ModelError):
        state = checked_state(name, model.meta())
    with named_fault(f"model {name!r}, saving its arrays", module, ModelError):
        save_file(arrays, folder / schema.MODEL_FILE)
    (folder / schema.MODEL_FILE).chmod(0o644)
    write_json(
        folder / schema.MODEL_META_FILE,
        {
            "schema_version": schema.MODEL_SCHEMA_VERSION,
            "model": name,
            "params": model.params.model_dump(mode="json"),
            "genes": model.genes,
            "state": state,
            "training": checked_state(name, model.training, "`training`"),
        },
    )


def load_model(folder: Path) -> Model:
    """Read a model from its folder.

    Raises
    ------
    ModelError
        If a file is missing or damaged, the model is not registered, or a plug-in cannot restore what it saved.
    """
    meta = read_json(folder / schema.MODEL_META_FILE, ModelError)
    try:
        arrays = load_file(folder / schema.MODEL_FILE)
    except (OSError, SafetensorError) as error:
        msg = f"{folder / schema.MODEL_FILE} is missing or damaged ({error}); train again"
        raise ModelError(msg) from error
    try:
        model = new_model(meta["model"], meta["params"])
        model.genes = list(meta["genes"])
        model.training = meta["training"]
        state = meta["state"]
        hint = f"; arrays() saved {', '.join(sorted(arrays)) or 'nothing'}, and it must save all that is restored"
        with model._running("restore", hint):
            model.restore(arrays, state)
    except (KeyError, TypeError) as error:
        msg = f"{folder} does not hold a whole model ({error} not found); train again"
        raise ModelError(msg) from error
    model._restored = True
    return model
