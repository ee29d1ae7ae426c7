"""Products of diffusion rows: values and gradients against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from perturbfm_core.models.baselines.effects import distinct_rows
from perturbfm_core.models.perturbfm.network.sparse_product import DiffusionRows, _on_device


def rows() -> sp.csr_array:
    return sp.csr_array(
        sp.random_array((12, 30), density=0.2, rng=np.random.default_rng(0)), dtype=np.float32
    )


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("some", [np.arange(12), np.array([11, 3, 3, 0, 7]), np.array([], dtype=np.int64)])
def test_products_and_gradients_are_those_of_the_dense_matrix(tensors: bool, some: np.ndarray) -> None:
    """As SciPy's rows of the CPU, and as torch's rows of other devices, whole and in part."""
    cpu = torch.device("cpu")
    D = rows()
    whole = DiffusionRows(_on_device(D, cpu) if tensors else D, cpu)
    part = whole.take(some)
    D = D[some]
    dense = torch.from_numpy(D.toarray())
    at = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    pull = torch.randn(len(some), 4, generator=torch.Generator().manual_seed(1))
    found, expected = at.clone().requires_grad_(), at.clone().requires_grad_()
    out = part @ (2.0 * found)
    torch.testing.assert_close(out, dense @ (2.0 * at))
    out.backward(pull)
    (dense @ (2.0 * expected)).backward(pull)
    torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("tensors", [False, True])
def test_mixed_precision_is_left_for_sparse_products(tensors: bool) -> None:
    cpu = torch.device("cpu")
    D = DiffusionRows(_on_device(rows(), cpu) if tensors else rows(), cpu)
    E = torch.ones(30, 4, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = D @ E
    out.sum().backward()
    assert out.dtype == torch.float32
    assert E.grad is not None
    assert E.grad.dtype == torch.bfloat16


def test_a_gradient_of_transposed_memory_is_read_in_order() -> None:
    D = rows()
    E = torch.ones(30, 4, requires_grad=True)
    out = DiffusionRows(D, torch.device("cpu")) @ E
    pull = torch.arange(48.0).reshape(4, 12).T
    out.backward(pull)
    assert E.grad is not None
    np.testing.assert_allclose(E.grad.numpy(), D.T @ pull.numpy(), rtol=1e-6)


def test_distinct_rows_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(40, 3)).astype(np.float32)
    found, place = distinct_rows(x)
    expected, where = np.unique(x, axis=0, return_inverse=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(place, where.reshape(-1))
