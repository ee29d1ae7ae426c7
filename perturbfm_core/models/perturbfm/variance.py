"""The predictive variance: sampling noise plus what the errors on held-out conditions say.

    var_ig = s2_g + exp(b_g + a' u_i + c' v_ig)

u_i describes a condition (size and spread of the predicted effect, the set process's own variance, how many genes
it perturbs, how strongly those are expressed and how far the graphs reach from them), v_ig an entry (its predicted
size against the gene's spread). Few numbers serve all
genes and are learned by beta-NLL on out-of-fold residuals; b_g is each gene's own level. What a perturbed gene is
known to add to the error comes on top (`part_levels`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.training.loop import LoopConfig, train
from perturbfm_core.training.losses import beta_nll
from perturbfm_core.training.progress import OnEpoch

_EPOCHS = 120
_LR = 0.03
_SHRINK = 8.0
_FLOOR = 1e-6
_RIDGE = 2e-3


class _Head(torch.nn.Module):
    def __init__(self, level: torch.Tensor, conditions: int, entries: int) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(level)
        self.by_condition = torch.nn.Parameter(torch.zeros(conditions))
        self.by_entry = torch.nn.Parameter(torch.zeros(entries))

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the variance [n, G]."""
        return self.level + (u @ self.by_condition)[:, None] + torch.einsum("e,eng->ng", self.by_entry, v)


class VarianceModel:
    """The fitted variance."""

    def __init__(self) -> None:
        self.level: FloatArray = np.zeros(0)
        self.by_condition: FloatArray = np.zeros(0)
        self.by_entry: FloatArray = np.zeros(0)
        self._center: FloatArray = np.zeros(0)
        self._spread: FloatArray = np.zeros(0)
        self._scale: FloatArray = np.zeros(0)
        self._middle: FloatArray = np.zeros(0)

    def fit(
        self,
        mean: FloatArray,
        process: FloatArray,
        traits: FloatArray,
        residual: FloatArray,
        s2: FloatArray,
        fold: IntArray,
        seed: int,
        on_epoch: OnEpoch | None = None,
    ) -> FloatArray:
        """Fit on out-of-fold rows and return their own variances, each without its fold's level.

        Parameters
        ----------
        mean, process, residual, s2
            float32 [m, G]: predicted delta, variance by the set process, error, sampling variance.
        traits
            float [m, K], what else is known of the perturbed genes (see `Targets`).
        fold
            int64 [m].
        """
        self._scale = np.sqrt((mean.astype(np.float64) ** 2).mean(axis=0) + 1e-8)
        raw_u = self._condition(mean, process, traits)
        self._center, self._spread = raw_u.mean(axis=0), raw_u.std(axis=0) + 1e-6
        v = self._entry(mean, process)
        self._middle = v.mean(axis=(1, 2))
        u, v = (raw_u - self._center) / self._spread, v - self._middle[:, None, None]
        excess = np.maximum(residual.astype(np.float64) ** 2 - s2, 0.0)
        start = np.log(_shrunk(excess) + _FLOOR)
        U, V = torch.from_numpy(u.astype(np.float32)), torch.from_numpy(v.astype(np.float32))
        error, noise = torch.from_numpy(residual.astype(np.float32)), torch.from_numpy(s2.astype(np.float32))
        head = _Head(torch.from_numpy(start.astype(np.float32)), u.shape[1], len(v))
        zero = torch.zeros_like(error)

        def loss(module: Any, rows: torch.Tensor) -> dict[str, torch.Tensor]:
            var = noise + module(U, V).clamp(-20.0, 10.0).exp()
            nll = beta_nll(zero, var, error)
            # The likelihood of each gene's level alone would follow its few largest errors.
            return {
                "loss": nll
                + 0.01 * (module.level - torch.from_numpy(start.astype(np.float32))).square().mean()
                + _RIDGE * module.by_condition.square().sum()
            }

        train(
            head,
            loss,
            len(error),
            LoopConfig(epochs=_EPOCHS, lr=_LR, weight_decay=0.0, ema_decay=0.0),
            seed=seed,
            on_epoch=on_epoch,
            phase="variance",
        )
        self.by_condition = head.by_condition.detach().numpy().astype(np.float64)
        self.by_entry = head.by_entry.detach().numpy().astype(np.float64)
        shape = np.exp(np.clip(self._shape(u, v), -10.0, 10.0))
        self.level = np.log(_shrunk(excess / shape) + _FLOOR)
        out = np.empty(residual.shape, dtype=np.float32)
        for j in np.unique(fold):
            mine, others = fold == j, fold != j
            level = np.log(_shrunk(excess[others] / shape[others]) + _FLOOR) if others.any() else self.level
            out[mine] = np.exp(level) * shape[mine]
        return out

    def predict(self, mean: FloatArray, process: FloatArray, traits: FloatArray) -> FloatArray:
        """Return float32 [n, G], the variance beyond that of sampling."""
        u = (self._condition(mean, process, traits) - self._center) / self._spread
        v = self._entry(mean, process) - self._middle[:, None, None]
        out: FloatArray = np.exp(np.clip(self.level + self._shape(u, v), -20.0, 10.0)).astype(np.float32)
        return out

    def _shape(self, u: FloatArray, v: FloatArray) -> FloatArray:
        # Conditions far from all of train must not get a variance that no error supports.
        out: FloatArray = (np.clip(u, -3.0, 3.0) @ self.by_condition)[:, None] + np.einsum(
            "e,eng->ng", self.by_entry, v
        )
        return out

    def _condition(self, mean: FloatArray, process: FloatArray, traits: FloatArray) -> FloatArray:
        """Return float64 [n, 3 + K]."""
        effect = np.log(np.sqrt((mean.astype(np.float64) ** 2).mean(axis=1)) + 1e-4)
        unsure = 0.5 * np.log(process.astype(np.float64).mean(axis=1) + 1e-8)
        # One strong entry, such as a target's own, says little of the rest: the mean magnitude says more.
        spread = np.log(np.abs(mean.astype(np.float64)).mean(axis=1) + 1e-4)
        return np.concatenate([np.stack([effect, spread, unsure], axis=1), traits], axis=1)

    def _entry(self, mean: FloatArray, process: FloatArray) -> FloatArray:
        """Return float64 [1, n, G]: the predicted size of an entry against its gene's."""
        return np.log1p(np.abs(mean) / self._scale)[None]

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {
            f"{prefix}.{k}": np.asarray(v)
            for k, v in (
                ("level", self.level),
                ("by_condition", self.by_condition),
                ("by_entry", self.by_entry),
                ("center", self._center),
                ("spread", self._spread),
                ("scale", self._scale),
                ("middle", self._middle),
            )
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray]) -> None:
        """Take back what `arrays` returned."""
        self.level, self.by_condition = arrays[f"{prefix}.level"], arrays[f"{prefix}.by_condition"]
        self.by_entry, self._center = arrays[f"{prefix}.by_entry"], arrays[f"{prefix}.center"]
        self._spread, self._scale = arrays[f"{prefix}.spread"], arrays[f"{prefix}.scale"]
        self._middle = arrays[f"{prefix}.middle"]


def _shrunk(squares: FloatArray) -> FloatArray:
    """Return float64 [G], the mean of squares [n, G], shrunk towards that of all genes."""
    n = len(squares)
    out: FloatArray = (squares.sum(axis=0) + _SHRINK * squares.mean()) / (n + _SHRINK)
    return out
