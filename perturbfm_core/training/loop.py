"""Epoch loop shared by all networks.

This module is longer than 400 lines because an epoch, its checkpoint and its resumption are one state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field

from perturbfm_core.config import Frozen, content_hash
from perturbfm_core.errors import ModelError
from perturbfm_core.progress import EpochReport, OnEpoch
from perturbfm_core.training.averaging import AveragedWeights
from perturbfm_core.training.checkpoints import Checkpoint
from perturbfm_core.training.determinism import derived_seeds, deterministic, seed_torch
from perturbfm_core.training.device import autocast, compiled, precision_on
from perturbfm_core.training.options import Precision
from perturbfm_core.training.record import TrainingRecord

Loss = Callable[[Any, torch.Tensor], dict[str, torch.Tensor]]
Validate = Callable[[Any], float]

_CHECKPOINT_VERSION = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class LoopConfig(Frozen):
    """How a network is trained.

    Attributes
    ----------
    epochs
        Maximum number of epochs.
    horizon
        Epochs over which the cosine schedule falls to zero (default: `epochs`). A refit for a chosen number
        of epochs keeps the horizon of the fit that chose it, and thus its learning rates.
    batch_size
        Rows per step, drawn anew in each epoch; None uses all rows at once.
    ema_decay
        Decay per step of the moving average of the weights, which is what is validated and kept; 0 keeps the
        weights of the last step.
    patience
        Number of epochs without a better validation score after which training stops.
    validate_every
        Epochs between validations.
    grad_clip
        Maximum norm of the gradient, None for no limit.
    precision, compile
        Mixed precision and ``torch.compile`` take effect on CUDA only.
    """

    epochs: int = Field(default=300, ge=1)
    horizon: int | None = Field(default=None, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int | None = Field(default=None, ge=1)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    patience: int = Field(default=30, ge=1)
    validate_every: int = Field(default=1, ge=1)
    grad_clip: float | None = Field(default=None, gt=0)
    precision: Precision = "auto"
    compile: bool = False


def train(
    module: torch.nn.Module,
    loss: Loss,
    n_rows: int,
    config: LoopConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    validate: Validate | None = None,
    parameter_groups: Iterable[dict[str, Any]] | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    phase: str = "training",
) -> TrainingRecord:
    """Train `module` in place; it ends on `device`, in evaluation mode, with the kept weights.

    The kept weights are the moving average at the epoch with the best validation score, or at the last epoch
    without validation. On the CPU the same arguments give the same bytes, interrupted or not: every epoch
    seeds torch's global generator from (seed, epoch), so that no random state is carried from one epoch to
    the next. A loss that needs random numbers should draw them from that generator.

    Parameters
    ----------
    module
        The network. Its buffers must be constant: layers that collect batch statistics are refused.
    loss
        ``loss(module, rows)`` with rows int64 [B] on the device: scalar tensors by name, one of them
        ``"loss"``, a mean over the rows. It receives the compiled module where compilation is in effect.
    n_rows
        Number of rows of the training data; the meaning of a row is defined by `loss`.
    config
        Epochs, optimiser, schedule, early stopping and precision.
    seed
        Seed of row order, drop-out and everything else that is random.
    device
        Where to train; the caller must move the tensors that `loss` uses there.
    validate
        ``validate(module)``: score, higher is better, of the averaged weights in evaluation mode.
    parameter_groups
        Groups as AdamW takes them, with their own ``lr`` or ``weight_decay`` (default: all parameters that
        require a gradient).
    on_epoch
        Called with a report after every epoch.
    checkpoint
        Where to keep the state. A finished training found there is not repeated.
    phase
        What is being trained, for reports and messages.

    Raises
    ------
    ModelError
        If there are no rows, the loss is not finite, no validation score is finite, or the checkpoint belongs
        to another configuration.
    """
    if n_rows < 1:
        msg = f"{phase} has no rows to train on"
        raise ModelError(msg)
    where = torch.device(device)
    module.to(where)
    with deterministic(device=where) as threads:
        groups = (
            [{"params": [p for p in module.parameters() if p.requires_grad]}]
            if parameter_groups is None
            else [{**g, "params": list(g["params"])} for g in parameter_groups]
        )
        run = _Run(module, loss, n_rows, config, seed, where, threads, validate, groups, phase)
        with torch.enable_grad():
            record = run.go(on_epoch, checkpoint)
    module.eval()
    return record


@dataclass
class _Progress:
    """State of a training between epochs that is not a tensor."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    seconds: float = 0.0
    curves: dict[str, list[float | None]] = field(default_factory=dict)


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        module: torch.nn.Module,
        loss: Loss,
        n_rows: int,
        config: LoopConfig,
        seed: int,
        device: torch.device,
        threads: int,
        validate: Validate | None,
        groups: list[dict[str, Any]],
        phase: str,
    ) -> None:
        self.module, self.loss, self.config, self.device = module, loss, config, device
        self.n_rows, self.seed, self.threads = n_rows, seed, threads
        self.validate, self.phase = validate, phase
        name_of = {id(p): name for name, p in module.named_parameters()}
        trained = [p for group in groups for p in group["params"]]
        self.names = [name_of.get(id(p), "") for p in trained]
        if not trained or "" in self.names:
            what = "is no parameter of the module" if trained else "there is none"
            msg = f"{phase}: parameters to train must be those of the module, but {what}"
            raise ModelError(msg)
        self.parameters = trained
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.lr, weight_decay=config.weight_decay, fused=device.type in ("cpu", "cuda")
        )
        self.base_lr = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.weights = AveragedWeights(trained, config.ema_decay)
        self.seeds = derived_seeds(config.epochs, seed, "epochs")
        self.batch = n_rows if config.batch_size is None else min(config.batch_size, n_rows)
        self.all_rows = torch.arange(n_rows, device=device)
        self.called = compiled(module, device, config.compile)
        self.buffers = {name: b._version for name, b in module.named_buffers()}
        self.state = _Progress()

    def go(self, on_epoch: OnEpoch | None, checkpoint: Checkpoint | None) -> TrainingRecord:
        """Run the remaining epochs of the training.

        Raises
        ------
        ModelError
            If the validation score was not finite in any epoch.
        """
        kept = None if checkpoint is None else checkpoint.read(self.config_hash(checkpoint.identity))
        if kept is not None:
            tensors, saved = kept
            if "record" in saved:
                with torch.no_grad():
                    for name, parameter in zip(self.names, self.parameters, strict=True):
                        parameter.copy_(tensors[f"final.{name}"])
                return TrainingRecord.model_validate(saved["record"])
            self.restore(tensors, saved)
        start = time.perf_counter() - self.state.seconds
        stopped = self.patience_is_over()
        while self.state.epoch < self.config.epochs and not stopped:
            report = self.one_epoch()
            self.state.seconds = time.perf_counter() - start
            if on_epoch is not None:
                on_epoch(report)
            stopped = self.patience_is_over()
            last = stopped or self.state.epoch == self.config.epochs
            if checkpoint is not None and not last and checkpoint.due(self.state.epoch):
                checkpoint.write(self.tensors(), self.saved(checkpoint.identity))
        if self.validate is not None and self.state.best_score is None:
            msg = f"{self.phase}: the validation score was not finite in any of {self.state.epoch} epochs"
            raise ModelError(msg)
        self.weights.install()
        record = self.record(stopped and self.state.epoch < self.config.epochs)
        if checkpoint is not None:
            final = {f"final.{n}": p for n, p in zip(self.names, self.parameters, strict=True)}
            saved = {"config_hash": self.config_hash(checkpoint.identity), "record": record.model_dump()}
            checkpoint.write(final, saved)
        return record

    def one_epoch(self) -> EpochReport:
        """Run one epoch, and validate if it is due.

        Raises
        ------
        ModelError
            If the loss is not finite.
        """
        state, config = self.state, self.config
        seed_torch(self.seeds[state.epoch], self.device)
        factor = self.lr_factor(state.epoch)
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * factor
        state.epoch += 1
        parts = self.steps()
        if not math.isfinite(parts["loss"]):
            values = ", ".join(f"{k} {v:.4g}" for k, v in parts.items())
            msg = f"{self.phase}: the loss is not finite in epoch {state.epoch} ({values}); lower the learning rate, or look for values in the data that are not finite"
            raise ModelError(msg)
        score: float | None = None
        last = state.epoch == config.epochs
        if self.validate is not None and (state.epoch % config.validate_every == 0 or last):
            score = self.score()
            if score is not None and (state.best_score is None or score > state.best_score):
                state.best_score, state.best_epoch = score, state.epoch
                self.weights.keep()
        for name, value in {**parts, "lr": config.lr * factor, "validation": score}.items():
            finite = value is not None and math.isfinite(value)
            state.curves.setdefault(name, []).append(value if finite else None)
        return EpochReport(self.phase, state.epoch, config.epochs, parts["loss"], score)

    def lr_factor(self, epoch: int) -> float:
        """Return the factor on the learning rate in an epoch, counted from 0."""
        if self.config.schedule == "constant":
            return 1.0
        done = epoch / (self.config.horizon or self.config.epochs)
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))

    def steps(self) -> dict[str, float]:
        """Take one optimiser step per batch; return the mean of every part of the loss over the rows.

        Raises
        ------
        ModelError
            If the loss function returns no ``"loss"``, or the module changed a buffer.
        """
        module, config = self.module, self.config
        module.train()
        whole = self.batch == self.n_rows
        order = self.all_rows if whole else torch.randperm(self.n_rows).to(self.device)
        total: torch.Tensor | None = None
        names: list[str] = []
        for rows in torch.split(order, self.batch):
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, config.precision):
                parts = self.loss(self.called, rows)
            if "loss" not in parts:
                msg = f"{self.phase}: the loss function returned {sorted(parts)}, without 'loss'"
                raise ModelError(msg)
            parts["loss"].backward()  # type: ignore[no-untyped-call]
            if config.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip, foreach=True)
            self.optimizer.step()
            self.weights.update()
            names = list(parts)
            # Values are read once per epoch, since reading one from a GPU waits for all queued work.
            values = torch.stack([parts[name].detach().float() for name in names]) * (len(rows) / self.n_rows)
            total = values if total is None else total + values
        self.require_constant_buffers()
        assert total is not None  # noqa: S101 - there is a row, so there is a batch
        return dict(zip(names, total.tolist(), strict=True))

    def require_constant_buffers(self) -> None:
        """Check that the first epoch changed no buffer.

        Batch statistics belong to the live weights; the averaged weights that are kept would not fit them.

        Raises
        ------
        ModelError
            If a buffer was changed.
        """
        if self.state.epoch != 1:
            return
        for name, buffer in self.module.named_buffers():
            if buffer._version != self.buffers.get(name, buffer._version):
                msg = f"{self.phase} changed the buffer {name!r}; use layers without batch statistics (LayerNorm)"
                raise ModelError(msg)

    def score(self) -> float | None:
        """Return the validation score of the averaged weights, None if it is not finite."""
        assert self.validate is not None  # noqa: S101
        self.module.eval()
        with self.weights.in_place(), torch.no_grad():
            score = float(self.validate(self.module))
        return score if math.isfinite(score) else None

    def patience_is_over(self) -> bool:
        """Return whether the validation score has not improved for `patience` epochs."""
        return self.validate is not None and self.state.epoch - self.state.best_epoch >= self.config.patience

    # ---- state -----------------------------------------------------------------------------------------

    def config_hash(self, identity: str) -> str:
        """Return the hash of everything that a continuation must share with the original run, except data."""
        return content_hash(
            {
                "version": _CHECKPOINT_VERSION,
                "config": self.config.model_dump(mode="json"),
                "seed": self.seed,
                "rows": self.n_rows,
                "phase": self.phase,
                "validated": self.validate is not None,
                "parameters": [[n, list(p.shape)] for n, p in zip(self.names, self.parameters, strict=True)],
                "groups": [
                    [len(g["params"]), lr, float(g["weight_decay"])]
                    for g, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True)
                ],
                "identity": identity,
            }
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return weights, their current and best average, and the optimiser's moments, by parameter name."""
        out: dict[str, torch.Tensor] = {}
        if self.weights.best is not None:
            out.update({f"best.{n}": t for n, t in zip(self.names, self.weights.best, strict=True)})
        for name, live, mean in zip(self.names, self.parameters, self.weights.mean, strict=True):
            out[f"live.{name}"] = live
            out[f"mean.{name}"] = mean
            moments = self.optimizer.state.get(live, {})
            out.update({f"adam.{key}.{name}": moments[key] for key in _MOMENTS if key in moments})
        return out

    def saved(self, identity: str) -> dict[str, Any]:
        """Return the rest of the state as JSON."""
        state = self.state
        return {
            "config_hash": self.config_hash(identity),
            "phase": self.phase,
            "epoch": state.epoch,
            "steps": self.weights.steps,
            "best_epoch": state.best_epoch,
            "best_score": state.best_score,
            "seconds": state.seconds,
            "curves": state.curves,
            # Every epoch seeds torch's generator with its own seed: there is no other random state.
            "next_seed": self.seeds[state.epoch],
        }

    def restore(self, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        """Restore the state that `tensors` and `record` returned."""
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.copy_(tensors[f"live.{name}"])
                moments = {key: tensors.get(f"adam.{key}.{name}") for key in _MOMENTS}
                if moments["step"] is not None:
                    # AdamW has no moments yet for a parameter that no step has changed.
                    self.optimizer.state[parameter] = {
                        k: v.to(self.device) for k, v in moments.items() if v is not None
                    }
        mean = [tensors[f"mean.{n}"] for n in self.names]
        best = [tensors[f"best.{n}"] for n in self.names] if f"best.{self.names[0]}" in tensors else None
        self.weights.restore(mean, best, int(record["steps"]))
        self.state = _Progress(
            epoch=int(record["epoch"]),
            best_epoch=int(record["best_epoch"]),
            best_score=record["best_score"],
            seconds=float(record["seconds"]),
            curves=record["curves"],
        )

    def record(self, stopped: bool) -> TrainingRecord:
        """Return the record of the finished training."""
        state, config = self.state, self.config
        return TrainingRecord(
            phase=self.phase,
            epochs_planned=config.epochs,
            epochs=state.epoch,
            best_epoch=state.best_epoch if self.validate is not None else state.epoch,
            best_score=state.best_score,
            stopped_early=stopped,
            rows=self.n_rows,
            batch_size=self.batch,
            parameters=sum(p.numel() for p in self.parameters),
            device=self.device.type,
            precision=precision_on(self.device, config.precision),
            compiled=config.compile and self.device.type == "cuda",
            threads=self.threads,
            curves=state.curves,
            seconds=state.seconds,
        )
