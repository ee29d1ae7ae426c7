"""Products of diffusion rows: values and gradients against dense ones."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from perturbfm_core.models.baselines.effects import distinct_rows
from perturbfm_core.models.perturbfm.network.sparse_product import DiffusionRows, _coordinates


def rows() -> sp.csr_array:
    return sp.csr_array(
        sp.random_array((12, 30), density=0.2, rng=np.random.default_rng(0)), dtype=np.float32
    )


def test_products_and_gradients_are_those_of_the_dense_matrix() -> None:
    D = rows()
    dense = torch.from_numpy(D.toarray())
    at = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    pull = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    found, expected = at.clone().requires_grad_(), at.clone().requires_grad_()
    out = DiffusionRows(D, torch.device("cpu")) @ (2.0 * found)
    torch.testing.assert_close(out, dense @ (2.0 * at))
    out.backward(pull)
    (dense @ (2.0 * expected)).backward(pull)
    torch.testing.assert_close(found.grad, expected.grad)
    torch.testing.assert_close(torch.sparse.mm(_coordinates(D), at), dense @ at)


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
