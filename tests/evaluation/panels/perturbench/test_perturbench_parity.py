import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.evaluation.panels.perturbench import parity as perturbench
from perturbfm_core.evaluation.panels.perturbench import parity_sides
from perturbfm_core.evaluation.panels.perturbench.parity_moments import as_scaled
from perturbfm_core.evaluation.panels.perturbench.parity_records import Sides, pair_of
from perturbfm_core.evaluation.panels.perturbench.population import table_population
from perturbfm_core.evaluation.parity import KINDS, run_case
from tests.conftest import REPO

HERE = REPO / "tests" / "parity" / "perturbench"
REAL = REPO.parent / "shared" / "parity" / "perturbench"
SYNTH = ["synth_2cov_combo", "synth_nocov_dense_missing"]
SKIPPED = {"devel_transfer": 0, "synth_2cov_combo": 0, "synth_nocov_dense_missing": 72, "synth_edge": 8}
COMPARED = {
    "devel_transfer": 22760,
    "synth_2cov_combo": 14624,
    "synth_nocov_dense_missing": 3474,
    "synth_edge": 7624,
}
# Aggregated vectors, one record each; the copy of synth_edge has no file of them.
VECTORS = {
    "devel_transfer": 1188,
    "synth_2cov_combo": 1368,
    "synth_nocov_dense_missing": 437,
    "synth_edge": 0,
}


def case_folder(name):
    path = (HERE if name.startswith("synth") else REAL) / name
    if not path.is_dir():
        pytest.skip(f"no real cases: {path} is absent")
    return path


@pytest.mark.parametrize("name", [*SYNTH, "synth_edge", "devel_transfer"])
def test_every_record_is_the_peers(name):
    result = run_case(case_folder(name))
    assert result["kind"] == "perturbench"
    assert result["failed"] == 0, result["failures"]
    vectors = {k: m["compared"] for k, m in result["metrics"].items() if ".aggregate_" in k}
    assert sum(vectors.values()) == VECTORS[name]
    assert (result["compared"], result["skipped"]) == (COMPARED[name] + VECTORS[name], SKIPPED[name])
    reasons = {reason for entry in result["metrics"].values() for reason in entry["reasons"]}
    # A group of one cell, of which the peer has no test.
    assert len(reasons) <= 1 or name == "synth_edge"
    assert {key.split(".")[0] for key in result["metrics"]} == {"V1", "V2"}


def test_every_number_of_the_case_becomes_a_record():
    folder = HERE / "synth_2cov_combo"
    wanted = 0
    for name in ("expected.json", "expected_upstream_cafe4c9.json"):
        expected = json.loads((folder / name).read_text())
        parts = [expected["values"], expected.get("evaluator_summary", {})]
        parts += [expected[k]["values"] for k in ("deg10_logfc", "top10_deg_logfc") if k in expected]
        wanted += sum(count(part) for part in parts)
    assert wanted == COMPARED[folder.name]


def count(tree):
    if not isinstance(tree, dict):
        return len(tree) * len(tree[0]) if isinstance(tree, list) else 1
    unlike_values = ("rank_bounds", "rank_denominator", "labels")
    return sum(count(part) for key, part in tree.items() if key not in unlike_values)


@pytest.fixture
def edge(tmp_path):
    copy = tmp_path / "case"
    shutil.copytree(HERE / "synth_edge", copy)
    return copy


def changed(folder, change, file="expected_upstream_cafe4c9.json"):
    """Change the expected numbers of a case and return what its comparison gives."""
    path = folder / file
    expected = json.loads(path.read_text())
    change(expected)
    path.write_text(json.dumps(expected))
    return run_case(folder)


