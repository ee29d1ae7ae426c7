"""The code location: its grid, assets and jobs, also over other folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from itertools import pairwise

import dagster as dg
import pytest
import yaml

from perturbfm_core.catalog.loading import load_catalog
from tests.assets.conftest import SUITE, Location, copy_location, forget
from tests.support.asset_runs import CONTEXT, ENTRIES, INDEX
from tests.support.command import perturbfm


def test_definitions_load(here):
    defs = here.module("definitions").defs
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    assert {key.path[-1] for key in graph.get_all_asset_keys()} == {
        "dataset",
        "split",
        "gene_graph",
        "pretrained_encoder",
        "fit_inputs",
        "trained_model",
        "prediction",
        "metric_panel",
        "report",
        "published_runs",
        "leaderboard",
        "leaderboard_page",
    }
    chain = [
        "dataset",
        "split",
        "fit_inputs",
        "trained_model",
        "prediction",
        "metric_panel",
        "report",
        "published_runs",
        "leaderboard",
    ]
    parents = {lower: {upper} for upper, lower in pairwise(chain)}
    parents["gene_graph"] = parents["pretrained_encoder"] = {"split"}
    parents["fit_inputs"] |= {"gene_graph", "pretrained_encoder"}
    for asset, wanted in parents.items():
        assert {k.path[-1] for k in graph.get(dg.AssetKey(asset)).parent_keys} == wanted
    assert {key.name for key in graph.asset_check_keys} == {
        "schema",
        "content_hash",
        "hash_lock",
        "leakage",
        "split_bound",
        "covers_split",
        "panel_complete",
    }
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description
        assert node.group_name != "default"
        assert node.owners == ["team:perturbfm"]


def test_what_is_beta_in_dagster_is_no_warning_at_every_start(here):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        here.module("beta").expect_beta_parts()
        dg.multi_observable_source_asset(name="look", specs=[dg.AssetSpec("seen")])(lambda: None)
        dg.SensorDefinition(name="looks", evaluation_fn=lambda _: None, owners=["team:perturbfm"])
    assert [str(w.message) for w in shown] == []


def test_a_sensor_says_what_turning_it_on_does(here):
    assert [s.name for s in here.module("definitions").defs.sensors if not s.description] == []


def test_jobs_of_the_repository(here):
    defs = here.module("definitions").defs
    names = {job.name for job in defs.resolve_all_job_defs()} - {"__ASSET_JOB"}
    assert names == {
        "demo",
        "benchmark",
        "refresh_leaderboard",
        "make_dataset",
        "verify_split",
        "build_graph",
        "publish_submissions",
    }
    for name in names:
        assert defs.resolve_job_def(name).description


def test_grid_is_splits_by_entries(here):
    partitions = here.module("partitions")
    assert list(partitions.SPLITS) == [e["key"] for e in INDEX]
    models = partitions.model_partitions.get_partition_keys()
    assert models == list(load_catalog().models)
    assert set(ENTRIES) <= set(models)
    keys = partitions.grid_partitions.get_partition_keys()
    assert len(keys) == len(INDEX) * len(models)
    # Dimensions are sorted by name, so a key reads model|split.
    assert f"ridge|{CONTEXT['key']}" in keys
    assert partitions.dataset_partitions.get_partition_keys() == list(load_catalog().datasets)


def test_a_data_set_feeds_its_own_splits(here):
    partitions = here.module("partitions")
    mapping = partitions.dataset_to_split

    def sources(split):
        return mapping.get_upstream_mapped_partitions_result_for_partitions(
            partitions.split_partitions.empty_subset().with_partition_keys([split]),
            partitions.split_partitions,
            partitions.dataset_partitions,
        ).partitions_subset.get_partition_keys()

    for entry in INDEX:
        assert set(sources(entry["key"])) == {entry["dataset"]}


# ---- other folders -----------------------------------------------------------------------------------------------


def show(made: Location, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Load the code location of a folder anew, beside the one of the other tests, and say what it holds."""
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(made.path)
    others = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "perturbfm_assets"}
    forget()
    try:
        defs, partitions = made.module("definitions").defs, made.module("partitions")
        noted = made.module("assets.report").report.metadata_by_key[dg.AssetKey("report")].get("no_schedule")
    finally:
        forget()
        sys.modules.update(others)
    return {
        "splits": list(partitions.SPLITS),
        "datasets": partitions.dataset_partitions.get_partition_keys(),
        "schedules": sorted(s.name for s in defs.schedules),
        "no_schedule": noted.value if noted else None,
        "grid": len(partitions.grid_partitions.get_partition_keys()),
    }


def test_registered_data_set_and_its_split_enter_the_grid(tmp_path, monkeypatch):
    made = copy_location(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    size = ("--n-obs", 160, "--n-genes", 20, "--n-contexts", 2, "--n-perts", 4)
    perturbfm("data", "make-synth", "--out", "M", "--name", "mine", *size, "--register")
    split = perturbfm("splits", "create", "--data", "M", "--spec", "iid", "--no-bounds").values
    perturbfm("data", "make-synth", "--out", "U", "--name", "unregistered", *size, "--seed", 1)
    perturbfm("splits", "create", "--data", "U", "--spec", "iid", "--no-bounds")
    found = show(made, monkeypatch)
    assert "mine" in found["datasets"]
    assert set(found["splits"]) == {e["key"] for e in INDEX} | {split["key"]}
    assert found["grid"] == len(found["splits"]) * len(load_catalog().models)


def test_folder_without_splits_and_suites_without_a_clock(tmp_path, monkeypatch):
    made = copy_location(tmp_path)
    shutil.rmtree(tmp_path / "splits")
    (tmp_path / "catalog/suites/small.yaml").write_text(yaml.safe_dump({**SUITE, "refresh_cron": None}))
    found = show(made, monkeypatch)
    assert (found["splits"], found["grid"]) == ([], 0)
    assert "refresh_small" not in found["schedules"]


@pytest.mark.parametrize(
    ("cron", "why"),
    [("0 3 * *", "is no cron expression; give five"), ("0 3 31 4 *", "a day that never comes")],
)
def test_a_clock_that_cannot_be_read_costs_its_suite_the_schedule_alone(
    tmp_path, monkeypatch, caplog, cron, why
):
    made = copy_location(tmp_path)
    file = tmp_path / "catalog/suites/small.yaml"
    file.write_text(yaml.safe_dump({**SUITE, "refresh_cron": cron}))
    found = show(made, monkeypatch)
    assert "refresh_small" not in found["schedules"]
    assert "refresh_demo" in found["schedules"]
    for said in (caplog.text, found["no_schedule"].replace("\\", "")):
        assert f"{file}: refresh_cron '{cron}' " in said
        assert why in said


def test_damaged_index_is_told_when_the_location_loads(tmp_path):
    made = copy_location(tmp_path)
    (tmp_path / "splits/index.json").write_text("{}]")
    shown = subprocess.run(
        [sys.executable, "-c", "import perturbfm_assets.definitions"],
        cwd=made.path,
        env={**os.environ, **made.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode != 0
    assert "index.json is not valid JSON" in shown.stderr.splitlines()[-1]
