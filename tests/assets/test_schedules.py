"""Schedules and sensors of the code location: what they ask for, and what they do not ask for again."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.events import StepMaterializationData
from dagster._core.utils import make_new_run_id

from perturbfm_core.catalog.loading import load_catalog, packaged_folder
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_status import CellStatus, suite_status
from perturbfm_core.store.artifacts import ArtifactStore
from tests.assets.conftest import SUITE
from tests.support.asset_runs import CONTEXT, cell


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
    # No run of another test of this process lies there.
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "home"))
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
        # One that failed before its end may have published some of its seeds; a graph publishes none.
        run(S.FAILURE, "trained_model", "report")
        keys.add(tick().run_key)
        run(S.FAILURE, "gene_graph")
        keys.add(tick().run_key)
        assert len(keys) == 3


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


def test_a_nightly_asks_for_a_run_that_another_one_stands_before(here, pageless, monkeypatch, tmp_path):
    """An entry that was changed and changed back: its run is there, and the board has the one between."""
    defs, catalog = here.module("definitions").defs, here.module("partitions").CATALOG

    def asked():
        with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
            ticked = ticked_at(datetime(2026, 1, 7, 5, 30, tzinfo=UTC), instance, defs)
        return [str(r.partition_key).partition("|")[0] for r in ticked.run_requests]

    for entry in SUITE["models"]:
        assert cell(here, entry).success
    assert asked() == []
    with monkeypatch.context() as patch:
        other = catalog.model("global_mean").model_copy(update={"seeds": (7,)})
        patch.setitem(catalog.models, "global_mean", other)
        assert cell(here, "global_mean", tags={"perturbfm/again": "true"}).success
    assert asked() == ["global_mean"]
    assert cell(here, "global_mean").success
    assert asked() == []