def test_a_condition_equal_to_its_control_has_the_peers_undefined_values(edge):
    expected = json.loads((edge / "expected.json").read_text())["values"]["logfc"]
    # c1_Q1 of this model is a copy of the controls: scikit-learn's R2 of a constant is 0 by convention.
    assert expected["cosine"]["per_perturbation"]["collapsed"]["c1_Q1"] is None
    assert expected["r2_score"]["per_perturbation"]["collapsed"]["c1_Q1"] == 0.0
    metrics = run_case(edge)["metrics"]
    for name in ("cosine", "pearson", "r2_score"):
        entry = metrics[f"V1.{name}_logfc"]
        assert (entry["failed"], entry["skipped"]) == (0, 0)
        assert metrics[f"V1.{name}_rank_logfc"]["failed"] == 0


def test_a_ratio_of_rounding_errors_of_the_peer_is_not_compared(edge):
    def noise(expected):
        expected["values"]["logfc"]["r2_score"]["per_perturbation"]["collapsed"]["c1_Q1"] = -2e32
        expected["values"]["logfc"]["r2_score"]["mean"]["collapsed"] = -2e31
        expected["values"]["logfc"]["r2_score"]["rank"]["collapsed"]["c1_Q1"] = 1.0
        expected["values"]["logfc"]["r2_score"]["rank_bounds"]["collapsed"]["c1_Q1"] = [1.0, 1.0]

    result = changed(edge, noise)
    assert result["failed"] == 0
    reasons = result["metrics"]["V2.r2_score_logfc"]["reasons"]
    assert sum(reasons.values()) == 2
    assert all(reason.startswith("ill_conditioned") for reason in reasons)
    assert result["metrics"]["V2.r2_score_rank_logfc"]["skipped"] >= 1

    def wrong(expected):
        expected["values"]["logfc"]["r2_score"]["per_perturbation"]["collapsed"]["c1_Q2"] += 0.1

    assert [f["key"] for f in changed(edge, wrong)["failures"]] == ["collapsed|c1_Q2"]


@pytest.mark.parametrize("value", ["0.5", True, [0.5], {"value": 0.5}])
def test_a_number_of_an_unknown_form_is_counted_as_not_compared(edge, value):
    def spoil(expected):
        expected["values"]["average"]["mse"]["per_perturbation"]["noisy"]["c1_Q2"] = value

    result = changed(edge, spoil)
    assert (result["failed"], result["skipped"]) == (0, SKIPPED["synth_edge"] + 1)
    assert result["compared"] == COMPARED["synth_edge"] - 1
    (reason,) = result["metrics"]["V2.mse_average"]["reasons"]
    assert reason.startswith("unknown form of record")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e["values"]["average"].update(a_new_metric=e["values"]["average"]["mse"]),
        lambda e: e["values"]["average"].update(mse=[1, 2]),
        lambda e: e["values"].update(average="none"),
        lambda e: e["aggregate_settings"].update(average={"aggr_method": "mode"}),
        lambda e: e["values"]["average"]["mse"].pop("mean"),
        lambda e: e.update(errors=["all of it"]),
        lambda e: e["errors"].update({"a/b": "two parts"}),
        lambda e: e.pop("values"),
    ],
    ids=["metric", "list", "text", "method", "field", "errors", "key", "values"],
)
def test_a_section_of_an_unknown_form_is_counted_as_not_compared(edge, spoil):
    result = changed(edge, spoil)
    assert result["failed"] == 0
    assert result["compared"] > 3000
    assert result["skipped"] > 0


@pytest.mark.parametrize(
    ("version", "value", "pair"), [("V1", np.sqrt(4.0 / 3), np.inf), ("V2", np.nan, np.nan)]
)
def test_errors_of_v1_leave_out_undefined_genes_and_take_infinite_ones_for_zero(version, value, pair):
    # Infinite predictions are 0 in the values of V1, not in its pairs.
    sides = Sides(
        [("c", "A")], np.asarray([[np.nan, -np.inf, 1.0, 4.0]]), np.asarray([[1.0, 2.0, 1.0, 4.0]]), ["c"]
    )
    found = pair_of("rmse", sides, version)
    np.testing.assert_allclose(found.values, [value])
    np.testing.assert_array_equal(found.matrices["c"], [[pair]])


