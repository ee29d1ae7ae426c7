import json
import math
import shutil

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.scperturbench import parity, pipeline, pseudobulk, sinkhorn
from perturbfm_core.evaluation.parity import run_case
from tests.support.paths import REPO

SYNTHETIC = REPO / "tests" / "parity" / "scperturbench"
REAL = REPO.parent / "shared" / "parity" / "scperturbench"
SMALL = SYNTHETIC / "synth_subsample_2000plus"


@pytest.mark.parametrize(
    "folder",
    [
        SYNTHETIC / "synth_context_300x60",
        SYNTHETIC / "synth_subsample_2000plus",
        SYNTHETIC / "synth_edge_40genes",
        REAL / "norman_genetic_130genes",
    ],
    ids=lambda folder: folder.name,
)
def test_case_gives_the_peers_numbers(folder):
    if folder.parent == REAL and not folder.is_dir():
        pytest.skip(f"real data are absent: {folder}")
    result = run_case(folder)
    expected = json.loads((folder / "expected.json").read_text())
    assert result["kind"] == "scperturbench"
    assert result["failures"] == []
    # The peer has no predicted DEGs of a single cell.
    no_number = sum("error" in x for x in (expected["common_degs_reconstructed"] or {}).values())
    ill = sum(n for reason, n in result["reasons"].items() if reason.startswith("ill_conditioned"))
    assert result["skipped"] - ill == no_number
    by_metric = {}
    for record in expected["records"]:
        if "unrounded" not in record:
            continue
        by_metric[record["metric"]] = by_metric.get(record["metric"], 0) + 1
    for metric, n in by_metric.items():
        for name in (metric, f"{metric} as written"):
            # Another machine may round what the case flags as decided by rounding otherwise.
            assert result["metrics"][name]["compared"] + result["metrics"][name]["skipped"] == n
    # Also where rounding decides the value, because the order of operations is the peer's.
    assert result["metrics"]["pearson_distance"]["max_rel_diff"] < 1e-12
    assert result["metrics"]["sym_kldiv"]["max_rel_diff"] < 1e-7
    if expected["published_style_scores"]:
        assert result["metrics"]["rank"]["compared"] > 300


def groups_of(S, P, dtype=np.float64):
    S, P = (np.asarray(X, dtype=dtype) for X in (S, P))
    return pipeline.Groups(P, S, S, np.asarray([f"g{j}" for j in range(S.shape[1])]))


def test_a_profile_of_zeros_is_at_the_peers_cosine_distance_of_0():
    # The peer clips the undefined distance to [0, 2], which gives 0; for users it is undefined.
    cells, zeros = [[1.0, 2.0], [0.0, 1.0]], np.zeros((3, 2))
    for S, P in ((cells, zeros), (zeros, cells)):
        assert pipeline.score(groups_of(S, P), "cosine_distance") == 0.0
    assert np.isnan(pseudobulk.cosine_distance(np.asarray([1.0, 2.0]), np.zeros(2)))
    assert pipeline.score(groups_of(cells, cells), "cosine_distance") < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_rounding_leaves_of_a_distance_grows_with_the_cells(dtype, rng):
    S = 3.0 * rng.random((6, 60))
    single = dtype == np.float32
    groups = groups_of(S, S + 0.05, dtype)
    s, p = groups.stimulated, groups.imputed
    # As the peer has it, in the precision of the cells.
    mmd = (s @ s.T).mean() + (p @ p.T).mean() - 2 * (s @ p.T).mean()
    allowed = parity._cancelled(groups, "mmd", single=single)
    assert abs(pipeline.score(groups, "mmd") - mmd) <= (allowed if single else 1e-12)
    # The distance of a cell to itself, which the peer has in double precision.
    D = np.square(s).sum(axis=1)[:, None] + np.square(s).sum(axis=1) - 2 * (s @ s.T)
    rounding = np.sqrt(np.abs(np.diag(D)).max())
    assert single or rounding <= len(s) * parity._cancelled(groups, "edistance", single=False)


