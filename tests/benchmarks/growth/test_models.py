"""Fitting PerturbFM and the kernel baselines on 300 to 10,000 conditions of a simulated screen of 8,000 genes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perturbfm_core.models.base import new_model
from tests.benchmarks.growth.exponents import cost, exponent, sizes, write_table
from tests.support.large_screens import screen

CASE = f"{__name__}:fitted"
SIZES = (300, 1_000, 3_000, 10_000)
GENES = 8_000
CPU_S, PEAK_MB = 15 * 60, 6 * 1024
# Models and the kind of screen: unseen genes with features, or unseen combinations.
MODELS = {
    "perturbfm-v0": "genes",
    "perturbfm-v1": "genes",
    "perturbfm-v2": "genes",
    "perturbfm-v3": "genes",
    "kernel_ridge": "genes",
    "set_kernel_ridge": "combos",
    "combo_kernel_ridge": "combos",
}


def fitted(size: int, model: str, kind: str, genes: str = str(GENES)) -> Iterator[None]:
    """Fit a model on `size` conditions, and print what it scores on unseen ones."""
    case = screen(kind, size, int(genes))
    names = tuple(case.info.features) if model.startswith("perturbfm") or model == "kernel_ridge" else ()
    made = new_model(model, {"gene_features": names} if names else {})
    made.side_info = case.info
    yield
    made.fit(case.view, 0)
    yield
    prediction = made.predict(case.query)
    print(f"{model} {size}: Pearson {case.pearson(prediction.mean):.4f}, z² {case.squared_z(prediction):.2f}")


@pytest.mark.parametrize("model", MODELS)
def test_fits_of_a_genome_wide_screen_stay_within_15_cpu_minutes_and_6_gb(model: str) -> None:
    costs = [cost(CASE, n, model, MODELS[model]) for n in sizes(*SIZES)]
    write_table(f"models_{model}", "conditions", {model: costs})
    assert exponent(costs) < 1.5
    for c in costs:
        assert c.cpu_s < CPU_S
        assert c.peak_mb < PEAK_MB
