"""The weights that are kept: their running mean over steps, and the best of those."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """Exponential moving average of parameters, without the bias of its start.

    With decay d the mean after t steps is sum of d**(t-i) w_i over the sum of d**(t-i): after one step the
    weights themselves, so that a short training is not held at its initialisation.

    Parameters
    ----------
    parameters
        What is averaged; changed in place only by `in_place` and `install`.
    decay
        In [0, 1); 0 keeps the last step.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._values = [p.detach() for p in parameters]
        self._decay = decay
        self._bias = 1.0
        self.steps = 0
        self.mean = [v.clone() for v in self._values]
        self.best: list[torch.Tensor] | None = None

    def update(self) -> None:
        """Take in the parameters after a step."""
        self.steps += 1
        self._bias *= self._decay
        # Moving the mean itself by this share equals dividing a sum that began at zero by its total weight.
        share = (1.0 - self._decay) / (1.0 - self._bias)
        average = get_ema_multi_avg_fn(1.0 - share)  # type: ignore[no-untyped-call]
        average(self.mean, self._values, self.steps)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the mean in the place of the parameters for this block."""
        # Memory changes hands, nothing is copied.
        self._point_at(self.mean)
        try:
            yield
        finally:
            self._point_at(self._values)

    def _point_at(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.data = value

    def keep(self) -> None:
        """Remember the mean as it is now."""
        if self.best is None:
            self.best = [m.clone() for m in self.mean]
        else:
            torch._foreach_copy_(self.best, self.mean)

    def install(self) -> None:
        """Set the parameters to the remembered mean, or to the present one if none was."""
        with torch.no_grad():
            torch._foreach_copy_(self._values, self.mean if self.best is None else self.best)

    def restore(self, mean: list[torch.Tensor], best: list[torch.Tensor] | None, steps: int) -> None:
        """Take back `mean`, `best` and `steps`."""
        torch._foreach_copy_(self.mean, mean)
        self.best = None if best is None else [b.to(m.device) for b, m in zip(best, self.mean, strict=True)]
        self.steps = steps
        self._bias = 1.0
        for _ in range(steps):
            # The same products in the same order: the next share has the same bits.
            self._bias *= self._decay
