"""Standardised control expression of each condition and gene, on one scale for all genes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

_PERMUTATION_SEED = 0


@dataclass(eq=False)
class ControlStates:
    """Standardised control expression of every gene, and its square.

    Expression is standardised over genes and contexts together, not per gene, since the absolute level
    matters: a silent gene cannot be repressed, whichever gene it is. The square is centred, so that the two
    are nearly uncorrelated.

    Attributes
    ----------
    permuted
        Shuffle the genes of every profile, which keeps the values but removes their meaning (an ablation).
    center
        float32 [2], mean of the expression and of its standardised square.
    scale
        float32 [2], standard deviation of both.
    """

    permuted: bool = False
    center: FloatArray = field(default_factory=lambda: np.zeros(2, dtype=np.float32))
    scale: FloatArray = field(default_factory=lambda: np.ones(2, dtype=np.float32))

    def fit(self, view: TrainView) -> ControlStates:
        """Learn mean and scale of expression and square from the train conditions' controls."""
        if view.control is not None:
            level = view.control.astype(np.float64)
            mean, spread = float(level.mean()), float(level.std()) or 1.0
            square = ((level - mean) / spread) ** 2
            self.center = np.asarray([mean, square.mean()], dtype=np.float32)
            self.scale = np.asarray([spread, float(square.std()) or 1.0], dtype=np.float32)
        return self

    def read(self, query: Query) -> FloatArray | None:
        """Return float32 [n, 2, G], standardised expression and square, None without controls."""
        if query.control is None:
            return None
        level = (query.control - self.center[0]) / self.scale[0]
        if self.permuted:
            level = level[:, np.random.default_rng(_PERMUTATION_SEED).permutation(level.shape[1])]
        square = (level**2 - self.center[1]) / self.scale[1]
        return np.stack([level, square], axis=1).astype(np.float32)

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {f"{prefix}.center": self.center, f"{prefix}.scale": self.scale}

    def restore(self, prefix: str, arrays: dict[str, FloatArray]) -> None:
        """Restore the state that `arrays` returned."""
        self.center, self.scale = arrays[f"{prefix}.center"], arrays[f"{prefix}.scale"]
