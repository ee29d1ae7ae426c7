"""Differentiable products of sparse diffusion rows with node embeddings."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from perturbfm_core.schema import IntArray

Tensor = torch.Tensor


class DiffusionRows:
    """Sparse rows [rows, nodes] that are constant during training; products are float32 on every device.

    On the CPU the product is scipy's for compressed rows: it takes a third to a fourth of the time of torch's
    coordinate format, forwards and backwards, and always sums in the same order. On another device the rows
    lie there, and parts of them are taken there.

    Parameters
    ----------
    matrix
        CSR float32 [rows, nodes] of scipy, or of torch on the device.
    device
        Device of the embeddings.
    """

    def __init__(self, matrix: Any, device: torch.device) -> None:
        self.device = device
        self.matrix = matrix if isinstance(matrix, Tensor) else sp.csr_array(matrix, dtype=np.float32)
        if device.type != "cpu" and not isinstance(matrix, Tensor):
            self.matrix = _on_device(self.matrix, device)

    def take(self, at: IntArray) -> DiffusionRows:
        """Return the rows at positions `at` [b]."""
        if isinstance(self.matrix, Tensor):
            rows = torch.from_numpy(np.ascontiguousarray(at)).to(self.device)
            return DiffusionRows(_rows_of(self.matrix, rows), self.device)
        return DiffusionRows(self.matrix[at], self.device)

    @cached_property
    def transposed(self) -> Any:
        """Return CSR float32 [nodes, rows], on the device of the rows."""
        if not isinstance(self.matrix, Tensor):
            return sp.csr_array(self.matrix.T)
        m = self.matrix
        # The compressed rows of a matrix are the compressed columns of its transpose.
        return torch.sparse_csc_tensor(
            m.crow_indices(), m.col_indices(), m.values(), (m.shape[1], m.shape[0]), check_invariants=False
        ).to_sparse_csr()

    def __matmul__(self, embeddings: Tensor) -> Tensor:
        """Return the product, float32 [rows, d], with embeddings [nodes, d]."""
        out: Tensor
        # Sparse products exist in no shorter type than float32: mixed precision is left for them.
        with torch.autocast(self.device.type, enabled=False):
            out = _Product.apply(embeddings.float(), self)  # type: ignore[no-untyped-call]
        return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, rows: DiffusionRows) -> Tensor:
        """Return the product [rows, d].

        Parameters
        ----------
        ctx
            Context of the autograd function.
        embeddings
            float32 [nodes, d], on the device of the rows.
        rows
            Sparse rows; they have no gradient.
        """
        ctx.rows = rows
        return _product(rows.matrix, embeddings.detach())

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        # For Y = D E the gradient of E is D' times that of Y.
        return _product(ctx.rows.transposed, grad[0].float().contiguous()), None


def _product(matrix: Any, dense: Tensor) -> Tensor:
    if isinstance(matrix, Tensor):
        out: Tensor = matrix @ dense
        return out
    return torch.from_numpy(matrix @ dense.numpy())


def _on_device(matrix: Any, device: torch.device) -> Tensor:
    parts = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
    crow, column, values = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in parts)
    with warnings.catch_warnings():
        # torch calls all compressed rows beta; of them only products with dense matrices are used here.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(crow, column, values, matrix.shape, check_invariants=False)


def _rows_of(matrix: Tensor, rows: Tensor) -> Tensor:
    """Return the CSR rows at positions `rows` [b], taken on the device of the matrix."""
    crow = matrix.crow_indices()
    first, counts = crow[rows], crow[rows + 1] - crow[rows]
    ends = torch.cumsum(counts, 0)
    # Entry k of a row that begins at `start` of the result lies at its first entry in the matrix plus k.
    shift = torch.repeat_interleave(first - (ends - counts), counts)
    at = torch.arange(len(shift), device=matrix.device) + shift
    return torch.sparse_csr_tensor(
        torch.cat([ends.new_zeros(1), ends]),
        matrix.col_indices()[at],
        matrix.values()[at],
        (len(rows), matrix.shape[1]),
        check_invariants=False,
    )
