"""Small training problems: a linear regression, and one whose validation scores are scripted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from perturbfm_core.training.determinism import deterministic
from perturbfm_core.training.loop import LoopConfig, train

X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 6))).float()
W = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 3))).float()
Y = X @ W


@dataclass
class Problem:
    """A regression with a network that drops out, so that order and drop-out matter."""

    module: torch.nn.Module
    dropout: float = 0.3

    @classmethod
    def new(cls, dropout: float = 0.3, seed: int = 0) -> Problem:
        with deterministic(seed):
            layers = [
                torch.nn.Linear(6, 16),
                torch.nn.Tanh(),
                torch.nn.Dropout(dropout),
                torch.nn.Linear(16, 3),
            ]
            return cls(torch.nn.Sequential(*layers), dropout)

    def loss(self, module, rows):
        error = (module(X[rows]) - Y[rows]).square().mean()
        return {"loss": 2 * error, "mse": error}

    def validate(self, module):
        return -float((module(X) - Y).square().mean().detach())

    @property
    def bytes(self) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in self.module.parameters())

    def train(self, checkpoint=None, validate=False, on_epoch=None, loss=None, seed=0, **config):
        config = LoopConfig(**{"epochs": 12, "batch_size": 16, "lr": 1e-2, **config})
        return train(
            self.module,
            loss or self.loss,
            len(X),
            config,
            seed=seed,
            validate=self.validate if validate else None,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            phase="the test",
        )


class Scripted(torch.nn.Module):
    """One weight that the loss moves by the same amount each step, with scores given in advance."""

    def __init__(self, scores=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scores = list(scores)
        self.seen: list[float] = []

    def loss(self, module, rows):
        return {"loss": -module.weight.sum()}

    def validate(self, module):
        self.seen.append(module.weight.item())
        assert not module.training
        return self.scores[len(self.seen) - 1]


STEADY = {"lr": 1.0, "weight_decay": 0.0, "schedule": "constant", "batch_size": None}


def scripted(scores=(), ema_decay=0.0, **config):
    """Train a scripted module whose weight after epoch e is e, as long as Adam's steps are of length lr."""
    module = Scripted(scores)
    record = train(
        module,
        module.loss,
        3,
        LoopConfig(**{**STEADY, "ema_decay": ema_decay, **config}),
        seed=0,
        validate=module.validate if scores else None,
    )
    return module, record
