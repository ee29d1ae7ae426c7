"""Network inputs as batches of tensors; channels that fit in memory are made dense once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from perturbfm_core.models.perturbfm.network.inputs import Inputs
from perturbfm_core.models.perturbfm.network.module import Batch
from perturbfm_core.models.perturbfm.network.sparse_product import DiffusionRows
from perturbfm_core.schema import FloatArray

Tensor = torch.Tensor

# Channels of all rows are kept dense up to this many bytes; beyond it they are made for each batch.
_DENSE_BYTES = 600_000_000


class TensorSource:
    """Batches of network inputs.

    Parameters
    ----------
    inputs
        Conditions as arrays.
    scale
        float32 [channels], factor on each channel.
    device
        Device of the tensors.
    """

    def __init__(self, inputs: Inputs, scale: FloatArray, device: torch.device | str = "cpu") -> None:
        self.inputs, self.scale, self.device = inputs, scale, torch.device(device)
        self._channels: Tensor | None = None
        self._whole: Batch | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def whole(self) -> Batch:
        """Return all rows, as the same tensors at every call."""
        if self._whole is None:
            self._whole = self.batch(np.arange(len(self)))
        return self._whole

    def rows(self, rows: Tensor) -> Batch:
        """Return some rows; all rows in order are not copied."""
        if len(rows) == len(self) and bool((rows == torch.arange(len(self), device=rows.device)).all()):
            return self.whole()
        return self.batch(rows.cpu().numpy())

    def batch(self, rows: Any) -> Batch:
        """Return the rows at positions `rows` [b]."""
        x = self.inputs
        T = x.spread[0].shape[0] // len(x) if x.spread else 1
        at = (np.asarray(rows)[:, None] * T + np.arange(T)).ravel()

        def move(value: Any) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(value)).to(self.device)

        return Batch(
            ids=move(x.ids[rows]),
            amounts=move(x.amounts[rows]),
            features=move(x.features[rows]),
            basal=move(x.basal[rows]),
            context=move(x.context[rows]),
            spread=[DiffusionRows(D[at], self.device) for D in x.spread],
            channels=self._dense(rows),
            state=None if x.state is None else move(x.state[rows]),
            multi=move(x.multi[rows]),
            cells=None if x.cells is None else move(x.cells),
            cell_row=None if x.cell_row is None else move(x.cell_row[rows]),
        )

    def channels(self, rows: Any) -> FloatArray:
        """Return float32 [b, F, G], the channels of the rows at positions `rows`."""
        out: FloatArray = self._dense(np.asarray(rows)).cpu().numpy()
        return out

    def _dense(self, rows: Any) -> Tensor:
        if self._channels is None and self._bytes() <= _DENSE_BYTES:
            self._channels = torch.from_numpy(self._make(np.arange(len(self)))).to(self.device)
        if self._channels is None:
            return torch.from_numpy(self._make(rows)).to(self.device)
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self._channels
        return self._channels[torch.as_tensor(np.asarray(rows)).to(self.device)]

    def _bytes(self) -> int:
        return int(4 * len(self) * len(self.scale) * self.inputs.dense.shape[2])

    def _make(self, rows: Any) -> FloatArray:
        x = self.inputs
        out = np.empty((len(rows), len(self.scale), x.dense.shape[2]), dtype=np.float32)
        for i, D in enumerate(x.diffused):
            out[:, i] = D[rows].toarray() * self.scale[i]
        k = len(x.diffused)
        out[:, k:] = x.dense[rows] * self.scale[k:][None, :, None]
        return out
