"""Training of PerturBench's networks with the common loop."""

from __future__ import annotations

from pathlib import Path

import torch

from perturbfm_core.models.baselines.fold_changes import has_levels
from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.models.perturbench.networks import ExpressionModule, new_module
from perturbfm_core.models.perturbench.pairs import CellPairs, ConditionPairs, Pairs
from perturbfm_core.models.perturbench.params import NetworkParams
from perturbfm_core.models.perturbench.predicting import Predictor
from perturbfm_core.progress import OnEpoch
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import TrainView
from perturbfm_core.training.checkpoints import checkpoint_at
from perturbfm_core.training.determinism import derived_seed, deterministic
from perturbfm_core.training.device import resolve_device
from perturbfm_core.training.loop import LoopConfig, Loss, Validate, train
from perturbfm_core.training.record import TrainingRecord


def fit_network(
    params: NetworkParams,
    design: Design,
    view: TrainView,
    seed: int,
    *,
    cells: bool,
    spread: dict[str, FloatArray],
    phase: str,
    stop_on: TrainView | None = None,
    epochs: int | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoints: Path | None = None,
) -> tuple[dict[str, FloatArray], TrainingRecord]:
    """Train one network.

    Parameters
    ----------
    params, design
        Options, and columns of the inputs.
    view
        What to train on.
    seed
        Seed of initial weights, drawn cells, drop-out and row order.
    cells
        Whether to train on pairs of cells rather than on the means of conditions.
    spread
        Control cells around the mean of their context, by context (see `Predictor`).
    phase
        What is being trained, for reports; its words name the checkpoint folder.
    stop_on
        Conditions whose squared error decides when to stop; None trains for all epochs.
    epochs
        Number of epochs (default: the largest number of the options).
    on_epoch, checkpoints
        See `Model`.

    Returns
    -------
    tuple
        ({name: float32 weights}, the record of the training).
    """
    device = resolve_device(params.device)
    pairs: Pairs = CellPairs(view, params.max_cells, seed) if cells else ConditionPairs(view)
    with deterministic(derived_seed(seed, "network")):
        module = new_module(params, design, len(view.genes), has_levels(view))
    validate: Validate | None = None
    if stop_on is not None:
        predictor, query, truth = Predictor(design, spread, device), stop_on.query(), stop_on.delta

        def validate(trained: torch.nn.Module) -> float:
            return -float(((predictor.delta(trained, query) - truth) ** 2).mean())

    record = train(
        module,
        _loss(pairs, design, view, device),
        len(pairs),
        LoopConfig(
            epochs=epochs or params.epochs,
            horizon=params.epochs,
            lr=params.lr,
            weight_decay=params.weight_decay,
            batch_size=min(params.batch_size, -(-len(pairs) // params.min_steps)),
            ema_decay=params.ema_decay,
            patience=params.patience,
            precision=params.precision,
        ),
        seed=derived_seed(seed, "loop"),
        device=device,
        validate=validate,
        on_epoch=on_epoch,
        checkpoint=checkpoint_at(checkpoints, *phase.split(" ")),
        phase=phase,
    )
    return {k: v.detach().cpu().numpy().copy() for k, v in module.state_dict().items()}, record


def _loss(pairs: Pairs, design: Design, view: TrainView, device: torch.device) -> Loss:
    """Return the mean squared error of perturbed expression."""
    perturbation, covariates = (torch.from_numpy(a).to(device) for a in design.read(view.conditions))
    condition = torch.from_numpy(pairs.condition).to(device)

    def loss(module: ExpressionModule, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        perturbed, control = (torch.from_numpy(a).to(device) for a in pairs.read(rows.cpu().numpy()))
        at = condition[rows]
        error = module(control, perturbation[at], covariates[at]) - perturbed
        return {"loss": error.square().mean()}

    return loss
