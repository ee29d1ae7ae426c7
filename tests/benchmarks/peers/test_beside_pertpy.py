"""The distances of scPerturBench, by pertpy 0.7.0, beside ours on the same cells.

The peer's are its five at 100 and 5,000 genes (transport cost at 100), the genes given. Ours is timed twice, each time
with the tests that choose the genes: the whole panel at its four subsets, and the panel at those two subsets, which
still has ten metrics of means and the shared genes beside the five.
"""

import os
import time

import numpy as np
import pytest

from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.evaluation.panels.scperturbench import degs, panel, sides
from perturbfm_core.evaluation.panels.scperturbench.degs import deg_order, moments, welch_scores
from tests.benchmarks.peers.beside import largest_differences, needs_peers, report, run_peer
from tests.benchmarks.test_scperturbench import fifty

pytestmark = needs_peers

# The peer's means and distances are in single precision, the panel's in double.
TOLERANCE = 1e-4
PEER_TOPS, PEER_TRANSPORT_TOPS = (100, 5000), (100,)


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


def seconds(comparison, run):
    """Return CPU-seconds of a run that knows nothing, and of one that knows the true side."""
    comparison.observed_shared.clear()
    out = []
    for _ in range(2):
        comparison.shared.clear()
        start = time.process_time()
        run()
        out.append(time.process_time() - start)
    return out


def test_pertpy(benchmark, comparison, folder, monkeypatch):
    count = int(os.environ.get("PEER_PERTURBATIONS", len(comparison)))
    # Imports are counted on neither side.
    list(PANELS)
    took = {}
    with monkeypatch.context() as patch:
        for module in (degs, panel):
            patch.setattr(module, "TOPS", PEER_TOPS)
        patch.setattr(sides, "TRANSPORT_TOPS", PEER_TRANSPORT_TOPS)
        both = seconds(comparison, lambda: panel._compute(comparison))
    took["all metrics"], took["true side known"] = both
    both = seconds(comparison, lambda: evaluate(comparison, ["scperturbench"]))
    took["whole panel, four subsets"], took["whole panel, true side known"] = both
    scores = evaluate(comparison, ["scperturbench"])
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
