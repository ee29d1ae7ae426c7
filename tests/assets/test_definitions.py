"""The code location: its grid, its assets with their checks, its jobs, schedules and sensors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import yaml
import zarr
from dagster._core.events import StepMaterializationData
from dagster._core.utils import make_new_run_id

from perturbfm_core.catalog.loading import load_catalog, packaged_folder
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.gene_graph import build_graph, gather
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_status import CellStatus, suite_status
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from tests.assets.conftest import REPO, SUITE, Location, copy_location, forget
from tests.support.command import perturbfm

INDEX = json.loads((REPO / "splits/index.json").read_text())["splits"]
DEMO = [e for e in INDEX if e["dataset"] == "demo"]
(CONTEXT,) = [e for e in DEMO if e["kind"] == "context_ood"]
TOO_FEW = f"needs 9 train contexts, there are {CONTEXT['traits']['train_contexts']}"
ENTRIES = ["additive", "control_only", "global_mean", "ridge"]


def cell(here: Location, model: str, split: str = CONTEXT["key"], instance=None, tags=None):
    """Run one cell of the grid in this process."""
    definitions, partitions = here.module("definitions"), here.module("partitions")
    job = definitions.defs.resolve_job_def("benchmark")
    with instance or dg.DagsterInstance.ephemeral() as kept:
        return job.execute_in_process(
            instance=kept,
            partition_key=partitions.grid_key(model, split),
            run_config=here.module("jobs").quiet_logs("CRITICAL"),
            raise_on_error=False,
            tags=tags,
        )


def alone(here: Location, asset: str, key: str):
    """Materialise one asset for one key in this process."""
    module = here.module(f"assets.{asset}")
    with dg.DagsterInstance.ephemeral() as kept:
        return dg.materialize(
            [getattr(module, asset)],
            partition_key=key,
            instance=kept,
            resources={"store": here.module("resources").StoreResource()},
            run_config=here.module("jobs").quiet_logs("CRITICAL"),
            raise_on_error=False,
        )


def metadata(result, asset: str) -> dict[str, object]:
    """Return the metadata of an asset's one materialisation."""
    (made,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in made.metadata.items()}


def checks(result) -> dict[str, bool]:
    """Return {check: whether it passed}."""
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


@pytest.fixture
def pageless(monkeypatch):
    """Leave the page of reports unwritten, for tests that look at runs but not at it."""
    monkeypatch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")


