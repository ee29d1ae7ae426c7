"""cell-eval 0.8.2 beside ours on the same cells.

Ours are the same profile, from cells to scores, and the whole panel, which adds normalised scores and the ceilings of
split halves.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from tests.benchmarks.peers.beside import largest_differences, needs_peers, report, run_peer
from tests.benchmarks.peers.panel_case import comparison_of, panel_seconds
from tests.benchmarks.test_virtual_cell import CELLS, CONTROLS, P, large_cells, measured

__all__ = ["large_cells"]

pytestmark = needs_peers

# The peer's means and distances are in single precision. The one correlation of its E-distances loses most: they
# are small differences of large means.
TOLERANCE = {"pearson_edistance": 1e-3}
SINGLE = 2e-6


def comparison(folder):
    """Return the comparison of the predicted with the observed cells."""
    parts = ("data", "indices", "indptr")
    X, Y = (
        sp.csr_array(tuple(np.load(folder / f"{n}.{part}.npy") for part in parts)) for n in ("real", "pred")
    )
    rows = [np.arange(CELLS * i, CELLS * (i + 1)) for i in range(P)]
    return comparison_of(X, [CONTROLS + r for r in rows], np.arange(CONTROLS), Y, rows)


@pytest.mark.parametrize("profile", ["vcc", "full"])
def test_cell_eval(benchmark, large_cells, profile):
    peer = benchmark.pedantic(lambda: run_peer("cell_eval", large_cells, profile), rounds=1, iterations=1)
    ours = measured(large_cells, profile)
    differences = largest_differences(ours["values"], peer["values"], relative=False)
    theirs = {"all metrics": peer["cpu_s"]}
    if profile == "full":
        theirs["clustering_agreement"] = peer["clustering_cpu_s"]
    mine = {"all metrics": ours["cold"], "observed side known": ours["truth_known"]}
    if profile == "full":
        mine |= panel_seconds(comparison(large_cells), "virtual_cell")
    report(benchmark, "cell-eval", mine, theirs, differences)
    benchmark.extra_info["above_inputs_mb"] = {
        "peer": peer["above_inputs_mb"],
        "ours": ours["above_inputs_mb"],
    }
    assert set(differences) == set(ours["values"])
    assert all(gap <= TOLERANCE.get(name, SINGLE) for name, gap in differences.items()), differences
