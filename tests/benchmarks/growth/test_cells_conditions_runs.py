"""Cost by number of cells, conditions and runs, with the exponents; limits at the largest sizes (``make bench-growth``)."""

from __future__ import annotations

import pytest

from tests.benchmarks.growth.exponents import Cost, cost, exponent, sizes, write_table

CASES = "tests.benchmarks.growth.cases"
CELLS = (20_000, 60_000, 200_000, 1_000_000)
CONDITIONS = (100, 300, 1_000, 3_000, 10_000)
RUNS = (24, 300, 3_000, 10_000)
# At the largest size: CPU-seconds and MB.
LIMITS = {
    "import_with_table": (240, 2_000),
    "bounds": (300, 6_000),
    "ridge": (60, 2_000),
    "leaderboard": (600, 3_000),
}


def measured(case: str, full: tuple[int, ...]) -> list[Cost]:
    """Return the costs of one case, held to its limits at its largest size."""
    costs = [cost(f"{CASES}:{case}", n) for n in sizes(*full)]
    cpu, peak = LIMITS.get(case, (float("inf"), float("inf")))
    assert costs[-1].cpu_s <= cpu
    assert costs[-1].peak_mb <= peak
    return costs


@pytest.mark.parametrize(
    ("name", "unit", "full", "cases"),
    [
        ("cells", "cells", CELLS, ("import_with_table", "shard_of_table")),
        ("conditions", "conditions", CONDITIONS, ("split_frozen", "bounds", "ridge")),
        ("runs", "runs", RUNS, ("leaderboard", "published")),
    ],
)
def test_growth(name: str, unit: str, full: tuple[int, ...], cases: tuple[str, ...]) -> None:
    rows = {case.replace("_", " "): measured(case, full) for case in cases}
    write_table(name, unit, rows)
    # Nothing grows as a square.
    assert all(exponent(costs) < 1.5 for costs in rows.values())
