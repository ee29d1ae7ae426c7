"""Waits of a run for what another process holds: they are lines of its log."""

from __future__ import annotations

import contextlib
import threading

import dagster as dg

from perturbfm_core.store import locks
from perturbfm_core.store.artifacts import ArtifactStore


def test_a_wait_for_another_ranking_is_in_the_log_of_the_run(here, additive, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.0)
    log = here.module("show").RunLog
    listen = log.__call__
    held = contextlib.ExitStack()
    held.enter_context(ArtifactStore().lock("leaderboard", what="another ranking"))

    def release(self, text):
        listen(self, text)
        held.close()

    monkeypatch.setattr(log, "__call__", release)
    # A run that says nothing would wait for ever.
    timer = threading.Timer(20, held.close)
    timer.start()
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [here.module("assets.leaderboard").leaderboard],
            instance=instance,
            resources={"store": here.module("resources").StoreResource()},
            run_config=here.module("jobs").quiet_logs("CRITICAL"),
        )
        said = [r.user_message for r in instance.all_logs(result.run_id)]
    timer.cancel()
    assert result.success
    (line,) = [text for text in said if "waiting for" in text]
    assert line.startswith("waiting for a lock leaderboard held by another ranking since ")


def test_what_a_suite_waits_for_before_its_cells_is_in_the_log_of_the_run(here, monkeypatch):
    suite, line = here.module("suite"), "waiting for a lock dataset-demo held by another run"

    def made(*_, tell):
        tell(line)
        raise dg.Failure("any failure")

    monkeypatch.setattr(suite, "suite_dataset", made)
    job = here.module("definitions").defs.resolve_job_def("demo")
    quiet = here.module("jobs").quiet_logs("CRITICAL")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, run_config=quiet, raise_on_error=False)
        said = [r.user_message for r in instance.all_logs(result.run_id)]
    assert said.count(line) == 1