@pytest.mark.parametrize("types", [("float32", "float64"), ("float64", "float32")])
def test_predictions_and_the_controls_joined_to_them_have_the_wider_type(tmp_path, types):
    # The peer squares values in their type: rounding decides its tests of genes that are equal in all cells.
    folder = tmp_path / "case"
    shutil.copytree(HERE / "synth_nocov_dense_missing", folder)
    table = anndata.read_h5ad(folder / "reference.h5ad")
    table.X = table.X.astype(types[0])
    table.write_h5ad(folder / "reference.h5ad")
    path = folder / "predictions_noisy.npz"
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"X": arrays["X"].astype(types[1])}))
    sides = parity_sides.read_sides(folder, json.loads((folder / "settings.json").read_text()))
    assert sides["ref"].cells.controls.block(0).dtype == types[0]
    for population in (sides["noisy"].cells, sides["noisy"].raw):
        assert population.block(0).dtype == population.controls.block(0).dtype == np.float64


def test_cells_may_be_stored_by_gene(edge):
    # A row of it is not what is compressed, and the peer squares its values in double precision.
    table = anndata.read_h5ad(edge / "reference.h5ad")
    table.X = table.X.tocsc()
    table.write_h5ad(edge / "reference.h5ad")
    assert run_case(edge)["failed"] == 0
    sides = parity_sides.read_sides(edge, json.loads((edge / "settings.json").read_text()))
    assert sides["ref"].cells.block(0).dtype == np.float64
    assert sides["noisy"].cells.controls.block(0).dtype == np.float32


@pytest.mark.parametrize(
    ("name", "option"), [("average", {"mode": "sum"}), ("scaled", {"max_scale": 0.5}), ("scaled", {})]
)
def test_options_of_means_are_the_peers(edge, name, option):
    settings = json.loads((edge / "settings.json").read_text())
    side = parity_sides.read_sides(edge, settings)["ref"]
    found = perturbench._vectors({"aggr_method": name, **option}, side, "V2", True, None)
    X = side.cells.block(0).toarray().astype(np.float64)
    if name == "scaled":
        own = side.cells.covariate == side.cells.covariate[0]
        blocks = [side.cells.block(k).toarray() for k in np.flatnonzero(own)]
        every = np.concatenate([*blocks, side.cells.controls.block(side.cells.covariate[0]).toarray()])
        sd = every.std(axis=0, ddof=1, dtype=np.float64)
        most = option.get("max_scale", 10.0)
        X = np.clip((X - every.mean(axis=0, dtype=np.float64)) / np.where(sd > 0, sd, 1.0), -most, most)
    np.testing.assert_allclose(found[0], X.sum(axis=0) if option.get("mode") else X.mean(axis=0), atol=1e-6)


def two_doses(folder, dtype=np.float64):
    """Write a reference of one group at two doses, in single cells of one gene, and return its sides."""
    X = np.asarray([[1.0], [3.0], [0.0], [2.0], [4.0], [6.0]], dtype=dtype)
    obs = {"dose": [0.5, 0.5, 0.5, 10.0, 10.0, 10.0], "condition": ["A", "A", "ctrl", "A", "A", "ctrl"]}
    table = anndata.AnnData(X, obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(6)]))
    table.write_h5ad(folder / "reference.h5ad")
    arrays = {f"obs__{name}": np.asarray(v[2:]) for name, v in obs.items()}
    # A dose that the reference lacks, between those that it has.
    arrays["obs__dose"] = np.asarray([0.5, 5.0, 5.0, 10.0])
    arrays |= {"X": X[2:], "var_names": np.asarray(["0"]), "obs_columns": np.asarray(list(obs))}
    np.savez(folder / "predictions_m.npz", **arrays)
    settings = {"pert_col": "condition", "cov_cols": ["dose"], "ctrl": "ctrl"}
    return parity_sides.read_sides(folder, settings | {"append_reference_controls": False})


