import json
import shutil

import numpy as np
import pytest

from perturbfm_core.evaluation.panels.perturbench import parity as perturbench
from perturbfm_core.evaluation.parity import KINDS, run_case
from tests.conftest import REPO

HERE = REPO / "tests" / "parity" / "perturbench"
REAL = REPO.parent / "shared" / "parity" / "perturbench"
SYNTH = ["synth_2cov_combo", "synth_nocov_dense_missing"]
SKIPPED = {"devel_transfer": 0, "synth_2cov_combo": 0, "synth_nocov_dense_missing": 72}
COMPARED = {"devel_transfer": 22760, "synth_2cov_combo": 14624, "synth_nocov_dense_missing": 3474}


def case_folder(name):
    path = (HERE if name in SYNTH else REAL) / name
    if not path.is_dir():
        pytest.skip(f"no real cases: {path} is absent")
    return path


@pytest.mark.parametrize("name", [*SYNTH, "devel_transfer"])
def test_every_record_is_the_peers(name):
    result = run_case(case_folder(name))
    assert result["kind"] == "perturbench"
    assert result["failed"] == 0, result["failures"]
    assert (result["compared"], result["skipped"]) == (COMPARED[name], SKIPPED[name])
    reasons = {reason for entry in result["metrics"].values() for reason in entry["reasons"]}
    assert len(reasons) <= 1
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


@pytest.mark.parametrize("name", SYNTH)
@pytest.mark.parametrize(("commit", "version"), [("d357dfa", "V1"), ("cafe4c9", "V2")])
def test_aggregated_vectors_are_the_peers(name, commit, version):
    folder = HERE / name
    settings = json.loads((folder / "settings.json").read_text())
    file = {v: k for k, v in perturbench._VERSIONS.items()}[version]
    ways = json.loads((folder / file).read_text())["aggregate_settings"]
    sides = perturbench._read(folder, settings)
    with np.load(folder / f"aggregates_{commit}.npz", allow_pickle=False) as stored:
        for key in [k for k in stored if k.endswith("|X")]:
            way, side, _ = key.split("|")
            # Rows and columns are in the peer's order.
            rows = stored[f"{way}|{side}|rows"].tolist()
            made = perturbench._aggregate(ways[way], sides, version).vectors[side]
            ours = [perturbench._name(label, version) for label in sides[side].labels]
            columns = slice(None)
            if f"{way}|{side}|cols" in stored:
                columns = [stored[f"{way}|{side}|cols"].tolist().index(g) for g in sides["ref"].genes]
            expected = stored[key][[rows.index(label) for label in ours]][:, columns]
            np.testing.assert_allclose(made, expected, rtol=1e-5, atol=2e-5, err_msg=key)
