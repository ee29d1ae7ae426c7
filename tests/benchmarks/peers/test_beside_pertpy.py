"""The distances of scPerturBench, by pertpy 0.7.0, beside ours on the same cells.

Ours is the whole panel: all of its metrics, at four subsets, with the tests that choose the genes. The peer's are
its five at 100 and 5,000 genes (transport cost at 100), the genes given.
"""

import os
import time

import numpy as np
import pytest

from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.evaluation.panels.scperturbench.degs import deg_order, moments, welch_scores
from tests.benchmarks.peers.beside import largest_differences, needs_peers, report, run_peer
from tests.benchmarks.test_scperturbench import fifty

pytestmark = needs_peers

# The peer's means and distances are in single precision, the panel's in double.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def comparison():
    return fifty("dense")


@pytest.fixture(scope="module")
def folder(comparison, tmp_path_factory):
    """Return a folder with the cells of all evaluations and the first genes of each."""
    path, cells = tmp_path_factory.mktemp("cells"), comparison.cells
    control = cells.dense(cells.control_rows["c"])
    true = [cells.truth(i) for i in range(len(cells))]
    still = moments(control)
    first = [deg_order(welch_scores(moments(S), still))[:100] for S in true]
    predicted = [cells.predicted(i) for i in range(len(cells))]
    arrays = {"control": control, "stimulated": true, "imputed": predicted, "first": first}
    for name, values in arrays.items():
        np.save(path / f"{name}.npy", np.asarray(values))
    return path


def test_pertpy(benchmark, comparison, folder):
    count = int(os.environ.get("PEER_PERTURBATIONS", len(comparison)))
    # Imports are counted on neither side.
    list(PANELS)
    comparison.observed_shared.clear()
    took = {}
    for name in ("all metrics", "true side known"):
        comparison.shared.clear()
        start = time.process_time()
        scores = evaluate(comparison, ["scperturbench"])
        took[name] = time.process_time() - start
    peer = benchmark.pedantic(lambda: run_peer("pertpy", folder, count), rounds=1, iterations=1)
    ours = {r.metric.name: r.values[:count] for r in scores.results if r.metric.name in peer["values"]}
    differences = largest_differences(ours, peer["values"], relative=True)
    report(
        benchmark,
        "pertpy",
        took,
        {"all metrics": peer["cpu_s"]} | peer["cpu_s_by_metric"],
        differences,
    )
    assert max(differences.values()) <= TOLERANCE, differences
