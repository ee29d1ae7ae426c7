"""`metrics score-pair` on files of the 2026 Virtual Cell Challenge's form: CPU-seconds and peak memory of one process.

One context has 138,400 cells x 18,533 genes and, here, 300 perturbations; 12 % of the entries are not zero, and a cell
has about 9,600 counts. ``CHALLENGE_CELLS`` sets the number of cells (default 5,000, with 415 cells of each perturbation);
half as many are scored first, and the growth is printed. Targets at the full size: 120 CPU-seconds, 4 GB.
"""

import os
import sys

from tests.benchmarks.conftest import measure
from tests.benchmarks.counts_case import write_sparse_screen

FULL, GENES, CELLS_OF_ONE = 138_400, 18_533, 415
CELLS = int(os.environ.get("CHALLENGE_CELLS", "5000"))


def score(folder, n_cells):
    """Return the usage of one scoring of simulated files."""
    perturbations = max(3, round(0.9 * n_cells / CELLS_OF_ONE))
    for seed, name in enumerate(("real", "pred"), start=1):
        write_sparse_screen(folder / f"{name}.h5ad", seed, n_cells, GENES, perturbations)
    files = [f"--{name}={folder / name}.h5ad" for name in ("real", "pred")]
    command = ["metrics", "score-pair", *files, f"--out={folder / 'out'}"]
    usage = measure([sys.executable, "-m", "perturbfm_core.cli.main", *command])
    for name in ("real", "pred"):
        (folder / f"{name}.h5ad").unlink()
    return usage


def test_a_context_of_the_challenge(benchmark, tmp_path):
    half = score(tmp_path, CELLS // 2)
    usages = []
    benchmark.pedantic(lambda: usages.append(score(tmp_path, CELLS)), rounds=1, iterations=1)
    whole = usages[-1]
    benchmark.extra_info |= {"cells": CELLS, "cpu_s": whole.cpu_s, "peak_mb": whole.peak_mb}
    print(
        f"\n{CELLS // 2} and {CELLS} cells: {half.cpu_s:.1f} and {whole.cpu_s:.1f} CPU-seconds, "
        f"{half.peak_mb:.0f} and {whole.peak_mb:.0f} MB"
    )
    assert whole.peak_mb <= 4096
    if CELLS == FULL:
        assert whole.cpu_s <= 120
