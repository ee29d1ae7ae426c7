"""Base class of PerturBench's networks: early stopping, refits for the variance, prediction and saving.

Importing this module does not import torch: the methods that need networks import them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from perturbfm_core.models.base import Requires
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.fold_changes import has_levels
from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.store.run_record import Family

if TYPE_CHECKING:
    from perturbfm_core.splits.conditions import SplitConditions

_NETWORK, _SPREAD = "network.", "spread."


class ExpressionNetwork(Baseline):
    """A network from matched controls, perturbation and covariates to expression.

    It is trained on cells paired with input control cells, or on means of conditions without cells, and stops by
    the error on the split's validation conditions, else on its first inner fold, whose number of epochs then trains
    on all conditions. That number also serves the refits of the inner folds, from whose errors the variance comes.

    A perturbation that train lacks has no input: all such perturbations get the same prediction, and a split that
    tests nothing else is not for these models.
    """

    family: ClassVar[Family] = "learned"  # type: ignore[assignment]
    requires: ClassVar[Requires] = Requires(controls=True)
    reads_control: ClassVar[bool] = True

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._epochs = 0
        # Number of the inner fold that this is a refit for, 0 for a fit of its own.
        self._fold = 0
        self._forget()

    def cannot(self, conditions: SplitConditions) -> str | None:
        """Return the reason where every test condition has a perturbation that train lacks, None elsewhere."""
        test = conditions.test
        if not (self.reads_perturbations() and len(test) and Design.of(conditions.train).lacks(test).all()):
            return None
        return (
            "needs perturbations that train has, the network has no input for others; each of the "
            f"{len(test)} test conditions has one that train lacks"
        )

    def reads_perturbations(self) -> bool:
        """Return whether this configuration has perturbations among its inputs; true by default."""
        return True

    def _forget(self) -> None:
        """Reset to the state before a fit."""
        self.training = {}
        self._design = Design()
        self._weights: dict[str, FloatArray] = {}
        self._spread: dict[str, FloatArray] = {}
        self._expression = True
        self._refits = 0

    def _fit(self, view: TrainView, seed: int) -> None:
        self._forget()
        if self._fold:
            self._train(view, seed, f"inner fold {self._fold}", None, self._epochs)
            return
        stop_on = view.validation if view.validation is not None and len(view.validation) else None
        epochs = None
        if stop_on is None and view.inner:
            fit, held = view.inner[0]
            epochs = self._train(view.subset(fit), seed, "choice of epochs", view.subset(held), None)
        self._epochs = self._train(view, seed, "training", stop_on, epochs)

    def _train(
        self, view: TrainView, seed: int, phase: str, stop_on: TrainView | None, epochs: int | None
    ) -> int:
        """Train on a view and return the number of epochs that the kept weights took."""
        from perturbfm_core.models.perturbench.controls import control_spread, has_cells
        from perturbfm_core.models.perturbench.fitting import fit_network

        self._design = Design.of(view.conditions)
        # Z-scores with a stated control have negative levels, which softplus cannot give back.
        self._expression = has_levels(view)
        cells = has_cells(view)
        self._spread = {}
        if cells and self.reads_control:
            self._spread = control_spread(view, self.params.control_cells, seed)
        self._weights, record = fit_network(
            self.params,
            self._design,
            view,
            seed,
            cells=cells,
            spread=self._spread,
            phase=phase,
            stop_on=stop_on,
            epochs=epochs,
            on_epoch=self.on_epoch,
            checkpoints=self.checkpoints,
        )
        self.training[phase] = {**record.to_json(), "on": "cells" if cells else "conditions"}
        return record.best_epoch

    def _unfitted(self) -> Self:
        other = super()._unfitted()
        self._refits += 1
        other._fold, other._epochs = self._refits, self._epochs
        other.on_epoch, other.checkpoints = self.on_epoch, self.checkpoints
        return other

    def _mean(self, query: Query) -> FloatArray:
        import torch

        from perturbfm_core.models.perturbench.networks import new_module
        from perturbfm_core.models.perturbench.predicting import Predictor
        from perturbfm_core.training.device import resolve_device

        device = resolve_device(self.params.device)
        module = new_module(self.params, self._design, len(self.genes), self._expression)
        module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in self._weights.items()})
        return Predictor(self._design, self._spread, device).delta(module.to(device), query)

    def _state_arrays(self) -> dict[str, FloatArray]:
        spread = {f"{_SPREAD}{i}": cells for i, cells in enumerate(self._spread.values())}
        return {**{_NETWORK + k: v for k, v in self._weights.items()}, **spread}

    def _state_meta(self) -> dict[str, Any]:
        return {
            "design": self._design.meta(),
            "contexts": list(self._spread),
            "expression": self._expression,
        }

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._design = Design.from_meta(meta["design"])
        self._spread = {name: arrays[f"{_SPREAD}{i}"] for i, name in enumerate(meta["contexts"])}
        self._expression = bool(meta["expression"])
        self._weights = {k.removeprefix(_NETWORK): v for k, v in arrays.items() if k.startswith(_NETWORK)}
