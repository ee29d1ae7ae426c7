"""The mean-response baseline beside what cell-eval2 emits of the same measured cells, and how it scores there.

Its values were made once by `build_generic_baseline` of cell-eval2, on the two cases of `tests/parity/cell_eval2`, one
of which has labels in no order.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.baseline import mean_response_cells
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate
from perturbfm_core.evaluation.panels.cell_eval2.files import read_cells
from tests.support.paths import TESTS

PEER = json.loads(Path(__file__).with_name("peer_baseline.json").read_text(encoding="utf-8"))["cases"]


@pytest.fixture(scope="module", params=PEER)
def case(request):
    """Return (the peer's values, the measured cells, the baseline's)."""
    folder = TESTS / "parity" / "cell_eval2" / request.param
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    cells, _ = read_cells(folder / "real.h5ad", expected["pert_col"], expected["control"])
    truth = Truth(cells)
    return PEER[request.param], truth, mean_response_cells(truth)


def test_the_cells_are_the_peers(case):
    peer, truth, base = case
    assert base.X.nnz == peer["cells"]["stored"]
    assert set(base.names) == set(peer["cells"]["by_label"])
    for k, name in enumerate(base.names):
        total = base.of_group(k).data.sum(dtype=np.float64)
        assert total == pytest.approx(peer["cells"]["by_label"][str(name)], rel=1e-7), name
    moved = base.X[base.group != base.control].astype(np.float64)
    np.testing.assert_allclose(
        np.asarray(moved.sum(axis=0)).ravel(),
        peer["cells"]["by_gene"],
        rtol=1e-6,
        atol=1e-5,
    )
    # Controls are the measured ones.
    assert (base.of_group(base.control) != truth.cells.of_group(truth.cells.control)).nnz == 0


def test_the_scores_are_the_peers(case):
    peer, truth, base = case
    means = aggregates(evaluate(truth, base))["mean"]
    assert set(means) == set(peer["mean"])
    for metric, value in peer["mean"].items():
        assert means[metric] == pytest.approx(value, rel=1e-9, nan_ok=True), metric
