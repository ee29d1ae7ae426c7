"""Weights of feature tables: those that make simulated deltas most likely, and what the process makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.table_weights import likeliest_weights
from tests.support.factories import view_of

NAMES = [f"G{i:02d}" for i in range(60)]


def kernel(rng: np.random.Generator, n: int = 60, k: int = 4) -> np.ndarray:
    x = rng.normal(size=(n, k))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return (x @ x.T) ** 2


@pytest.mark.parametrize("truth", [(0.5, 0.0, 0.1), (0.2, 0.2, 0.2), (0.0, 0.6, 0.3)])
def test_the_weights_that_made_the_deltas_are_found(truth) -> None:
    rng = np.random.default_rng(1)
    tables = [kernel(rng), kernel(rng)]
    covariance = truth[0] * tables[0] + truth[1] * tables[1] + (truth[2] + 0.3) * np.eye(60)
    deltas = np.linalg.cholesky(covariance) @ rng.normal(size=(60, 2000))
    weights, _ = likeliest_weights(tables, np.zeros((60, 60)), deltas)
    total = truth[0] + truth[1]
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)
    assert weights == pytest.approx((truth[0] / total, truth[1] / total), abs=0.06)


def test_the_rest_of_the_kernel_is_weighed_against_the_tables() -> None:
    rng = np.random.default_rng(2)
    table, rest = kernel(rng), kernel(rng)
    covariance = 0.4 * table + 0.1 * rest + 0.3 * np.eye(60)
    deltas = np.linalg.cholesky(covariance) @ rng.normal(size=(60, 2000))
    weights, beside = likeliest_weights([table], rest, deltas)
    assert weights == (1.0,)
    assert beside == pytest.approx(0.25, abs=0.06)


def test_the_scale_of_the_deltas_does_not_count() -> None:
    rng = np.random.default_rng(3)
    tables = [kernel(rng), kernel(rng)]
    deltas = np.linalg.cholesky(tables[0] + 0.5 * np.eye(60)) @ rng.normal(size=(60, 300))
    one, other = (likeliest_weights(tables, np.eye(60), f * deltas)[0] for f in (1.0, 1e-3))
    assert one == pytest.approx(other, abs=1e-3)


def test_without_any_delta_all_tables_count_alike() -> None:
    rng = np.random.default_rng(4)
    assert likeliest_weights([kernel(rng)] * 2, np.eye(60), np.zeros((60, 5))) == ((0.5, 0.5), 1.0)


def test_a_table_of_noise_gets_less_weight_than_one_that_describes_the_effects() -> None:
    rng = np.random.default_rng(0)
    describing = rng.normal(size=(60, 4)).astype(np.float32)
    delta = (describing @ rng.normal(size=(4, 80)) + 0.3 * rng.normal(size=(60, 80))).astype(np.float32)
    view = view_of([("c", name) for name in NAMES], delta, inner=[range(j, 60, 5) for j in range(5)])
    tables = [
        GeneFeatures("noise", np.asarray(NAMES), rng.normal(size=(60, 4)).astype(np.float32)),
        GeneFeatures("describing", np.asarray(NAMES), describing),
    ]
    process = SetProcess(tables).choose(view).fit(view)
    noise, good = process.kernel.tables
    assert good > 3 * noise
    # What the effects share by features needs little of what each gene has of its own.
    assert process.kernel.identity < 1.0
    equal = SetProcess(tables)
    equal._weighed = lambda view, direct, kernel: kernel
    equal.choose(view)
    assert process.choice["relative_error"] < equal.choice["relative_error"]


def test_weights_are_kept_only_where_inner_folds_agree() -> None:
    rng = np.random.default_rng(5)
    delta = rng.normal(size=(60, 80)).astype(np.float32)
    view = view_of([("c", name) for name in NAMES], delta, inner=[range(j, 60, 5) for j in range(5)])
    tables = [GeneFeatures("noise", np.asarray(NAMES), rng.normal(size=(60, 4)).astype(np.float32))] * 2
    plain = SetProcess(tables)
    plain._weighed = lambda view, direct, kernel: kernel
    found, alike = SetProcess(tables).choose(view), plain.choose(view)
    assert found.choice["relative_error"] <= alike.choice["relative_error"]
