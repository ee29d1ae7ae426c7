import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.perturbench import parity as perturbench
from perturbfm_core.evaluation.panels.perturbench import parity_sides
from perturbfm_core.evaluation.panels.perturbench.parity_clouds import mmd_noise
from perturbfm_core.evaluation.panels.perturbench.parity_moments import (
    rounding_in_scaling,
    rounding_in_tests,
)
from perturbfm_core.evaluation.panels.perturbench.parity_records import Sides, pair_of, pair_records
from perturbfm_core.evaluation.panels.perturbench.population import table_population
from perturbfm_core.evaluation.parity import run_case
from tests.conftest import REPO

HERE = REPO / "tests" / "parity" / "perturbench"


@pytest.fixture
def edge(tmp_path):
    copy = tmp_path / "case"
    shutil.copytree(HERE / "synth_edge", copy)
    return copy


def sides_of(folder):
    return parity_sides.read_sides(folder, json.loads((folder / "settings.json").read_text()))


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("joined", [False, True])
def test_predictions_are_stored_as_the_reference_is(edge, form, joined):
    # An npz holds no sparse matrix; how the peer adds up cells depends on how they are stored.
    table = anndata.read_h5ad(edge / "reference.h5ad")
    table.X = table.X.toarray() if form == "dense" else table.X.asformat(form)
    table.write_h5ad(edge / "reference.h5ad")
    path = edge / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"append_reference_controls": joined}))
    block = sides_of(edge)["noisy"].cells.block(0)
    assert sp.issparse(block) == (form != "dense")
    # The peer squares what is stored by gene in double precision; joining controls stores cells.
    assert block.dtype == (np.float64 if form == "csc" and not joined else np.float32)


@np.errstate(all="ignore")
def rounded_mmd(x, y):
    """Return the energy distance as the peer computes it, in single precision."""

    def mean_distance(a, b):
        a, b = a.astype(np.float32), b.astype(np.float32)
        squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * (a @ b.T)
        return float(np.sqrt(np.maximum(squares, 1e-8)).mean())

    return mean_distance(x, y) - 0.5 * mean_distance(x, x) - 0.5 * mean_distance(y, y)


def test_an_mmd_differs_by_no_more_than_single_precision_leaves():
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(0, 8, (n, 60)) for n in (1, 2, 7, 30)]
    # Equal cells have the largest rounding errors.
    predicted = [np.repeat(c[:1], 5, axis=0) for c in clouds]
    exact = pair_of("mmd", Sides([("c", str(i)) for i in range(4)], predicted, clouds, ["c"] * 4))
    noise = mmd_noise(predicted, clouds)
    gap = np.abs([[rounded_mmd(x, y) for y in clouds] for x in predicted] - exact.matrices["c"])
    assert (gap <= noise).all()
    assert gap.max() > 5e-4
    assert noise.max() < 0.1
    assert (exact.low["c"] == exact.matrices["c"] - noise).all()


def test_ranks_of_distances_that_differ_by_rounding_may_be_in_any_order():
    cloud = np.linspace(0, 9, 40).reshape(1, 40)
    far = cloud + 1e-5
    pair = pair_of("mmd", Sides([("c", "A"), ("c", "B")], [far, cloud], [cloud, far], ["c", "c"]))
    records = {
        "per_perturbation": {"m": {"c_A": 1e-4, "c_B": 1e-4}},
        "mean": {"m": 1e-4},
        "rank": {"m": {"c_A": 0.0, "c_B": 1.0}},
        "rank_mean": {"m": 0.5},
    }
    assert all(r.ok for r in pair_records("V2.mmd", "none", "m", pair, records, "V2"))
    records["rank"]["m"]["c_A"] = 1.25
    assert [r.key for r in pair_records("V2.mmd", "none", "m", pair, records, "V2") if not r.ok] == ["m|c_A"]