@pytest.fixture
def copied(tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(SMALL, folder)
    return folder


def test_a_rounding_error_of_the_peer_is_not_compared_where_it_differs(tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(SYNTHETIC / "synth_edge_40genes", folder)
    path = folder / "expected.json"
    expected = json.loads(path.read_text())
    for record in expected["records"]:
        if record.get("ill_conditioned") and record["metric"] == "pearson_distance":
            record["unrounded"], record["performance"] = 0.123456, 0.1235
    path.write_text(json.dumps(expected))
    result = run_case(folder)
    assert result["failed"] == 0
    assert result["metrics"]["pearson_distance"]["skipped"] == 8
    assert any(reason.startswith("ill_conditioned") for reason in result["reasons"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.pop("unrounded"),
        lambda record: record.update(unrounded="0.5"),
        lambda record: record.update(metric="a_new_metric"),
        lambda record: record.pop("perturb"),
        lambda record: record.update(DEG="ten"),
        lambda record: record.update(status="crashed", unrounded=[1]),
    ],
    ids=["lacks", "text", "metric", "key", "top", "list"],
)
def test_a_record_of_an_unknown_form_is_counted_as_not_compared(copied, spoil):
    path = copied / "expected.json"
    expected = json.loads(path.read_text())
    spoil(expected["records"][3])
    path.write_text(json.dumps(expected))
    result = run_case(copied)
    assert result["failed"] == 0
    assert result["skipped"] >= 1
    assert result["compared"] > 300
    assert any("unknown form of record" in reason for reason in result["reasons"])


def test_records_that_are_no_objects_are_counted(copied):
    path = copied / "expected.json"
    expected = json.loads(path.read_text())
    expected["records"][0] = "nothing"
    path.write_text(json.dumps(expected))
    result = run_case(copied)
    assert (result["failed"], result["skipped"]) == (0, 1)


def test_a_changed_number_is_caught(copied):
    path = copied / "expected.json"
    expected = json.loads(path.read_text())
    expected["records"][0]["unrounded"] *= 1.0001
    path.write_text(json.dumps(expected))
    result = run_case(copied)
    assert [f["metric"] for f in result["failures"]] == [expected["records"][0]["metric"]]


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        pytest.param(lambda m: m.setattr(sinkhorn, "EPSILON", 0.051), {"wasserstein"}, id="epsilon"),
        pytest.param(
            lambda m: m.setitem(pseudobulk.PROFILES, "euclidean", pseudobulk.mmd),
            {"euclidean", "euclidean as written"},
            id="squared",
        ),
        pytest.param(
            lambda m: m.setattr("perturbfm_core.evaluation.panels.scperturbench.pipeline.SUBSAMPLE_SEED", 43),
            {"edistance", "edistance as written", "sym_kldiv", "sym_kldiv as written"},
            id="seed",
        ),
    ],
)
def test_a_planted_fault_is_caught(monkeypatch, change, caught):
    change(monkeypatch)
    failed = {name for name, m in run_case(SMALL)["metrics"].items() if m["failed"]}
    assert caught <= failed


def test_a_folder_of_another_peer_is_not_this_kind(copied):
    path = copied / "expected.json"
    path.write_text(json.dumps({"peer": "someone else"}))
    with pytest.raises(MetricError, match="no parity case"):
        run_case(copied)


def test_cells_in_a_sparse_file_are_compared_all_the_same(copied):
    table = anndata.read_h5ad(copied / "inputs.h5ad")
    table.X = sp.csr_matrix(table.X)
    table.write_h5ad(copied / "inputs.h5ad")
    assert run_case(copied) == run_case(SMALL) | {"case": "case"}


def test_whole_numbers_are_taken_in_double_precision():
    X = np.random.default_rng(0).integers(0, 5, (7, 4))
    whole, double = (
        pipeline.Groups(A[:3], A[3:], A[:2], np.arange(4).astype(str)) for A in (X, X.astype(np.float64))
    )
    for metric in pipeline.METRICS:
        assert pipeline.score(whole, metric) == pytest.approx(pipeline.score(double, metric), rel=1e-12)
    assert parity._tolerance(X.dtype, "mse") == (1e-12, 1e-12)


def test_a_distance_that_is_zero_but_for_rounding_passes_and_another_does_not():
    rtol, atol = parity._tolerance(np.dtype(np.float32), "mse")
    assert 7e-15 <= atol < 1e-4
    assert rtol < 1e-4
    assert parity._tolerance(np.dtype(np.float64), "mse") == (1e-12, 1e-12)


def test_what_cancels_in_single_precision_is_no_difference():
    rng = np.random.default_rng(0)
    S = 5 + rng.normal(size=(20, 30))
    groups = parity.Groups(S + 1e-3 * rng.normal(size=S.shape), S, S, np.arange(30).astype(str))
    I = groups.imputed.astype(np.float32)  # noqa: E741
    X = S.astype(np.float32)
    # pertpy's formula: a difference of three mean products.
    peer = float(np.dot(X, X.T).mean() + np.dot(I, I.T).mean() - 2 * np.dot(X, I.T).mean())
    gap = abs(peer - float(pseudobulk.mmd(S.mean(axis=0), groups.imputed.mean(axis=0))))
    assert gap <= parity._cancelled(groups, "mmd", single=True) < 1e-3
    assert (
        parity._cancelled(groups, "mmd", single=False) == parity._cancelled(groups, "mse", single=True) == 0
    )
    # The peer's transport cost is in single precision whatever the cells are.
    assert 0 < parity._cancelled(groups, "wasserstein", single=False) < 1e-3
    assert 0 < parity._cancelled(groups, "edistance", single=True) < 2e-5
    assert 5e-8 < parity._cancelled(groups, "edistance", single=False) < 1e-5


def test_a_transport_cost_of_equal_cells_that_is_a_rounding_error_of_the_peer_is_not_compared(
    copied, monkeypatch
):
    path = copied / "expected.json"
    expected = json.loads(path.read_text())
    costs = [r for r in expected["records"] if r["metric"] == "wasserstein" and r.get("unrounded")]
    costs[0]["unrounded"], costs[0]["performance"] = -2.3e-14, -0.0
    path.write_text(json.dumps(expected))
    real = parity.score
    monkeypatch.setattr(parity, "score", lambda g, m: math.nan if m == "wasserstein" else real(g, m))
    entry = run_case(copied)["metrics"]["wasserstein"]
    assert [reason.startswith("ill_conditioned: all cells are the same") for reason in entry["reasons"]] == [
        True
    ]
    assert sum(entry["reasons"].values()) == 1
    # Another cost than 0 is a difference.
    assert entry["failed"] == len(costs) - 1 > 0
