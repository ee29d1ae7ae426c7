"""Assets as they materialise, one by one and as cells and suites, with their checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import zarr

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.gene_graph import build_graph, gather
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from tests.assets.conftest import SUITE
from tests.support.asset_runs import CONTEXT, DEMO, TOO_FEW, alone, cell, checks, metadata
from tests.support.command import perturbfm


def test_dataset_materialises_with_its_checks(here):
    result = alone(here, "dataset", "demo")
    assert result.success
    assert checks(result) == {"schema": True, "content_hash": True}
    shown = metadata(result, "dataset")
    assert shown["content_sha256"] == load_catalog().dataset("demo").content_sha256
    synth = load_catalog().dataset("demo").synth
    assert (shown["n_obs"], shown["n_genes"]) == (synth["n_obs"], synth["n_genes"])
    (made,) = result.asset_materializations_for_node("dataset")
    assert made.tags["dagster/data_version"] == shown["content_sha256"]


@pytest.mark.parametrize("entry", DEMO, ids=lambda e: e["kind"])
def test_committed_split_materialises_with_its_checks(here, entry):
    files = {p.name: p.read_bytes() for p in (here.path / "splits").glob("*.json")}
    result = alone(here, "split", entry["key"])
    assert result.success
    assert checks(result) == {"hash_lock": True, "leakage": True}
    shown = metadata(result, "split")
    assert shown["split_hash"] == entry["hash"]
    assert shown["ceiling"]["pearson"]["half"] > 0.1
    assert "| test |" in shown["folds"]
    # Looking at a split changes nothing of it.
    assert {p.name: p.read_bytes() for p in (here.path / "splits").glob("*.json")} == files


def test_gene_graph_belongs_to_its_split_and_is_the_one_that_a_fit_finds(here):
    result = alone(here, "gene_graph", CONTEXT["key"])
    assert result.success
    assert checks(result) == {"split_bound": True}
    shown = metadata(result, "gene_graph")
    assert shown["split_hash"] == CONTEXT["hash"]
    assert shown["genes"] == shown["measured_genes"] == load_catalog().dataset("demo").synth["n_genes"]
    assert shown["edges"] > shown["genes"]
    (made,) = result.asset_materializations_for_node("gene_graph")
    assert made.tags["dagster/data_version"] == shown["sha256"]

    store = ArtifactStore()
    split = SplitFolder(store.split_dir).load(CONTEXT["hash"])
    ds = dataset_of(store, split)
    found = gather(store, ds, split, Needs(graphs=("coexpression",)))
    assert found.graph("coexpression").sha256 == shown["sha256"]
    stage = build_graph(store, ds, split)
    assert (stage.key, stage.reused) == (shown["object"], True)


def test_gene_graph_of_another_split_fails_its_check(here, monkeypatch):
    other = next(e for e in DEMO if e["hash"] != CONTEXT["hash"])
    store = ArtifactStore()
    split = SplitFolder(store.split_dir).load(other["hash"])
    planted = build_graph(store, dataset_of(store, split), split)
    monkeypatch.setattr(here.module("assets.gene_graph"), "build_graph", lambda *_: planted)
    result = alone(here, "gene_graph", CONTEXT["key"])
    assert checks(result) == {"split_bound": False}


def test_cell_materialises_and_publishes_a_run(here):
    before = set(ArtifactStore().run_dirs())
    # Asked for anew: tests before this one may have published the same cell here.
    result = cell(here, "ridge", tags={"perturbfm/again": "true"})
    assert result.success
    assert checks(result) == {"covers_split": True, "panel_complete": True}
    shown = {a: metadata(result, a) for a in ("trained_model", "prediction", "metric_panel", "report")}
    assert {m["status"] for m in shown.values()} == {"ok"}
    assert shown["prediction"]["genes"] == load_catalog().dataset("demo").synth["n_genes"]
    (run,) = set(ArtifactStore().run_dirs()) - before
    assert shown["report"]["run_ids"] == [run.name]
    assert Path(shown["report"]["run_dir"]) == run.resolve()
    metrics = read_json(run / "metrics.json")
    assert (run / "metrics.json").stat().st_size <= 400_000
    # Reasons are not said again by context and stratum: that was 36 kB here.
    assert len(json.dumps(metrics["notes"])) < 20_000
    value = metrics["delta"]["global"]["pearson_centered"]
    assert shown["metric_panel"]["delta.pearson_centered"] == round(value, 4) == shown["report"]["headline"]
    # Floor and ceiling stand beside it, for the headline of every panel.
    (line,) = [x for x in shown["report"]["scores"].splitlines() if "(headline)" in x]
    marks = [float(x) for x in line.strip("| ").split(" | ")[3:] if x[0].isdigit()]
    assert marks == sorted(marks)
    assert f"| {value:.4f} |" in line
    assert len(shown["report"]["scores"].splitlines()) == 2 + len(PANELS)
    assert shown["report"]["report"].startswith("http://127.0.0.1:")
    assert shown["report"]["plot"].startswith("![by perturbation](data:image/")


def test_cell_is_the_command_lines_cell(here, additive, pageless):
    ours = additive
    # The command line finds the run of the asset, and the asset that of the command line.
    found = perturbfm("run", "--split", CONTEXT["hash"], "--entry", "additive").values
    assert (found["run_id"], found["existing"]) == (ours.name, "true")
    answer = perturbfm("run", "--split", CONTEXT["hash"], "--entry", "additive", "--again").values
    theirs = Path(answer["run_dir"])
    assert ours.name != theirs.name
    assert (ours / "metrics.json").read_bytes() == (theirs / "metrics.json").read_bytes()
    one, two = (pd.read_parquet(p / "scores.parquet") for p in (ours, theirs))
    assert set(one["run_id"]) != set(two["run_id"])
    pd.testing.assert_frame_equal(one.drop(columns="run_id"), two.drop(columns="run_id"), check_exact=True)


def test_a_cell_that_is_materialised_again_finds_its_run_unless_the_tag_asks_for_a_new_one(here, pageless):
    first, second, third = (
        metadata(cell(here, "global_mean", tags=tags), "report")["run_ids"]
        for tags in ({}, {}, {"perturbfm/again": "true"})
    )
    assert first == second
    assert third != first


# The command line of another process, which leaves the page of its report unwritten.
TYPED = """
from perturbfm_core.cli.main import main
from perturbfm_core.pipeline import report
report.run_report = lambda *_: ""
main()
"""


def test_cell_without_any_cached_object_gives_the_same_scores(here, additive, demo_data, tmp_path):
    """The other process has nothing of the first: data copied, objects made anew."""
    ours = additive
    shutil.copytree(demo_data, tmp_path / "data/demo")
    environment = {**os.environ, "PERTURBFM_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            TYPED,
            "run",
            "--split",
            CONTEXT["key"],
            "--entry",
            "additive",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = Path(dict(line.split("=", 1) for line in done.stdout.splitlines())["run_dir"])
    assert theirs.is_relative_to(tmp_path)
    one, two = (pd.read_parquet(p / "scores.parquet").drop(columns="run_id") for p in (ours, theirs))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_cell_that_cannot_exist_says_so_and_publishes_nothing(here, monkeypatch):
    monkeypatch.setattr(MODELS.get("ridge"), "requires", Requires(min_contexts=9))
    before = ArtifactStore().run_dirs()
    result = cell(here, "ridge")
    assert result.success
    for asset in ("trained_model", "prediction", "metric_panel", "report"):
        shown = metadata(result, asset)
        assert (shown["status"], shown["reason"]) == ("not_applicable", TOO_FEW)
        assert (shown["entry"], shown["held_out"]) == ("ridge", "context C0")
    assert checks(result) == {"covers_split": True, "panel_complete": True}
    for evaluation in result.get_asset_check_evaluations():
        assert evaluation.metadata["not_applicable"].value == TOO_FEW
    assert ArtifactStore().run_dirs() == before


def test_a_tag_that_asks_for_a_new_run_is_true_or_false(here, pageless):
    result = cell(here, "control_only", tags={"perturbfm/again": "yes"})
    assert not result.success
    failure = next(e for e in result.all_events if e.is_step_failure)
    assert failure.step_key == "report"
    assert "run tag perturbfm/again is 'yes'; it is true" in failure.step_failure_data.error.to_string()


def test_every_seed_of_an_entry_is_run(here, pageless, monkeypatch):
    catalog = here.module("assets.experiments").CATALOG
    two = catalog.model("global_mean").model_copy(update={"seeds": (0, 3)})
    monkeypatch.setitem(catalog.models, "global_mean", two)
    result = cell(here, "global_mean")
    assert result.success
    shown = metadata(result, "report")
    assert shown["seeds"] == 2
    seeds = [read_json(here.path / "runs" / r / "config.json")["seed"] for r in shown["run_ids"]]
    assert seeds == [0, 3]
    # What is shown of one seed is shown of the same one by every stage, and says of which.
    assert shown["shown_seed"] == 0
    assert Path(shown["run_dir"]).name == shown["run_ids"][0]
    assert [line.split(" | ")[0] for line in shown["by_seed"].splitlines()[2:]] == ["| 0", "| 3"]
    assert all(run in shown["by_seed"] for run in shown["run_ids"])


def test_panel_without_a_metric_blocks_the_report(here, monkeypatch):
    """A metric that the scores lack fails the check, and the report is not written."""
    from perturbfm_core.evaluation.panel import PANELS

    module = here.module("assets.metric_panel")
    lacking = {
        name: type(
            "Panel", (), {"metrics": [*panel.metrics, type("M", (), {"name": "unheard_of"})], "headline": "x"}
        )
        for name, panel in PANELS.items()
        if name == "delta"
    }
    monkeypatch.setattr(module, "PANELS", lacking)
    before = ArtifactStore().run_dirs()
    result = cell(here, "control_only")
    assert not result.success
    assert checks(result) == {"covers_split": True, "panel_complete": False}
    assert ArtifactStore().run_dirs() == before


def test_a_value_that_is_none_without_a_reason_fails_its_check(here):
    """Whatever its status says."""
    from types import SimpleNamespace

    names = [(p, m.name) for p, panel in PANELS.items() for m in panel.metrics]
    frame = pd.DataFrame(names, columns=["panel", "metric"]).assign(status="ok", value=0.5, reason=None)
    check = here.module("assets.metric_panel")._check
    assert check([], [SimpleNamespace(table=frame)])[0].passed
    frame.loc[3, "value"] = np.nan
    (found,) = check([], [SimpleNamespace(table=frame)])
    assert not found.passed
    assert found.metadata["undefined_without_reason"].value == 1


def test_prediction_that_is_not_finite_blocks_the_scores(here, monkeypatch):
    module = here.module("assets.prediction")
    plain = module.read_prediction

    def poisoned(path):
        made = plain(path)
        mean = made.mean.copy()
        mean[0, 0] = np.nan
        return type(made)(**{**vars(made), "mean": mean})

    monkeypatch.setattr(module, "read_prediction", poisoned)
    before = ArtifactStore().run_dirs()
    result = cell(here, "control_only")
    assert not result.success
    assert checks(result) == {"covers_split": False}
    assert ArtifactStore().run_dirs() == before


@pytest.fixture
def planted(here, demo_data, tmp_path, monkeypatch):
    """Point the location at a copy of the data in which one value was changed behind its hash."""
    shutil.copytree(demo_data, tmp_path / "data/demo")
    values = zarr.open_group(tmp_path / "data/demo/data.zarr", mode="r+")["X/data"]
    values[7] = int(values[7]) + 1
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    return here


def test_changed_data_fail_the_hash_lock_and_block(planted):
    result = alone(planted, "split", CONTEXT["key"])
    assert not result.success
    assert checks(result) == {"hash_lock": False, "leakage": False}
    (lock, _) = result.get_asset_check_evaluations()
    (problem,) = lock.metadata["problems"].value
    recorded = load_catalog().dataset("demo").content_sha256
    assert problem.startswith(f"content of data set 'demo' changed: recorded {recorded[:12]}, found ")
    assert lock.blocking


def test_changed_data_fail_the_content_check(planted):
    result = alone(planted, "dataset", "demo")
    assert not result.success
    assert checks(result) == {"schema": True, "content_hash": False}


def test_changed_data_stop_a_cell_whatever_the_checks_said(planted):
    """Checks stop only their own run, so `fit` looks again."""
    result = cell(planted, "control_only")
    assert not result.success
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert failure.step_key == "trained_model"
    assert "changed_data" in failure.step_failure_data.error.to_string()
    assert ArtifactStore().run_dirs() == []


def test_damaged_split_file_stops_its_asset(demo_data, here, tmp_path, monkeypatch):
    shutil.copytree(here.path / "splits", tmp_path / "splits")
    path = tmp_path / f"splits/{CONTEXT['hash']}.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(tmp_path / "splits"))
    result = alone(here, "split", CONTEXT["key"])
    assert not result.success
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "was edited: it states hash" in failure.step_failure_data.error.to_string()


def test_suite_in_one_run(here):
    """The job behind `make demo`, on a small suite: data, split, cells and leaderboard, all recorded."""
    job = here.module("definitions").defs.resolve_job_def("demo")
    config = {
        **here.module("jobs").quiet_logs("CRITICAL"),
        "ops": {"run_suite": {"config": {"suite": "small"}}},
    }
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, run_config=config).success
        made = {
            name: set(instance.get_materialized_partitions(dg.AssetKey(name)))
            for name in ("dataset", "split", "report")
        }
        board = instance.get_latest_materialization_event(dg.AssetKey("leaderboard"))
    assert made == {
        "dataset": {"demo"},
        "split": {CONTEXT["key"]},
        "report": {f"{model}|{CONTEXT['key']}" for model in SUITE["models"]},
    }
    shown = board.asset_materialization.metadata
    assert shown["rows"].value >= 2
    assert "global_mean" in shown["standings"].value
    assert Path(shown["database"].value) == (here.path / "runs/leaderboard.duckdb").resolve()
    entries = perturbfm("leaderboard", "sql", "select distinct entry from leaderboard", "--json").json
    assert {e["entry"] for e in entries} >= set(SUITE["models"])


@pytest.mark.parametrize("by", ["interrupt", "status"])
def test_a_suite_that_is_cancelled_goes_on_with_no_other_cell(here, pageless, monkeypatch, by):
    """A run inside the job keeps the interrupt to itself, or it comes between two of its steps and is lost."""
    module = here.module("assets.experiments")
    job = here.module("definitions").defs.resolve_job_def("demo")
    config = {
        **here.module("jobs").quiet_logs("CRITICAL"),
        "ops": {"run_suite": {"config": {"suite": "small"}}},
    }
    begun = []
    with dg.DagsterInstance.ephemeral() as instance:

        def opened(*args):
            begun.append(args)
            if by == "interrupt":
                raise KeyboardInterrupt
            (outer,) = instance.get_runs(dg.RunsFilter(job_name="demo"))
            instance.report_run_canceling(outer)
            raise ValueError("any failure")

        monkeypatch.setattr(module, "_opened", opened)
        result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
        (outer,) = instance.get_runs(dg.RunsFilter(job_name="demo"))
        cells = instance.get_runs(dg.RunsFilter(job_name="benchmark"))
        boards = instance.get_runs(dg.RunsFilter(job_name="refresh_leaderboard"))
    assert not result.success
    assert outer.status == (
        dg.DagsterRunStatus.FAILURE if by == "interrupt" else dg.DagsterRunStatus.CANCELED
    )
    assert (len(begun), len(cells), len(boards)) == (1, 1, 0)


def test_a_suite_whose_cells_all_fail_names_them(here, demo_data, tmp_path, monkeypatch):
    """Without any run there is nothing to rank, which is not what went wrong; the tag for new runs is that of the cells too."""
    shutil.copytree(demo_data, tmp_path / "data/demo")
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))

    def broken(*_):
        raise ValueError("any failure")

    monkeypatch.setattr(here.module("assets.experiments"), "_opened", broken)
    config = {
        **here.module("jobs").quiet_logs("CRITICAL"),
        "ops": {"run_suite": {"config": {"suite": "small"}}},
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            here.module("definitions")
            .defs.resolve_job_def("demo")
            .execute_in_process(
                instance=instance, run_config=config, raise_on_error=False, tags={"perturbfm/again": "true"}
            )
        )
        cells = instance.get_runs(dg.RunsFilter(job_name="benchmark"))
    failure = next(e for e in result.all_events if e.is_step_failure)
    said = failure.step_failure_data.user_failure_data or failure.step_failure_data.error
    assert "2 cells of suite 'small' failed" in str(said)
    assert {run.tags["perturbfm/again"] for run in cells} == {"true"}