def test_recalls_of_pairs_are_within_the_bounds_of_ties():
    # 60 equal predicted entries of which 50 are taken: the peer's sort decides which.
    predicted, observed = np.ones((1, 60)), np.arange(60.0)[None]
    pair = pair_of("top_k_recall", Sides([("c", "A")], predicted, observed, ["c"]))
    records = {
        "per_perturbation": {"m": {"c_A": 0.86}},
        "mean": {"m": 0.86},
        "pairwise_rows_pred_cols_ref": {"m": {"c": {"labels": ["A"], "matrix": [[0.86]]}}},
    }
    found = list(pair_records("V2.top_k_recall", "average", "m", pair, records, "V2"))
    assert [r.metric for r in found if "pairs" in r.metric]
    assert all(r.ok for r in found)
    records["pairwise_rows_pred_cols_ref"]["m"]["c"]["matrix"] = [[0.7]]
    assert sum(not r.ok for r in pair_records("V2.top_k_recall", "average", "m", pair, records, "V2")) == 1


@pytest.mark.parametrize(("kind", "noisy"), [(sp.csr_matrix, True), (np.asarray, False)])
def test_a_gene_equal_in_all_cells_is_left_to_rounding_in_sparse_double_precision(kind, noisy):
    X = np.random.default_rng(0).uniform(1, 2, (9, 2))
    group, covariate = np.asarray([0, 0, 0, 1, 1, 1, -1, -1, -1]), np.zeros(9, dtype=int)
    X[:3, 0] = 0.1
    cells = table_population(kind(X), group, covariate, 2)
    assert rounding_in_tests(cells).tolist() == [noisy, False]
    assert rounding_in_scaling(cells, None, "V2").tolist() == [False, False]
    X[:, 0] = 0.1
    cells = table_population(kind(X), group, covariate, 2)
    assert rounding_in_tests(cells).tolist() == [noisy, noisy]
    assert rounding_in_scaling(cells, None, "V2").tolist() == [noisy, noisy]
    # In single precision the squares are exact sums; a gene that is 0 has no variance at all.
    X[:, 0] = 0.0
    assert not rounding_in_tests(table_population(kind(X), group, covariate, 2)).any()


def test_numbers_that_the_peers_rounding_decides_are_not_compared():
    vectors = np.asarray([[1.0, 2.0, 4.0], [2.0, 1.0, 5.0]])
    noisy = np.asarray([True, False])
    pair = pair_of("mse", Sides([("c", "A"), ("c", "B")], vectors, vectors[::-1], ["c", "d"], noisy))
    records = {"per_perturbation": {"m": {"c_A": 7.0, "c_B": 7.0}}, "mean": {"m": 7.0}}
    found = list(pair_records("V2.mse", "scores", "m", pair, records, "V2"))
    assert [r.skipped is not None for r in found] == [True, False, True]
    assert not found[1].ok


def test_controls_of_the_same_dose_are_those_of_the_commit_that_cases_are_made_with(tmp_path):
    obs = {"dose": [0.5, 0.5, 0.5, 10.0, 10.0, 10.0], "condition": ["A", "A", "ctrl", "A", "A", "ctrl"]}
    X = np.asarray([[1.0], [3.0], [0.0], [2.0], [4.0], [6.0]])
    anndata.AnnData(X, obs=pd.DataFrame(obs, index=list("abcdef"))).write_h5ad(tmp_path / "reference.h5ad")
    settings = {
        "pert_col": "condition",
        "cov_cols": ["dose"],
        "ctrl": "ctrl",
        "append_reference_controls": False,
    }
    sides = parity_sides.read_sides(tmp_path, settings)
    for commit, controls in (("cafe4c986fe1", [0.0, 6.0]), ("", [3.0, 3.0])):
        side = perturbench._matched(sides, {"peer_commit": commit}, "V2")["ref"]
        found = perturbench._vectors({"aggr_method": "logfc"}, side, "V2", True, None)
        np.testing.assert_allclose(found[:, 0], np.log2([2.1, 3.1]) - np.log2(np.add(controls, 0.1)))


@pytest.mark.parametrize(("file", "version"), [("aggregates_d357dfa", "V1"), ("aggregates_cafe4c9", "V2")])
def test_a_wrong_aggregated_vector_is_found(tmp_path, file, version):
    folder = tmp_path / "case"
    shutil.copytree(HERE / "synth_nocov_dense_missing", folder)
    path = folder / f"{file}.npz"
    stored = dict(np.load(path))
    stored["logfc|noisy|X"][2, 5] += 1e-3
    np.savez(path, **stored)
    found = run_case(folder)
    assert [f["metric"] for f in found["failures"]] == [f"{version}.aggregate_logfc"]
    assert found["failures"][0]["key"].removeprefix("noisy|") == stored["logfc|noisy|rows"][2]
