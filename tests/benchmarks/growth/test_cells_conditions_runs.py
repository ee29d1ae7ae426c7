"""Cost by number of cells, conditions and runs, with the exponents; limits at the largest sizes (``make bench-growth``)."""

from __future__ import annotations

import pytest

from tests.benchmarks.growth.exponents import Cost, cost, exponent, sizes, write_table

CASES = "tests.benchmarks.growth.cases"
CELLS = (20_000, 60_000, 200_000, 1_000_000)
CONDITIONS = (100, 300, 1_000, 3_000, 10_000)
RUNS = (24, 300, 3_000, 10_000)
MANY_GENES = (12_000, 91_000)
# At the largest size: CPU-seconds and MB.
LIMITS = {
    "demo": (25, float("inf")),
    "import_with_table": (240, 2_000),
    "all_panels": (float("inf"), 4_000),
    "panels": (600, float("inf")),
    "bounds": (300, 6_000),
    "ridge": (60, 2_000),
    "leaderboard": (600, 3_000),
}


def hold(case: str, costs: list[Cost]) -> None:
    """Hold a case to its limits at its largest size."""
    cpu, peak = LIMITS.get(case, (float("inf"), float("inf")))
    assert costs[-1].cpu_s <= cpu, case
    assert costs[-1].peak_mb <= peak, case


@pytest.mark.parametrize(
    ("name", "unit", "full", "cases"),
    [
        ("cells", "cells", CELLS, ("import_with_table", "shard_of_table")),
        ("grid", "cells of the grid", (24,), ("demo",)),
        ("many_genes", "cells", MANY_GENES, ("all_panels",)),
        ("conditions", "conditions", CONDITIONS, ("split_frozen", "bounds", "ridge", "panels")),
        ("runs", "runs", RUNS, ("leaderboard", "published")),
    ],
)
def test_growth(name: str, unit: str, full: tuple[int, ...], cases: tuple[str, ...]) -> None:
    costs = {case: [cost(f"{CASES}:{case}", n) for n in sizes(*full)] for case in cases}
    write_table(name, unit, {case.replace("_", " "): found for case, found in costs.items()})
    # What misses its limit is in the table all the same.
    for case, found in costs.items():
        hold(case, found)
        # Nothing grows as a square.
        assert not exponent(found) >= 1.5, case
