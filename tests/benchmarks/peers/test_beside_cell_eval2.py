"""cell-eval2 0.20.0 beside ours on the same counts: 50,000 cells x 2,000 genes x 100 perturbations.

``PEER_CELLS`` sets another number of cells. Both run with one thread and without numpy's kernels for AVX-512: the
peer's ties depend on them, and its values are compared.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.counts_case import Screen, write_pair
from tests.benchmarks.peers.beside import needs_peers
from tests.support.paths import REPO

pytestmark = needs_peers

CELLS, GENES, PERTURBATIONS = int(os.environ.get("PEER_CELLS", "50000")), 2_000, 100
ALIKE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
# How many times fewer CPU-seconds ours take, and the relative difference of values, at most.
FASTER, TOLERANCE = 40, 1e-9


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    write_pair(folder, Screen(CELLS, GENES, PERTURBATIONS))
    return folder


def run(python, script, *args):
    """Return what a script prints in an environment."""
    done = subprocess.run(
        [python, Path(__file__).with_name(script), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=REPO,
        env=os.environ | ALIKE | {"PYTHONPATH": str(REPO) if python == sys.executable else ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def largest_differences(ours, theirs):
    """Return {metric: largest relative difference}; a value that one side lacks or has undefined gives inf."""
    out = {}
    for name, value in theirs.items():
        x, y = ours.get(name, math.inf), math.nan if value is None else float(value)
        same = math.isnan(x) and math.isnan(y)
        gap = 0.0 if same else abs(x - y) / max(abs(y), 1e-12)
        metric = name.partition("/")[0]
        out[metric] = max(out.get(metric, 0.0), math.inf if math.isnan(gap) else gap)
    return out


@pytest.mark.parametrize("profile", ["vcc2026", "full", "scale"])
def test_cell_eval2(benchmark, screen, profile):
    python = Path(os.environ["PEERS"], "cell_eval2", "bin", "python")
    ours = run(sys.executable, "time_ours_cell_eval2.py", screen, profile)
    peer = benchmark.pedantic(
        lambda: run(python, "time_cell_eval2.py", screen, profile), rounds=1, iterations=1
    )
    differences = largest_differences(ours["values"], peer["values"])
    seconds = {name: sum(side["cpu_s"].values()) for name, side in (("peer", peer), ("ours", ours))}
    times = seconds["peer"] / seconds["ours"]
    benchmark.extra_info |= {
        "peer": "cell-eval2",
        "peer_cpu_s": peer["cpu_s"],
        "ours_cpu_s": ours["cpu_s"],
        "peak_mb": {"peer": peer["peak_mb"], "ours": ours["peak_mb"]},
        "differences": differences,
        "cpus": os.cpu_count(),
    }
    worst = sorted(differences.items(), key=lambda item: -item[1])[:4]
    print(
        f"\n{profile}: CPU-seconds of cell-eval2 {peer['cpu_s']} and ours {ours['cpu_s']}, x{times:.0f}; "
        f"peak {peer['peak_mb']:.0f} and {ours['peak_mb']:.0f} MB; largest differences {worst}"
    )
    assert max(differences.values()) <= TOLERANCE, worst
    assert ours["peak_mb"] < peer["peak_mb"]
    assert times >= FASTER
