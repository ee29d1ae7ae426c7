"""What the web UI calls stale after a cell has published a run."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from perturbfm_core.pipeline.inbox import Outcome
from tests.support.asset_runs import cell


@pytest.fixture
def instance(tmp_path):
    # Kept by what runs in it.
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def ranked(here, instance):
    job = here.module("definitions").defs.resolve_job_def("refresh_leaderboard")
    assert job.execute_in_process(
        instance=instance, run_config=here.module("jobs").quiet_logs("CRITICAL")
    ).success


def status(here, instance):
    """Return what the UI says of the leaderboard, and why."""
    graph = here.module("definitions").defs.get_repository_def().asset_graph
    found = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    key = dg.AssetKey("leaderboard")
    return found.get_status(key).value, [
        str(c.dependency.asset_key.path[-1]) for c in found.get_stale_causes(key)
    ]


def test_the_leaderboard_is_stale_from_a_new_run_until_it_is_ranked(here, additive, pageless, instance):
    """The grid has more partitions than Dagster compares."""
    assert len(here.module("partitions").grid_partitions.get_partition_keys()) > 100

    def once(again):
        assert cell(here, "additive", instance=instance, tags={"perturbfm/again": again}).success

    once("false")
    ranked(here, instance)
    assert status(here, instance) == ("FRESH", [])
    once("true")
    assert status(here, instance) == ("STALE", ["published_runs"])
    ranked(here, instance)
    once("false")
    assert status(here, instance) == ("FRESH", [])


def test_what_the_command_line_published_is_seen_when_the_runs_are_observed(here, additive):
    """As the button *Observe* does."""
    runs = here.module("assets.report").RUNS
    job = here.module("definitions").defs.resolve_implicit_global_asset_job_def()

    def version():
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(
                instance=instance,
                asset_selection=[runs],
                run_config=here.module("jobs").quiet_logs("CRITICAL"),
            )
            assert result.success
            return instance.fetch_observations(runs, limit=1).records[0].asset_observation.data_version

    before = version()
    assert version() == before
    published = additive.with_name(additive.name.replace("additive", "other"))
    published.mkdir()
    try:
        assert version() != before
    finally:
        published.rmdir()
    assert version() == before


@pytest.mark.parametrize(("status", "seen"), [("published", 1), ("rejected", 0)])
def test_what_a_scan_of_the_inbox_published_is_seen(here, monkeypatch, status, seen):
    """It ranks by itself, and the standings that the UI shows are those of before."""
    jobs = here.module("jobs")
    outcome = Outcome("a.h5ad", status, "a" if seen else None, None)
    monkeypatch.setattr(jobs, "scan_inbox", lambda *_: [outcome])
    monkeypatch.setattr(jobs, "rank", lambda _: None)
    job = here.module("definitions").defs.resolve_job_def("publish_submissions")
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, run_config=jobs.quiet_logs("CRITICAL")).success
        found = instance.fetch_observations(here.module("assets.report").RUNS, limit=5).records
    assert len(found) == seen
