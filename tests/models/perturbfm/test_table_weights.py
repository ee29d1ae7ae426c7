"""Weights of feature tables: found step by step, and by the process on inner folds."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.core.table_weights import weigh_tables
from tests.support.factories import view_of

FEATURES = Kernel(identity=2.0, features=1.0)


@pytest.mark.parametrize("target", [(0.0, 1.0, 0.0), (0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3)])
def test_the_weights_of_least_error_are_approached(target) -> None:
    def scores(kernels):
        return [1.0 + sum((w - t) ** 2 for w, t in zip(k.tables, target, strict=True)) for k in kernels]

    found = weigh_tables(FEATURES, 3, scores)
    weights = found.tables or (1 / 3,) * 3
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)
    assert max(abs(w - t) for w, t in zip(weights, target, strict=True)) < 0.1


def test_gains_within_the_error_of_folds_change_nothing() -> None:
    found = weigh_tables(FEATURES, 2, lambda kernels: [1.0 - 5e-4 * k.tables[0] for k in kernels])
    assert found == FEATURES


def test_no_kernel_is_tried_twice() -> None:
    tried: list[tuple[float, ...]] = []

    def scores(kernels):
        tried.extend(k.tables for k in kernels)
        return [1.0 - k.tables[0] for k in kernels]

    weigh_tables(FEATURES, 4, scores)
    assert len(tried) == len(set(tried))


def test_a_table_of_noise_gets_less_weight_than_one_that_describes_the_effects() -> None:
    rng = np.random.default_rng(0)
    names = [f"G{i:02d}" for i in range(60)]
    describing = rng.normal(size=(60, 4)).astype(np.float32)
    delta = (describing @ rng.normal(size=(4, 80)) + 0.3 * rng.normal(size=(60, 80))).astype(np.float32)
    view = view_of([("c", name) for name in names], delta, inner=[range(j, 60, 5) for j in range(5)])
    tables = [
        GeneFeatures("noise", np.asarray(names), rng.normal(size=(60, 4)).astype(np.float32)),
        GeneFeatures("describing", np.asarray(names), describing),
    ]
    process = SetProcess(tables).choose(view).fit(view)
    noise, good = process.kernel.tables
    assert good > 3 * noise
    equal = SetProcess(tables)
    equal._weigh_tables = lambda view: equal.kernel
    equal.choose(view)
    assert process._fold_errors.sum() < equal._fold_errors.sum()
