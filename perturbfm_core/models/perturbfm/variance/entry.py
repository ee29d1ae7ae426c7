"""Variance of a single entry (condition and gene), learned from errors on held-out conditions.

    var_ig = s2_ig + exp(b_g + c v_ig)

for condition i and gene g. s2 is the sampling variance; v_ig = log(1 + |predicted delta| / typical size of
the gene), centred, where the typical size is the root mean square of the gene's predictions; b_g is a level
per gene. The slope c, one number for all genes, is learned by beta-NLL on out-of-fold residuals. Differences
between conditions are left to `ConditionLevels`.
"""

from __future__ import annotations

import numpy as np
import torch

from perturbfm_core.models.scale import some_rows
from perturbfm_core.progress import OnEpoch
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.training.loop import LoopConfig, train
from perturbfm_core.training.losses import beta_nll

_EPOCHS = 120
_LR = 0.03
# Strength of shrinkage of a gene's level to the mean over genes, in numbers of rows.
_SHRINK = 8.0
_FLOOR = 1e-6
# Largest absolute log factor by the predicted delta, and least log variance while the slope is learned.
_MOST_SHAPE, _LEAST_LOG = 10.0, -20.0
# Smallest excess of a gene, as a share of the mean over genes, where its errors are within sampling noise.
_LEAST = 0.02


class _Head(torch.nn.Module):
    def __init__(self, level: torch.Tensor) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(level)
        self.slope = torch.nn.Parameter(torch.zeros(()))

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        """Return [n, G], the log of the variance beyond sampling noise."""
        return self.level + self.slope * v


class EntryVariance:
    """The fitted variance beyond sampling noise.

    Parameters
    ----------
    rows
        Most rows from which the slope is learnt (default: all); levels are always those of all rows.

    Attributes
    ----------
    level
        float64 [G], b, the log variance of each gene at an average v.
    slope
        c, the coefficient of v.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows
        self.level: FloatArray = np.zeros(0)
        self.slope = 0.0
        self._scale: FloatArray = np.zeros(0)
        self._middle = 0.0

    def fit(
        self,
        mean: FloatArray,
        error: FloatArray,
        s2: FloatArray,
        fold: IntArray,
        usable: BoolArray,
        seed: int,
        on_epoch: OnEpoch | None = None,
    ) -> FloatArray:
        """Fit on out-of-fold rows and return float32 [m, G], their variance, with levels from other folds.

        Parameters
        ----------
        mean, error, s2
            float32 [m, G]: predicted delta and its error in log1p units, sampling variance.
        fold
            int64 [m], inner fold that held out the row.
        usable
            bool [folds, m], rows whose condition the fold's predictor was fitted on; a condition that two
            folds hold out must not contribute to its own variance.
        seed
            Seed of the training.
        on_epoch
            Called with a report after every epoch.
        """
        self._scale = np.sqrt((mean.astype(np.float64) ** 2).mean(axis=0) + 1e-8)
        v = self._sizes(mean)
        self._middle = float(v.mean())
        v = v - self._middle
        excess = error.astype(np.float64) ** 2 - s2
        start = torch.from_numpy(np.log(_shrunk(excess) + _FLOOR).astype(np.float32))
        at = slice(None) if self._rows is None else some_rows(len(v), self._rows)
        V = torch.from_numpy(v[at].astype(np.float32))
        errors = torch.from_numpy(error[at].astype(np.float32))
        noise = torch.from_numpy(s2[at].astype(np.float32))
        head, zero = _Head(start.clone()), torch.zeros_like(errors)
        # Above the levels of data of any scale, a bound would leave the slope no gradient.
        most = _MOST_SHAPE + max(float(start.max()), 0.0)

        def loss(module: torch.nn.Module, rows: torch.Tensor) -> dict[str, torch.Tensor]:
            var = noise + module(V).clamp(_LEAST_LOG, most).exp()
            # Keeps levels near the shrunken start: without it they would follow a gene's few largest errors.
            held = 0.01 * (head.level - start).square().mean()
            return {"loss": beta_nll(zero, var, errors) + held}

        train(
            head,
            loss,
            len(errors),
            LoopConfig(epochs=_EPOCHS, lr=_LR, weight_decay=0.0, ema_decay=0.0),
            seed=seed,
            on_epoch=on_epoch,
            phase="variance",
        )
        self.slope = float(head.slope.detach())
        # With the slope fixed, exp(b_g) is a mean of excess errors divided by exp(c v), in closed form.
        shape = np.exp(self._shape(v))
        self.level = np.log(_shrunk(excess / shape) + _FLOOR)
        out = np.empty(error.shape, dtype=np.float32)
        for j in np.unique(fold):
            mine, others = fold == j, usable[j] & (fold != j)
            level = np.log(_shrunk(excess[others] / shape[others]) + _FLOOR) if others.any() else self.level
            out[mine] = np.exp(level) * shape[mine]
        return out

    def predict(self, mean: FloatArray) -> FloatArray:
        """Return float32 [n, G], the variance beyond sampling noise for predicted deltas [n, G]."""
        return np.asarray(
            np.exp(self.level + self._shape(self._sizes(mean) - self._middle)), dtype=np.float32
        )

    def _shape(self, v: FloatArray) -> FloatArray:
        """Return the log factor on a gene's variance; the level is as large as the values of the data make it."""
        return np.asarray(np.clip(self.slope * v, -_MOST_SHAPE, _MOST_SHAPE))

    def _sizes(self, mean: FloatArray) -> FloatArray:
        return np.asarray(np.log1p(np.abs(mean) / self._scale))

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {
            f"{prefix}.level": self.level,
            f"{prefix}.scale": self._scale,
            f"{prefix}.slope": np.asarray([self.slope, self._middle]),
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray]) -> None:
        """Restore the state that `arrays` returned."""
        self.level, self._scale = arrays[f"{prefix}.level"], arrays[f"{prefix}.scale"]
        self.slope, self._middle = (float(x) for x in arrays[f"{prefix}.slope"])


def _shrunk(excess: FloatArray) -> FloatArray:
    """Return float64 [G], the mean of excess squared errors [n, G], shrunk to the mean over genes."""
    n, overall = len(excess), max(float(excess.mean()), 0.0)
    out = (excess.sum(axis=0) + _SHRINK * overall) / (n + _SHRINK)
    return np.asarray(np.maximum(out, _LEAST * overall))