@pytest.fixture(scope="module")
def additive(location: Location) -> Path:
    """Run one cell of `additive` in this process and return the run that it published."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in location.environment.items():
            patch.setenv(name, value)
        patch.chdir(location.path)
        patch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")
        before = set(ArtifactStore().run_dirs())
        # Asked for anew: tests of another file may have published the same cell here.
        assert cell(location, "additive", tags={"perturbfm/again": "true"}).success
        (run,) = set(ArtifactStore().run_dirs()) - before
    return run


# ---- definitions ------------------------------------------------------------------------------------------------


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


def test_schedules_and_sensors_are_off_and_on_the_catalogs_clock(here):
    defs = here.module("definitions").defs
    suites = load_catalog().suites
    shipped = load_catalog([packaged_folder()]).suites
    assert {"demo", "simulations"} <= set(shipped)
    schedules = {s.name: s for s in defs.schedules}
    # The leaderboard follows the cells, and no clock.
    assert set(schedules) == {f"refresh_{name}" for name, suite in suites.items() if suite.refresh_cron}
    for name, suite in suites.items():
        if not suite.refresh_cron:
            continue
        assert schedules[f"refresh_{name}"].cron_schedule == suite.refresh_cron
        assert schedules[f"refresh_{name}"].job_name == "benchmark"
    # The user's own suite came in by its YAML file.
    assert schedules["refresh_small"].cron_schedule == SUITE["refresh_cron"]
    assert {s.default_status for s in schedules.values()} == {dg.DefaultScheduleStatus.STOPPED}
    assert {s.name for s in defs.sensors} == {"rank_after_cells", "inbox", "reconcile_slurm"}
    on = {s.name for s in defs.sensors if s.default_status == dg.DefaultSensorStatus.RUNNING}
    assert on == {"rank_after_cells"}


def ticked_at(at, instance, defs):
    """What suite `small` asks for at a time."""
    # Closed: one that the garbage collector closes later brings the settings of a dead instance back.
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
    ) as context:
        return defs.get_schedule_def("refresh_small").evaluate_tick(context)


def test_schedule_requests_every_applicable_cell(here, monkeypatch, tmp_path):
    defs = here.module("definitions").defs
    monkeypatch.setattr(MODELS.get("global_mean"), "requires", Requires(min_contexts=9))
    at = datetime(2026, 1, 5, 5, 30, tzinfo=UTC)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        ticked = ticked_at(at, instance, defs)
    # global_mean cannot run there now, so only the other entry is asked for.
    (request,) = ticked.run_requests
    assert str(request.partition_key) == f"control_only|{CONTEXT['key']}"
    assert request.run_key == f"20260105-0530-control_only-{CONTEXT['key']}"


@pytest.mark.parametrize(
    ("status", "n", "left"), [("STARTING", 2, 0), ("STARTED", 1, 1), ("NOT_STARTED", 2, 2)]
)
def test_a_nightly_asks_for_no_cell_that_is_on_the_way(here, monkeypatch, tmp_path, status, n, left):
    """What the nights before asked for waits still; a run that was made and never launched is asked for again."""
    defs = here.module("definitions").defs
    monkeypatch.setattr(here.module("schedules"), "suite_status", _all_missing)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def asked(day):
            return ticked_at(datetime(2026, 1, day, 5, 30, tzinfo=UTC), instance, defs)

        first = asked(5)
        assert len(first.run_requests) == len(SUITE["models"])
        for job, request in zip(("benchmark", "__ASSET_JOB"), first.run_requests[:n], strict=False):
            run = dg.DagsterRun(
                job_name=job,
                run_id=make_new_run_id(),
                status=dg.DagsterRunStatus[status],
                tags=dict(request.tags),
            )
            instance.add_run(run)
        second = asked(6)
    wanted = [r.partition_key for r in first.run_requests][len(first.run_requests) - left :]
    assert [r.partition_key for r in second.run_requests] == wanted
    if not wanted:
        assert second.skip_message == "all 2 unfinished cells of suite small are on the way"


def _all_missing(_store, cells):
    return [CellStatus(cell, "missing") for cell in cells]


def test_suites_whose_names_differ_in_signs_have_schedules_of_their_own(here):
    name = here.module("schedules").schedule_name
    suites = ["a_b", "a-b", "a.b", "other-one"]
    found = [name(s, suites) for s in suites]
    assert (found[0], found[3]) == ("refresh_a_b", "refresh_other_one")
    assert len(set(found)) == 4
    assert all(n.replace("_", "").isalnum() for n in found)
    # One that stands alone keeps its name, by which Dagster remembers whether it is on.
    assert name("a-b", ["a-b"]) == "refresh_a_b"


def test_suite_whose_splits_are_not_frozen_says_what_to_do(here, tmp_path, monkeypatch):
    suite = here.module("suite")
    monkeypatch.setattr(suite, "SPLITS", {})
    with pytest.raises(dg.Failure, match="are not frozen yet; run `perturbfm demo --suite small` and reload"):
        suite.suite_split_keys(ArtifactStore(), "small")


def test_leaderboard_is_rebuilt_after_the_last_cell_and_once(here):
    """Whatever became of the cells: queued, running, failed, or done."""
    defs, sensor = here.module("definitions").defs, here.module("sensors").rank_after_cells
    S = dg.DagsterRunStatus
    with dg.DagsterInstance.ephemeral() as instance:

        def tick():
            return sensor(dg.build_sensor_context(instance=instance, definitions=defs))

        def run(status, job="benchmark"):
            made = dg.DagsterRun(job_name=job, run_id=make_new_run_id(), status=status)
            return instance.add_run(made).run_id

        assert "no cell has been launched" in tick().skip_message
        run(S.SUCCESS, job="demo")
        assert "no cell has been launched" in tick().skip_message
        first = run(S.SUCCESS)
        assert tick().run_key == f"rank-after-1-{first}" == tick().run_key
        for status in (S.NOT_STARTED, S.STARTED, S.STARTING):
            waiting = run(status)
            assert "1 cells are on the way" in tick().skip_message
            instance.delete_run(waiting)
        last = run(S.FAILURE)
        assert tick().run_key == f"rank-after-2-{last}"


def test_cells_of_the_page_of_an_asset_are_ranked_too(here):
    """What is launched there is no run of `benchmark`; other assets change no rank."""
    defs, module = here.module("definitions").defs, here.module("sensors")
    S = dg.DagsterRunStatus
    with dg.DagsterInstance.ephemeral() as instance:

        def tick():
            return module.rank_after_cells(dg.build_sensor_context(instance=instance, definitions=defs))

        def run(status, *assets):
            made = dg.DagsterRun(
                job_name="__ASSET_JOB",
                run_id=make_new_run_id(),
                status=status,
                asset_selection=frozenset(map(dg.AssetKey, assets)),
            )
            return instance.add_run(made)

        run(S.STARTED, "gene_graph")
        assert "no cell has been launched" in tick().skip_message
        waiting = run(S.STARTED, "metric_panel", "report")
        assert "1 cells are on the way" in tick().skip_message
        instance.delete_run(waiting.run_id)
        keys = set()
        for n in range(2):
            ended = run(S.STARTED, "report")
            instance.report_dagster_event(
                dg.DagsterEvent(
                    event_type_value="ASSET_MATERIALIZATION",
                    job_name="__ASSET_JOB",
                    event_specific_data=StepMaterializationData(
                        dg.AssetMaterialization("report", partition=f"x|{n}")
                    ),
                ),
                ended.run_id,
            )
            instance.report_run_failed(ended)
            key = tick().run_key
            assert key == tick().run_key
            assert key.startswith("rank-after-")
            keys.add(key)
        assert len(keys) == 2


def test_a_ranking_that_failed_is_asked_for_again(here, monkeypatch):
    defs, module = here.module("definitions").defs, here.module("sensors")
    with dg.DagsterInstance.ephemeral() as instance:

        def tick():
            return module.rank_after_cells(dg.build_sensor_context(instance=instance, definitions=defs))

        cell = dg.DagsterRun(
            job_name="benchmark", run_id=make_new_run_id(), status=dg.DagsterRunStatus.SUCCESS
        )
        instance.add_run(cell)
        first = tick()
        job = defs.resolve_job_def("refresh_leaderboard")
        run = instance.create_run_for_job(job, tags={**first.tags, "dagster/run_key": first.run_key})
        assert tick().run_key == first.run_key
        instance.report_run_failed(run)
        assert "try 1 failed; the next is in 5 minutes" in tick().skip_message
        now = time.time()
        monkeypatch.setattr(here.module("tries").time, "time", lambda: now + 310)
        assert tick().run_key == f"{first.run_key}-1"


def test_a_nightly_asks_for_no_cell_whose_run_is_there(here, additive, tmp_path):
    defs = here.module("definitions").defs
    suite = here.module("partitions").CATALOG.suite("small")
    cells = plan_suite(ArtifactStore(), suite).cells
    before = suite_status(ArtifactStore(), cells)
    at = datetime(2026, 1, 6, 5, 30, tzinfo=UTC)

    def asked():
        with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
            return ticked_at(at, instance, defs)

    wanted = {s.cell.entry for s in before if s.state != "done"}
    assert {str(r.partition_key).partition("|")[0] for r in asked().run_requests} == wanted
    for entry in wanted:
        assert cell(here, entry).success
    ticked = asked()
    assert not ticked.run_requests
    assert ticked.skip_message == "all cells of suite small have runs of these inputs and this code"


# ---- what the UI shows without running anything -----------------------------------------------------------------


def test_split_keys_are_said_in_words(here):
    text = (
        here.module("definitions")
        .defs.resolve_asset_graph()
        .get(dg.AssetKey("split"))
        .metadata["splits"]
        .value
    )
    for entry in json.loads((REPO / "splits/index.json").read_text())["splits"]:
        (line,) = [x for x in text.splitlines() if entry["key"] in x]
        assert line.endswith(f"| {entry['dataset']} | {entry['kind']} |")
    (context,) = [x for x in text.splitlines() if "demo.context_ood" in x]
    assert "| context C0 | - |" in context
    (combo,) = [x for x in text.splitlines() if "demo.combo_ood" in x]
    assert "6 combinations: G000+G230" in combo
    assert "| 0 of 4 (from 0) |" in combo


def test_cells_that_cannot_exist_are_seen_without_running(here, monkeypatch):
    readable = here.module("readable")
    shown = here.module("definitions").defs.resolve_asset_graph().get(dg.AssetKey("report")).metadata
    assert shown["not_applicable"].value == readable.not_applicable_table().value
    monkeypatch.setattr(MODELS.get("global_mean"), "requires", Requires(min_contexts=9))
    monkeypatch.setattr(MODELS.get("additive"), "requires", Requires(min_contexts=2))
    lines = readable.not_applicable_table().value.splitlines()
    every = " ".join(x for x in lines if x.startswith("| global_mean |"))
    assert all(e["key"] in every for e in INDEX)
    assert "needs 9 train contexts" in every
    some = " ".join(x for x in lines if x.startswith("| additive |"))
    for entry in INDEX:
        assert (entry["key"] in some) == (entry["traits"]["train_contexts"] < 2)


def test_an_entry_that_cannot_be_read_leaves_the_grid_alone(here, monkeypatch):
    readable = here.module("readable")
    wrong = readable.CATALOG.model("ridge").model_copy(update={"params": {"alphaz": 3}})
    monkeypatch.setitem(readable.CATALOG.models, "ridge", wrong)
    (line,) = [x for x in readable.not_applicable_table().value.splitlines() if x.startswith("| ridge |")]
    assert "| all splits | is no valid entry: parameters of model 'ridge'" in line
    assert "alphaz" in line


def test_pages_are_linked_over_http(here, monkeypatch):
    links, home = here.module("links"), ArtifactStore()
    page = home.runs / "run 1" / "report.html"
    assert links.page_url(home, page) == f"{links.DEFAULT}/runs/run%201/report.html"
    monkeypatch.setenv("PERTURBFM_SERVE_URL", "http://127.0.0.1:9/")
    assert links.page_url(home, home.leaderboard_page).startswith("http://127.0.0.1:9/runs/")


@pytest.mark.parametrize("linked", ["runs", "run", "home", "nothing"])
@pytest.mark.parametrize("resolved", [False, True])
def test_pages_are_linked_where_a_folder_lies_on_another_disk(here, tmp_path, linked, resolved):
    links, disk, root = here.module("links"), tmp_path / "disk", tmp_path / "home"
    (disk / "run 1").mkdir(parents=True)
    (disk / "run 1/report.html").write_text("")
    if linked == "home":
        (tmp_path / "real").mkdir()
        root.symlink_to(tmp_path / "real")
    root.mkdir(exist_ok=True)
    if linked == "runs":
        (root / "runs").symlink_to(disk)
    else:
        (root / "runs").mkdir()
        if linked == "run":
            (root / "runs/run 1").symlink_to(disk / "run 1")
        else:
            (root / "runs/run 1").mkdir()
    store = ArtifactStore(root)
    page = store.runs / "run 1/report.html"
    if resolved and linked != "run":
        page = page.resolve()
    assert links.page_url(store, page).endswith("/runs/run%201/report.html")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, 0.1235),
        ({"a": [1.00004, 3]}, {"a": [1.0, 3]}),
        (0.0000123456, 1.235e-05),
        (True, True),
        ("x", "x"),
    ],
)
def test_values_of_metadata_are_rounded(here, value, shown):
    assert here.module("show").rounded(value) == shown


@pytest.mark.parametrize(
    "key", ["ridge", "", "|", "ridge|", "nope|SPLIT", "ridge|nope", "SPLIT|ridge", "ridge|SPLIT|more"]
)
def test_keys_that_are_no_cell(here, key):
    with pytest.raises(dg.Failure, match=r"is no partition of the grid; a key reads model\|split"):
        here.module("partitions").names_of(key.replace("SPLIT", CONTEXT["key"]))


@pytest.mark.parametrize("lacking", [{"split": "demo.context_ood.000000000000"}, {"model": "gone"}])
def test_a_cell_that_was_removed_while_it_waited_says_so(here, lacking):
    """A queued run has the tags of its dimensions, and the location was loaded anew before it began."""
    partitions = here.module("partitions")
    (name,) = lacking.values()
    key = partitions.grid_key(**{"model": "ridge", "split": CONTEXT["key"], **lacking})
    with pytest.raises(dg.Failure, match=f"is no partition of the grid; .* '{name}' is not among them"):
        partitions.names_of(key)


def test_a_split_that_was_removed_while_it_waited_says_so(here):
    partitions = here.module("partitions")
    assert partitions.split_of(CONTEXT["key"]).hash == CONTEXT["hash"]
    with pytest.raises(dg.Failure, match="'gone' is no split of the grid; `perturbfm splits list` shows"):
        partitions.split_of("gone")


def test_keys_of_cells_as_launchers_send_them(here):
    partitions = here.module("partitions")
    wanted = ("ridge", CONTEXT["key"])
    assert partitions.names_of(partitions.grid_key(*wanted)) == wanted
    assert partitions.names_of(f"ridge|{CONTEXT['key']}") == wanted
    assert partitions.names_of(str(partitions.grid_key(*wanted))) == wanted


def test_tables_of_metadata_cannot_be_broken_by_their_cells(here):
    table = here.module("show").table
    text = table(["a|b", "c"], [[1.23456, "x|y"], ["<b>", "two\nlines"]])
    assert text == "| a\\|b | c |\n| --- | --- |\n| 1.2346 | x\\|y |\n| &lt;b> | two lines |"
    # Names of alleles, drugs and cell types are shown as they are, and columns that begin with a sign as well.
    (line,) = table(
        ["HLA-A*02, HLA-B*07", "_x_", "K_562", "[E](http://x)", "a\\|b", "~y~ `z`", "R&amp;D"], []
    ).splitlines()[:1]
    assert line == (
        r"| HLA-A\*02, HLA-B\*07 | \_x\_ | K_562 | \[E\](http://x) | a\\\|b | \~y\~ \`z\` | R&amp;amp;D |"
    )


# ---- materialisation --------------------------------------------------------------------------------------------


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
    finally:
        forget()
        sys.modules.update(others)
    return {
        "splits": list(partitions.SPLITS),
        "datasets": partitions.dataset_partitions.get_partition_keys(),
        "schedules": sorted(s.name for s in defs.schedules),
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
