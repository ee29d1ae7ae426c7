"""External models in Dagster: the template worker speaks Pipes, its output is checked, absent environments are no failure."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import dagster as dg
import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.models.base import MODELS
from perturbfm_core.splits.conditions import SplitConditions
from tests.assets.conftest import Location
from tests.support.asset_runs import CONTEXT, DEMO, cell, checks, metadata
from tests.support.processes import ends


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


@pytest.mark.parametrize("case", ["a gene that is not measured", "a split of rows", "any other model"])
def test_what_only_the_data_show_is_not_applicable_as_well(here: Location, monkeypatch, case: str) -> None:
    """The grid knows of a split what its file states: neither the measured genes nor the conditions of rows."""
    with_data, experiments = SplitConditions.of, here.module("assets.experiments")
    name, kind, says = "ridge", "combo_ood", "needs what only the data show"
    if case == "a gene that is not measured":
        name, says = "external-gears", r"perturbed genes inside its gene graph \(\d+ of \d+ test conditions"

        def narrower(split, ds) -> SplitConditions:
            found = with_data(split, ds)
            first = found.test["pert_id"].iloc[0].split("+")[0]
            trained = found.train[found.train["pert_id"].str.split("+").map(lambda genes: first not in genes)]
            return SplitConditions(trained, found.test, (found.genes or frozenset()) - {first})

        monkeypatch.setattr(SplitConditions, "of", narrower)
    elif case == "a split of rows":
        name, kind, says = (
            "external-scgen",
            "perturbation_ood",
            "perturbations that train has in some context",
        )
        monkeypatch.setattr(experiments, "conditions_of", lambda key: None)
    else:
        monkeypatch.setattr(
            MODELS.get(name), "cannot", lambda self, conditions: says if conditions.genes else None
        )
    monkeypatch.setattr(MODELS.get(name), "absent", lambda self: None)
    result = cell(here, name, split=next(e["key"] for e in DEMO if e["kind"] == kind))
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    for asset in ("trained_model", "prediction", "metric_panel", "report"):
        shown = metadata(result, asset)
        assert shown["status"] == "not_applicable"
        assert re.search(says, shown["reason"])
    assert all(checks(result).values())


def test_a_cancelled_run_ends_its_worker_with_all_that_it_started(
    here: Location, monkeypatch, tmp_path
) -> None:
    """Cancelling interrupts the run's process, as Ctrl-C does."""
    path, mark = tmp_path / "w.py", tmp_path / "child"
    path.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(mark)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setitem(here.module("partitions").CATALOG.models, "external-scgen", entry(worker=str(path)))

    def cancel() -> None:
        until = time.monotonic() + 120
        while not (mark.exists() and mark.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=cancel, daemon=True).start()
    result = cell(here, "external-scgen")
    assert not result.success
    # Not because the worker has ended by itself, or was found to have failed.
    assert not any("worker of" in str(e.message) for e in result.all_events if e.is_failure)
    assert ends(int(mark.read_text()))
