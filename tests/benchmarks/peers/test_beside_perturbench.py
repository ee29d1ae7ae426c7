"""PerturBench's default evaluation beside ours on the same cells, from cells to scores and ranks.

Ours are the same two pairs with ranks, and the whole panel: all of its metrics, those of version 2 among them.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.evaluation.panels.perturbench import aggregate
from perturbfm_core.evaluation.panels.perturbench.population import table_population
from perturbfm_core.evaluation.panels.perturbench.rank import ranks
from perturbfm_core.evaluation.panels.perturbench.vector import VECTOR_METRICS
from tests.benchmarks.peers.beside import largest_differences, needs_peers, report, run_peer
from tests.benchmarks.peers.panel_case import comparison_of, panel_seconds
from tests.benchmarks.test_perturbench import PERTS, tables

__all__ = ["tables"]

pytestmark = [
    needs_peers,
    pytest.mark.skipif(
        not Path(os.environ.get("PEERS", ""), "perturbench", "bin", "python").exists(),
        reason="PerturBench is on no index; clone github.com/altoslabs/perturbench to third_party/perturbench and "
        "run `make bench-peers` again",
    ),
]

# The peer's means are in single precision; ranks are shares of 100 perturbations.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def folder(tables, tmp_path_factory):
    path = tmp_path_factory.mktemp("cells")
    X, group, Y, mine = tables
    for name, M, groups in (("real", X, group), ("pred", Y, mine)):
        for part in ("data", "indices", "indptr"):
            np.save(path / f"{name}.{part}.npy", getattr(M, part))
        np.save(path / f"{name}_group.npy", groups)
    return path


def default_pairs(tables, divisor):
    """Return {metric: values} of average/rmse and logfc/cosine with ranks, from the cells."""
    X, group, Y, mine = tables
    observed = table_population(X, group, np.zeros_like(group), PERTS)
    predicted = table_population(Y, mine, np.zeros_like(mine), PERTS, observed.controls)
    control = observed.controls.moments.mean
    P, R = predicted.moments.mean, observed.moments.mean
    sides = {
        "rmse_average": (P, R),
        "cosine_logfc": (aggregate.logfc(P, control), aggregate.logfc(R, control)),
    }
    out = {}
    for name, (p, r) in sides.items():
        metric, _, aggregation = name.partition("_")
        kind = VECTOR_METRICS[metric]
        out[name] = kind.score(p, r)
        out[f"{metric}_rank_{aggregation}"] = ranks(
            kind.pairwise(p, r), similarity=kind.similarity, denominator=divisor
        )
    return out


def test_perturbench(benchmark, tables, folder):
    peer = benchmark.pedantic(lambda: run_peer("perturbench", folder), rounds=1, iterations=1)
    start = time.process_time()
    ours = default_pairs(tables, "n" if peer["version"] == 1 else "n-1")
    took = {"default evaluation": time.process_time() - start}
    X, group, Y, mine = tables
    truth, predicted = ([np.flatnonzero(g == i) for i in range(PERTS)] for g in (group, mine))
    took |= panel_seconds(comparison_of(X, truth, np.flatnonzero(group < 0), Y, predicted), "perturbench")
    differences = largest_differences(ours, peer["values"], relative=False)
    report(
        benchmark,
        f"PerturBench, version {peer['version']}",
        took,
        {"default evaluation": peer["cpu_s"]} | peer["cpu_s_by_pair"],
        differences,
    )
    assert set(differences) == set(ours)
    assert max(differences.values()) <= TOLERANCE, differences