def test_controls_have_the_dose_of_a_group_in_v1_and_any_in_v2(tmp_path):
    side = two_doses(tmp_path)["ref"]
    for version, controls in (("V1", [0.0, 6.0]), ("V2", [3.0, 3.0])):
        found = perturbench._vectors({"aggr_method": "logfc"}, side, version, True, None)
        np.testing.assert_allclose(found[:, 0], np.log2([2.1, 3.1]) - np.log2(np.add(controls, 0.1)))
    found = perturbench._vectors({"aggr_method": "pvals"}, side, "V2", True, None)
    assert np.isfinite(found).all()


def test_a_covariate_that_the_reference_lacks_is_one_of_its_own(tmp_path):
    sides = two_doses(tmp_path)
    assert sides["m"].labels == [("5.0", "A")]
    assert sides["m"].cells.controls.moments.n.tolist() == [1, 1, 0]
    assert sides["ref"].cells.controls.moments.n.tolist() == [1, 1, 0]


def test_a_gene_that_is_equal_in_all_cells_is_scaled_by_the_peers_rounding_error(tmp_path):
    value = np.float32(0.1)
    X = np.full((4, 1), value)
    cells = table_population(X, np.asarray([0, 0, 0, -1]), np.zeros(4, int), 1)
    spread = float(value * value) - float(value) ** 2
    sd = np.sqrt(spread * 4 / 3) if spread > 0 else np.nan
    found = as_scaled(cells, None, "V2", 10.0)
    np.testing.assert_allclose(found, [[0.0 / sd]])


def test_a_test_of_another_name_is_not_compared(edge):
    def other(expected):
        expected["values"] = {"logp": {"mse": {"per_perturbation": {"noisy": {"c1_Q1": 1.0}}, "mean": {}}}}
        expected["aggregate_settings"] = {"logp": {"aggr_method": "logp", "de_method": "logreg"}}

    found = changed(edge, other)
    assert any("'logreg' that is not known" in reason for reason in found["reasons"])


def test_an_error_of_the_peer_is_the_reason(edge):
    found = changed(edge, lambda e: e["errors"].update({"average/mse/values": "ValueError: NaN"}))
    assert found["metrics"]["V2.mse_values_average"]["reasons"] == {
        "the peer raises an error: ValueError: NaN": 1
    }


def test_wrong_numbers_are_found(tmp_path):
    copy = tmp_path / "case"
    shutil.copytree(HERE / "synth_2cov_combo", copy)
    path = copy / "expected_upstream_cafe4c9.json"
    expected = json.loads(path.read_text())
    values = expected["values"]
    for aggregation, metric, field in (
        ("average", "rmse", "per_perturbation"),
        ("scores", "r2_score", "per_perturbation"),
        ("scores", "top_k_recall", "per_perturbation"),
        ("logfc", "cosine", "rank"),
    ):
        values[aggregation][metric][field]["noisy"]["alpha_none_P1"] += 0.2
    values["pca"]["mmd"]["mean"]["noisy"] += 0.05
    path.write_text(json.dumps(expected))
    found = run_case(copy)["failures"]
    assert {f["metric"] for f in found} == {
        "V2.rmse_average",
        "V2.r2_score_scores",
        "V2.top_k_recall_scores",
        "V2.cosine_rank_logfc",
        "V2.mmd_pca",
    }
    assert len(found) == 5


def test_a_wrong_prediction_is_found(tmp_path):
    copy = tmp_path / "case"
    shutil.copytree(HERE / "synth_nocov_dense_missing", copy)
    with np.load(copy / "predictions_noisy.npz", allow_pickle=False) as file:
        arrays = dict(file)
    arrays["X"] = arrays["X"][:, ::-1]
    np.savez(copy / "predictions_noisy.npz", **arrays)
    assert run_case(copy)["failed"] > 500


def test_other_cases_are_not_this_kind(tmp_path):
    kind = KINDS.get("perturbench")
    assert not kind.matches(tmp_path)
    assert not kind.matches(HERE / "splits_synth")


