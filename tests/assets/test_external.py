"""External models in Dagster: the template worker speaks Pipes, its output is checked, absent environments are no failure."""

from __future__ import annotations

import dagster as dg

from perturbfm_core.catalog.entries import ModelEntry
from tests.assets.conftest import Location
from tests.assets.test_definitions import CONTEXT, cell, checks, metadata


def entry(**params: object) -> ModelEntry:
    """Return an entry of a worker file, under the name of a partition that there is."""
    return ModelEntry(name="external-scgen", description="", model="external-worker", params=params)


def test_a_worker_is_run_in_a_pipes_session_and_ranked_like_any_entry(
    here: Location, monkeypatch, tmp_path
) -> None:
    monkeypatch.setitem(here.module("partitions").CATALOG.models, "external-scgen", entry())
    result = cell(here, "external-scgen", instance=dg.DagsterInstance.local_temp(str(tmp_path)))
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        log = " ".join(str(e.message) for e in instance.all_logs(result.run_id))
    made = metadata(result, "trained_model")
    assert made["status"] == "ok"
    assert made["model"] == "external-worker"
    assert made["training"]["conversion"]["counts"]["missing"] == 0
    assert "external process successfully opened dagster pipes" in log
    assert "the worker reports" in log
    assert all(checks(result).values())
    assert metadata(result, "report")["status"] == "ok"


def test_a_worker_that_writes_nothing_fails_in_its_own_words(here: Location, monkeypatch, tmp_path) -> None:
    models = here.module("partitions").CATALOG.models
    for name, code, says in (
        ("silent", "", "exit code 0 and wrote no raw.npz"),
        ("loud", "raise ValueError('no such gene')", "no such gene"),
        ("half", "open(sys.argv[2] + '/raw.npz', 'wb').write(b'half')", "raw.json"),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text("import sys\n" + code)
        monkeypatch.setitem(models, "external-scgen", entry(worker=str(path)))
        result = cell(here, "external-scgen")
        assert not result.success
        failures = [e.event_specific_data.error.to_string() for e in result.all_events if e.is_step_failure]
        assert any(says in text for text in failures), failures


def test_an_absent_environment_is_not_applicable_and_says_how_to_build_it(here: Location) -> None:
    result = cell(here, "external-scgen")
    assert result.success
    found = metadata(result, "trained_model")
    assert found["status"] == "not_applicable"
    assert "needs" in found["reason"]
    result = cell(here, "external-cpa", split=CONTEXT["key"])
    assert "needs contexts that train has" in metadata(result, "trained_model")["reason"]
