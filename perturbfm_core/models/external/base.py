"""Base class of external models: the worker's output, converted, looked up by condition."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from perturbfm_core.config import Frozen
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ExternalError, ModelError
from perturbfm_core.external.answers import Fitted, converted
from perturbfm_core.external.settings import interpreter_of
from perturbfm_core.external.work import WORKERS, Worker
from perturbfm_core.models.base import Model, Requires
from perturbfm_core.models.external.requirements import Lacks, several_forms, unmet
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.store.artifacts import ArtifactStore


class ExternalParams(Frozen):
    """Parameters of every external model, beside those that its worker is given.

    Attributes
    ----------
    control
        What is subtracted of a predicted expression: the matched ``real`` control, or the ``model``'s own.
    missing
        Test conditions without a prediction: ``refuse`` the output, or score them as their ``control`` (counted, shown).
    degenerate
        Predictions that are all the same, or all the control: ``refuse`` the output, or ``flag`` it.
    constant_variance
        Variance of every gene where nothing is held out to fit it on.
    settings
        Further parameters of the worker, as a mapping.
    """

    control: Literal["real", "model"] = "real"
    missing: Literal["refuse", "control"] = "refuse"
    degenerate: Literal["refuse", "flag"] = "refuse"
    constant_variance: float = Field(default=0.05, gt=0)
    settings: dict[str, Any] = Field(default_factory=dict)


_HOST = frozenset(ExternalParams.model_fields)


class ExternalModel(Model):
    """A model in an environment of its own, which predicts all conditions of its split when it is fitted."""

    family = "learned"
    requires = Requires(controls=True, cells=True)
    asks_ahead = True
    environment: ClassVar[str]
    """Name of the environment; the worker is ``NAME_worker.py``."""

    class Params(ExternalParams):
        """Parameters of `ExternalModel`."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._mean: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._var: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._keys: list[str] = []
        self._absent: frozenset[str] = frozenset()

    @abstractmethod
    def lacks(self, conditions: SplitConditions) -> Lacks:
        """Return what the prediction of a condition lacks on a split."""

    def script(self) -> Path:
        """Return the file of the worker."""
        return WORKERS / f"{self.environment}_worker.py"

    def worker(self) -> Worker:
        """Return the worker with its parameters."""
        given = {k: v for k, v in self.params.model_dump(mode="json").items() if k not in _HOST}
        return Worker(self.environment, self.script(), {**given, **self.params.settings})

    def identity(self) -> dict[str, str]:
        """Return the digests of the worker and of its environment."""
        return self.worker().identity()

    def absent(self) -> str | None:
        """Return that the environment is not there, if it is not."""
        try:
            interpreter_of(self.environment, ArtifactStore())
        except ExternalError as error:
            return f"needs its environment: {error}"
        return None

    def cannot(self, conditions: SplitConditions) -> str | None:
        """Return why some test conditions cannot be predicted, None if all can."""
        forms, own = several_forms(conditions), self.lacks(conditions)
        return unmet(conditions, lambda *c: own(*c) or forms(*c))

    def _fit(self, view: TrainView, seed: int) -> None:
        if self.ahead is None:
            msg = f"model {self.name!r} predicts what its split will ask when it is fitted; run it by `perturbfm run` or `external run`"
            raise ModelError(msg)
        p = self.params
        found: Fitted = converted(
            self.worker(),
            view,
            self.ahead,
            model=self.name,
            seed=seed,
            control=p.control,
            missing=p.missing,
            degenerate=p.degenerate,
            constant_variance=p.constant_variance,
        )
        self._mean, self._var, self._keys = found.mean, found.var, found.keys
        self._absent = frozenset(key for key, m in zip(found.keys, found.missing, strict=True) if m)
        self.variance_of_calibration_fold = found.record["variance"]["of_calibration_fold"]
        self.training.update(found.record)
        # Of the worker, whether it ran now or its output was found.
        cost = found.record["worker"]
        self.cpu_s_elsewhere = float(cost.get("cpu_s") or 0.0)
        self.peak_bytes_elsewhere = int(cost.get("peak_bytes") or 0)

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        """Nothing: `_fit` fits the variance on conditions that the worker did not train on."""

    def _predict(self, query: Query) -> Prediction:
        place = {key: i for i, key in enumerate(self._keys)}
        asked = [str(key) for key in query.conditions.index]
        unknown = [key for key in asked if key not in place]
        if unknown:
            msg = (
                f"model {self.name!r} predicts the {len(place)} conditions that its split asked for, when it was fitted; "
                f"{unknown[0]!r} is none of them (freeze a split that tests it, and run the model there)"
            )
            raise ModelError(msg)
        rows = np.asarray([place[key] for key in asked], dtype=np.int64)
        var = (
            self._var[rows] if len(self._var) == len(self._keys) else np.repeat(self._var, len(rows), axis=0)
        )
        absent = np.asarray([key in self._absent for key in asked], dtype=np.bool_)
        return Prediction(
            mean=self._mean[rows],
            var=var,
            not_predicted=absent if absent.any() else None,
            warnings=tuple(self.training.get("conversion", {}).get("warnings", ())),
        )

    def arrays(self) -> dict[str, FloatArray]:
        """Return the deltas [C, G] and their variance, [1, G] where it is the same for all conditions."""
        return {"mean": self._mean, "var": self._var}

    def meta(self) -> dict[str, Any]:
        """Return the keys of the conditions, and of those without a prediction."""
        return {"keys": self._keys, "not_predicted": sorted(self._absent)}

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore deltas, variance and keys."""
        self._mean, self._var, self._keys = arrays["mean"], arrays["var"], list(meta["keys"])
        self._absent = frozenset(meta.get("not_predicted", ()))

    def modules(self) -> tuple[str, ...]:
        """Return this module and that of the model; the worker is known by its digest."""
        return (*super().modules(), __name__)
