"""cell-eval2's own numbers, record by record."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.cell_eval2 import parity
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, PROFILES, Inputs
from perturbfm_core.evaluation.panels.cell_eval2.differential import DifferentialExpression
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import values_of
from perturbfm_core.evaluation.panels.cell_eval2.parity_ties import statistic_bounds, tie_bounds
from perturbfm_core.evaluation.panels.cell_eval2.tables import TablePair
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


def test_tables_are_read_in_other_forms(copy):
    for side in ("real", "pred"):
        path = copy / f"de_{side}_shift.parquet"
        pd.read_parquet(path).to_csv(copy / f"de_{side}_shift.csv.gz", index=False)
        path.unlink()
    assert run_case(copy)["metrics"] == run_case(CASE)["metrics"]


def test_log_values_in_the_files_themselves_are_taken_as_they_are(copy):
    path = copy / "expected.json"
    expected = json.loads(path.read_text())
    run = expected["runs"]["full_lognorm/pred_shift"]
    del run["input"], expected["score"]
    path.write_text(json.dumps(expected | {"runs": {"full_lognorm/pred_shift": run}}))
    case = parity.Case(copy, expected)
    for table in copy.glob("de_*"):
        table.unlink()
    for name in ("real", "pred_shift"):
        logged = case.cells(name, "10000")[0].X
        cells = anndata.read_h5ad(copy / f"{name}.h5ad")
        cells.X = sp.csr_matrix(logged)
        cells.write_h5ad(copy / f"{name}.h5ad")
    result = run_case(copy)
    assert (result["failed"], result["skipped"]) == (0, 0), result["failures"]
    assert result["compared"] > 1_000


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


def tied_tables():
    """Return two tables of 3 perturbations and 40 genes with few different fold changes."""
    rng = np.random.default_rng(4)
    names, genes = np.asarray(list("abc")), np.asarray([f"G{j:02}" for j in range(40)])
    sides = []
    for shares in ((0.5, 0.9, 0.7), (0.9, 0.5, 0.7)):
        p = np.where(rng.random((3, 40)) < np.asarray(shares)[:, None], 0.01, 0.5)
        lfc = rng.integers(1, 5, p.shape).astype(float)
        sides.append(DifferentialExpression(names, genes, np.ones(40, bool), np.zeros(p.shape), p, p, lfc))
    return sides


def test_where_equal_fold_changes_come_in_any_order_all_orders_pass_and_nothing_else():
    real, pred = tied_tables()
    metrics = [m for m in METRICS if "overlap" in m or m.startswith("de_wilcoxon_precision")]
    target = np.full(3, -1)
    bounds = tie_bounds(TablePair(real, pred, target))
    assert {"de_wilcoxon_overlap", "de_wilcoxon_overlap_adjusted", "de_wilcoxon_precision"} <= bounds.keys()
    for seed in range(40):
        # The score is what ties of the fold change are ranked by.
        scores = np.random.default_rng(seed).random((2, *real.p.shape))
        pair = TablePair(replace(real, score=scores[0]), replace(pred, score=scores[1]), target)
        values = values_of(real.names, Inputs(None, pair), metrics)
        statistics, limits = aggregates(values), statistic_bounds(values, bounds)
        assert "std" not in limits
        for name in metrics:
            least, most = bounds.get(name, (values.values[name],) * 2)
            assert (least - 1e-12 <= values.values[name]).all()
            assert (values.values[name] <= most + 1e-12).all()
            for statistic, row in limits.items():
                low, high = row.get(name, (statistics[statistic][name],) * 2)
                assert low - 1e-12 <= statistics[statistic][name] <= high + 1e-12
    for expected, ok in ((0.4, True), (0.8, True), (0.9, False)):
        assert parity._one("overlap", "a", expected, 0.6, parity.ROUNDED, (0.4, 0.8)).ok is ok


def test_without_equal_fold_changes_there_are_no_bounds():
    real, pred = (
        replace(t, lfc=np.random.default_rng(i).permuted(np.tile(np.arange(1.0, 41), (3, 1)), axis=1))
        for i, t in enumerate(tied_tables())
    )
    assert tie_bounds(TablePair(real, pred, np.full(3, -1))) == {}


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


@pytest.mark.parametrize(
    ("args", "same"),
    [
        (["--set", "target_gene_map={'*': null}"], True),
        (["--set", "target_gene_map={G0: null}", "--no-target-genes"], True),
        (["--set", "target_gene_map={G0: null}"], False),
    ],
)
def test_target_genes_are_those_of_the_map_of_a_run(args, same):
    expected = json.loads((EDGES / "expected.json").read_text())
    run = expected["runs"]["no_target_genes/pred_odd"]
    case = parity.Case(EDGES, expected)
    records = list(parity._run(case, "x/pred_odd", run | {"args": ["--profile", "vcc2026", *args]}))
    assert len(records) > 100
    assert all(record.ok for record in records) is same


@pytest.mark.parametrize(
    ("more", "unknown"),
    [
        (["--cache-strict", "-o", "out", "--set", "de.backend=scanpy", "--set", "device=cpu"], None),
        (["--version", "v2", "--cache-real", "there"], None),
        (["--set", "pert_col=target", "--set", "input_type='counts'", "--set", "metrics=vcc2026"], None),
        (["--version", "v1"], "--version v1"),
        (["--set", "version=v1"], "--version v1"),
        (["--set", "device=cpu", "--set", "de.p_adj_threshold=0.01"], "--set de.p_adj_threshold"),
        (["--anchor"], "--anchor"),
    ],
)
def test_options_that_change_no_number_are_passed_over_and_others_are_named(copy, more, unknown):
    expected = json.loads((copy / "expected.json").read_text())
    run = expected["runs"]["vcc2026/pred_shift"]
    case = parity.Case(copy, expected)
    records = list(parity._run(case, "vcc2026/pred_shift", run | {"args": [*run["args"], *more]}))
    if unknown is None:
        assert len(records) > 200
        assert all(record.ok for record in records)
    else:
        (record,) = records
        assert record.skipped == f"unknown form of record: no option {unknown} here"


@pytest.mark.parametrize(
    "value", ["metrics=[", "target_gene_map={G0: ", "target_gene_map=G0", "metrics=&a [*a]"]
)
def test_a_run_whose_options_cannot_be_read_is_not_compared(copy, value):
    expected = json.loads((copy / "expected.json").read_text())
    run = expected["runs"]["vcc2026/pred_shift"]
    case = parity.Case(copy, expected)
    (record,) = parity._run(case, "vcc2026/pred_shift", run | {"args": [*run["args"], "--set", value]})
    assert record.skipped.startswith(f"unknown form of record: --set {value.partition('=')[0]}")
