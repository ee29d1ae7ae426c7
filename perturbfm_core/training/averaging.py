"""Exponential moving average of network weights, and the best average by validation score."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """Exponential moving average of parameters, without the bias of its start.

    With decay d, the mean after t steps is the sum over i of d**(t-i) w_i, divided by the sum of d**(t-i).
    After one step it equals the weights themselves, so that a short training is not held back by its
    initialisation.

    Parameters
    ----------
    parameters
        The parameters to average; only `in_place` and `install` change them.
    decay
        In [0, 1); 0 keeps the weights of the last step.
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
        """Update the average with the parameters after a step."""
        self.steps += 1
        self._bias *= self._decay
        # With share (1 - d) / (1 - d^t), the recursion mean += share (w - mean) equals the weighted sum
        # above, since the weights d^(t-i) sum to (1 - d^t) / (1 - d).
        share = (1.0 - self._decay) / (1.0 - self._bias)
        average = get_ema_multi_avg_fn(1.0 - share)  # type: ignore[no-untyped-call]
        average(self.mean, self._values, self.steps)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the parameters by their average inside this block."""
        # Only the pointers to memory are exchanged, nothing is copied.
        self._point_at(self.mean)
        try:
            yield
        finally:
            self._point_at(self._values)

    def _point_at(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.data = value

    def keep(self) -> None:
        """Store the current average as the best one."""
        if self.best is None:
            self.best = [m.clone() for m in self.mean]
        else:
            torch._foreach_copy_(self.best, self.mean)

    def install(self) -> None:
        """Set the parameters to the stored best average, or to the current one if none was stored."""
        with torch.no_grad():
            torch._foreach_copy_(self._values, self.mean if self.best is None else self.best)

    def restore(self, mean: list[torch.Tensor], best: list[torch.Tensor] | None, steps: int) -> None:
        """Restore a saved state.

        Parameters
        ----------
        mean
            Current average, one tensor per parameter.
        best
            Best average so far, None if none was stored.
        steps
            Number of steps that the average covers.
        """
        torch._foreach_copy_(self.mean, mean)
        self.best = None if best is None else [b.to(m.device) for b, m in zip(best, self.mean, strict=True)]
        self.steps = steps
        self._bias = 1.0
        for _ in range(steps):
            # The same products in the same order, so that the next share is identical to the last bit.
            self._bias *= self._decay