def underscored(folder):
    """Give the cell types of a case names with an underscore, and keep V1's root mean squared errors of means alone."""
    table = anndata.read_h5ad(folder / "reference.h5ad")
    table.obs["cell_type"] = table.obs["cell_type"].astype(str).add("_1").astype("category")
    table.write_h5ad(folder / "reference.h5ad")
    for path in folder.glob("predictions_*.npz"):
        arrays = dict(np.load(path))
        arrays["obs__cell_type"] = np.char.add(arrays["obs__cell_type"], "_1")
        np.savez(path, **arrays)
    (folder / "expected_upstream_cafe4c9.json").unlink()
    expected = json.loads((folder / "expected.json").read_text())
    rmse = {"average": {"rmse": expected["values"]["average"]["rmse"]}}
    del rmse["average"]["rmse"]["pairwise_rows_pred_cols_ref"]
    for part in ("per_perturbation", "rank", "rank_bounds"):
        for model, rows in rmse["average"]["rmse"][part].items():
            rmse["average"]["rmse"][part][model] = {f"{k[:2]}_1{k[2:]}": v for k, v in rows.items()}
    return {**expected, "values": rmse, "evaluator_summary": {}}


def test_controls_whose_name_v1_cannot_read_back_are_rows_of_its_means(edge):
    expected = underscored(edge)
    table = expected["values"]["average"]["rmse"]
    rows = table["per_perturbation"]["noisy"]
    (edge / "expected.json").write_text(json.dumps(expected))
    assert run_case(edge)["failed"] == 0
    # Predictions have the reference's controls, which come first among the predictions for them.
    for model, values in table["per_perturbation"].items():
        n = len(values)
        values |= {"c1_1_control": 0.0, "c2_1_control": 0.0}
        table["mean"][model] *= n / (n + 2)
    del table["rank"]
    (edge / "expected.json").write_text(json.dumps(expected))
    found = run_case(edge)
    assert (found["failed"], found["compared"]) == (0, 2 * (len(rows) + 1)), found["failures"]
    rows["c2_1_control"] = 0.5
    (edge / "expected.json").write_text(json.dumps(expected))
    assert [f["key"] for f in run_case(edge)["failures"]] == ["noisy|c2_1_control"]


@pytest.mark.parametrize(("share", "ok"), [(1 + 4e-5, True), (1 + 2e-3, False)])
def test_the_summary_is_compared_to_the_digits_that_it_has(edge, share, ok):
    expected = json.loads((edge / "expected.json").read_text())
    row = expected["evaluator_summary"]["noisy"]
    mean = expected["values"]["average"]["rmse"]["mean"]["noisy"]
    assert row["rmse_average"] == float(f"{mean:.4g}")
    row["rmse_average"] *= share
    (edge / "expected.json").write_text(json.dumps(expected))
    assert ("noisy|rmse_average" in {f["key"] for f in run_case(edge)["failures"]}) is not ok


def test_a_rank_in_the_summary_may_be_that_of_any_order_of_ties(edge):
    expected = json.loads((edge / "expected.json").read_text())
    part = expected["values"]["average"]["rmse"]
    keys = list(part["rank"]["noisy"])
    # All predictions of this model tie: the peer's ranks, and so their mean, are drawn at random.
    with np.load(edge / "predictions_noisy.npz") as given:
        arrays = dict(given)
    arrays["X"] = np.zeros_like(arrays["X"])
    np.savez(edge / "predictions_noisy.npz", **arrays)
    part["rank"]["noisy"], part["rank_mean"]["noisy"] = dict.fromkeys(keys, 0.0), 0.0
    row = expected["evaluator_summary"]["noisy"]

    def failures(value):
        row["rmse_rank_average"] = value
        (edge / "expected.json").write_text(json.dumps(expected))
        records = list(KINDS.get("perturbench").compare(edge))
        return [r.ok for r in records if r.key == "noisy|rmse_rank_average" and r.skipped is None]

    assert failures(0.0) == [True]
    assert failures(0.99) == [False]
