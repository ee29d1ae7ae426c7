"""The training loop beside the loss that it calls: seconds per epoch."""

from __future__ import annotations

import torch

from perturbfm_core.training.loop import LoopConfig, train

EPOCHS = 40


def test_an_epoch_costs_little_beside_its_loss(benchmark) -> None:
    """A network of 30 tensors and 0.4 million numbers: steps, averages, validation, curves; 1 to 2 ms an epoch, idle."""
    module = torch.nn.ModuleList([torch.nn.Linear(64, 64) for _ in range(14)] + [torch.nn.Linear(64, 5000)])

    def loss(m, rows):
        return {"loss": sum(p.sum() for p in m.parameters())}

    def forty():
        config = LoopConfig(epochs=EPOCHS, patience=EPOCHS)
        return train(module, loss, 200, config, seed=0, validate=lambda m: float(len(m))).seconds

    found = benchmark.pedantic(forty, rounds=3, warmup_rounds=1)
    benchmark.extra_info["seconds_per_epoch"] = found / EPOCHS
    assert found > 0
