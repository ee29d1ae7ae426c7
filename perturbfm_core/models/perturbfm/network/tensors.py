"""Network inputs as batches of tensors; channels that fit in memory are made dense once."""

from __future__ import annotations

from functools import cached_property
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
# On a CUDA device they may take one part in this many of the memory that is free.
_SHARE_OF_FREE = 4
_FIELDS = ("ids", "amounts", "features", "basal", "context", "state", "multi", "cells", "cell_row")


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

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Any) -> Batch:
        """Return the rows at positions `rows` [b]."""
        x = self.inputs
        rows = np.asarray(rows)
        T = x.spread[0].shape[0] // len(x) if x.spread else 1
        at = (rows[:, None] * T + np.arange(T)).ravel()
        where = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        every = self._fields

        def some(name: str) -> Tensor:
            return every[name][where]

        return Batch(
            ids=some("ids"),
            amounts=some("amounts"),
            features=some("features"),
            basal=some("basal"),
            context=some("context"),
            spread=[D.take(at) for D in self._spread],
            channels=self._dense(rows),
            state=some("state") if "state" in every else None,
            multi=some("multi"),
            cells=every.get("cells"),
            cell_row=some("cell_row") if "cell_row" in every else None,
        )

    @cached_property
    def _fields(self) -> dict[str, Tensor]:
        """Inputs of all rows on the device, by name; on the CPU they share the memory of the arrays."""
        found = {name: getattr(self.inputs, name) for name in _FIELDS}
        return {
            name: torch.as_tensor(np.ascontiguousarray(value)).to(self.device)
            for name, value in found.items()
            if value is not None
        }

    @cached_property
    def _spread(self) -> list[DiffusionRows]:
        return [DiffusionRows(D, self.device) for D in self.inputs.spread]

    def channels(self, rows: Any) -> FloatArray:
        """Return float32 [b, F, G], the channels of the rows at positions `rows`."""
        out: FloatArray = self._dense(np.asarray(rows)).cpu().numpy()
        return out

    def _dense(self, rows: Any) -> Tensor:
        if self._channels is None and self._bytes() <= self._room():
            self._channels = torch.from_numpy(self._make(np.arange(len(self)))).to(self.device)
        if self._channels is None:
            return torch.from_numpy(self._make(rows)).to(self.device)
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self._channels
        return self._channels[torch.as_tensor(np.asarray(rows)).to(self.device)]

    def _room(self) -> int:
        """Return how many bytes the channels of all rows may take."""
        if self.device.type != "cuda":
            return _DENSE_BYTES
        return max(_DENSE_BYTES, torch.cuda.mem_get_info(self.device)[0] // _SHARE_OF_FREE)

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
