"""cell-eval2's own numbers, record by record."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, PROFILES
from perturbfm_core.evaluation.parity import run_case
from tests.support.paths import TESTS

CASE = TESTS / "parity" / "cell_eval2" / "synth_a"
# Labels with a comma and in no order, pasted controls, equal cells, a cell and almost a group without counts.
EDGES = TESTS / "parity" / "cell_eval2" / "synth_edges"


def test_every_record_is_the_peers():
    result = run_case(CASE)
    assert result["kind"] == "cell_eval2"
    assert (result["failed"], result["skipped"]) == (0, 0), (result["failures"], result["reasons"])
    assert result["compared"] > 30_000
    # Every metric per perturbation, tables, the five splits, the anchor and the scores.
    assert set(METRICS) - {"expr_mse_unbiased_capped_norm"} <= set(result["metrics"])
    for name in ("de.gate", "de.p_value", "anchor.split", "anchor.seed", "score.from_replicate", "rows"):
        assert result["metrics"][name]["compared"], name
    assert result["metrics"]["de.p_value"]["max_rel_diff"] < 1e-12


def test_odd_predictions_give_the_peers_values():
    result = run_case(EDGES)
    assert (result["failed"], result["skipped"]) == (0, 0), (result["failures"], result["reasons"])
    assert result["compared"] > 8_000


def test_the_profiles_are_the_peers():
    assert len(METRICS) == 54
    assert sum(m.scored for m in METRICS.values()) == 48
    assert len(PROFILES["vcc2026"]) == 10
    assert sum(METRICS[m].scored for m in PROFILES["vcc2026"]) == 6


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(CASE, tmp_path / "case"))


def failing(folder):
    return {name for name, entry in run_case(folder)["metrics"].items() if entry["failed"]}


def test_a_changed_expectation_is_caught(copy):
    path = copy / "expected.json"
    expected = json.loads(path.read_text())
    run = expected["runs"]["vcc2026/pred_shift"]
    run["results"]["GENE007"]["de_wilcoxon_sig_jaccard"] += 1e-9
    run["agg_results"]["mean"]["expr_mse_unbiased_capped_norm"] *= 1 + 1e-6
    expected["score"]["bundle"]["anchor_splits.parquet"][0]["value"] += 1e-9
    expected["score"]["csv"] = expected["score"]["csv"].replace("0.8341297126569104", "0.83412972")
    path.write_text(json.dumps(expected))
    assert failing(copy) == {"de_wilcoxon_sig_jaccard", "agg.mean", "anchor.split", "score.from_replicate"}


def test_a_changed_table_is_caught(copy):
    path = copy / "de_real_shift.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "p_value"] *= 1 + 1e-8
    table.loc[1, "log2_fold_change"] += 1e-6
    table.iloc[2:].to_parquet(copy / "de_pred_shift.parquet")
    assert {"de.gate"} <= failing(copy)
    shutil.copy(CASE / "de_pred_shift.parquet", copy)
    table.to_parquet(path)
    assert failing(copy) == {"de.p_value", "de.log2_fold_change"}


def test_what_is_not_known_is_counted_with_a_reason(copy):
    path = copy / "expected.json"
    expected = json.loads(path.read_text())
    expected["runs"]["v1/pred_mean"] = {**expected["runs"]["vcc2026/pred_mean"], "args": ["--preset", "v1"]}
    expected["runs"]["vcc2026/pred_mean"]["results"]["GENE007"]["cell_cov_corr"] = 0.5
    path.write_text(json.dumps(expected))
    result = run_case(copy)
    assert result["failed"] == 0
    assert result["skipped"] == 2
    assert all("unknown form" in reason for reason in result["reasons"])
