"""A running Dagster: one cell launched over GraphQL, and the pages that a user opens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import yaml

from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.locks import Holder, read_holder
from perturbfm_core.store.owner import host_name
from tests.assets.conftest import REPO, Location, copy_location
from tests.support.command import perturbfm
from tests.support.processes import free_port

(SPLIT,) = [
    e["key"]
    for e in json.loads((REPO / "splits/index.json").read_text())["splits"]
    if (e["dataset"], e["kind"]) == ("demo", "context_ood")
]
LAUNCH = """
mutation($p: ExecutionParams!) {
  launchRun(executionParams: $p) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""


# An entry whose fit takes longer than any test.
ENDLESS = {
    "name": "endless",
    "description": "An ensemble of a hundred networks.",
    "model": "perturbfm-v1",
    "uncertainty": {"ensemble": 100},
}


@dataclass(frozen=True)
class Server:
    """A running web server with its daemon."""

    url: str
    location: Location

    def ask(self, query: str, **variables: Any) -> Any:
        """Return the data of a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return found["data"]

    def launch(self, job: str, tags: dict[str, str]) -> str:
        """Launch a job and return the run's id."""
        selector = {"repositoryName": "__repository__", "repositoryLocationName": "perturbfm", "jobName": job}
        metadata = {"tags": [{"key": k, "value": v} for k, v in tags.items()]}
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": metadata}
        launched = self.ask(LAUNCH, p=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def cell(self, model: str) -> str:
        """Launch one entry on the split and return the run's id."""
        return self.launch(
            "benchmark",
            {
                "dagster/partition": f"{model}|{SPLIT}",
                "dagster/partition/model": model,
                "dagster/partition/split": SPLIT,
            },
        )

    def messages(self, run: str) -> list[str]:
        """Return the messages in a run's log."""
        query = (
            "query($i: ID!) { logsForRun(runId: $i) { ... on EventConnection "
            "{ events { ... on MessageEvent { message } } } } }"
        )
        return [e["message"] for e in self.ask(query, i=run)["logsForRun"]["events"] if "message" in e]

    def runs(self, status: str) -> dict[str, str]:
        """Return {id: job} of the runs in a status."""
        query = (
            "query($s: [RunStatus!]) { runsOrError(filter: {statuses: $s}) "
            "{ ... on Runs { results { runId jobName } } } }"
        )
        found = self.ask(query, s=[status])["runsOrError"]["results"]
        return {run["runId"]: run["jobName"] for run in found}

    def finish(self, run: str) -> str:
        """Wait until a run has ended and return its status."""
        query = "query($i: ID!) { runOrError(runId: $i) { ... on Run { status } } }"
        deadline = time.monotonic() + 180
        status = "never asked"
        while time.monotonic() < deadline:
            status = self.ask(query, i=run)["runOrError"]["status"]
            if status in ("SUCCESS", "FAILURE", "CANCELED"):
                break
            time.sleep(0.5)
        return status


@pytest.fixture(scope="module")
def server(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start web server and daemon over a folder of their own, and stop every process of theirs after."""
    location = copy_location(tmp_path_factory.mktemp("server"))
    shutil.copytree(demo_data, location.path / "data/demo")
    (location.path / "catalog/models").mkdir()
    (location.path / "catalog/models/endless.yaml").write_text(yaml.safe_dump(ENDLESS))
    # Run monitoring looks more often than it would have to.
    settings = yaml.safe_load((location.path / "dagster.yaml").read_text())
    settings["run_monitoring"]["poll_interval_seconds"] = 1
    (location.path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    port, log = free_port(), location.path / "server.log"
    environment = {k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("dagster"), "dev", "-w", "workspace.yaml"),
                *("-h", "127.0.0.1", "-p", str(port)),
            ],
            cwd=location.path,
            env={**environment, **location.environment, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        made = Server(f"http://127.0.0.1:{port}", location)
        deadline = time.monotonic() + 180
        while True:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{made.url}/server_info", timeout=5) as page,
            ):
                assert json.load(page)["dagster_webserver_version"] == "1.13.27"
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture
def on_server(server: Server, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return the server, and point this test's environment at its folder."""
    for name, value in server.location.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(server.location.path)
    return server


def test_server_shows_the_asset_graph(server):
    found = server.ask("{ assetNodes { assetKey { path } groupName partitionDefinition { type } } }")[
        "assetNodes"
    ]
    assert {(n["assetKey"]["path"][-1], n["groupName"]) for n in found} == {
        ("dataset", "data"),
        ("split", "splits"),
        ("gene_graph", "splits"),
        ("pretrained_encoder", "models"),
        ("fit_inputs", "models"),
        ("trained_model", "models"),
        ("prediction", "models"),
        ("metric_panel", "evaluation"),
        ("report", "evaluation"),
        ("published_runs", "evaluation"),
        ("leaderboard", "leaderboard"),
        ("leaderboard_page", "leaderboard"),
    }
    kinds = {n["assetKey"]["path"][-1]: (n["partitionDefinition"] or {}).get("type") for n in found}
    assert kinds["report"] == "MULTIPARTITIONED"
    assert kinds["split"] == "STATIC"
    assert kinds["leaderboard"] is None


def test_cell_is_the_same_on_a_server_on_the_command_line_and_in_process(on_server, here, monkeypatch):
    cell = {"dagster/partition": f"ridge|{SPLIT}"}
    tagged = on_server.launch(
        "benchmark", {**cell, "dagster/partition/model": "ridge", "dagster/partition/split": SPLIT}
    )
    assert on_server.finish(tagged) == "SUCCESS"
    served = ArtifactStore(on_server.location.path)
    (launched,) = served.run_dirs()

    # The fixture `here` came last: this is the other folder, with another copy of data and splits.
    assert Path.cwd() == here.path
    # Scores are compared: the pages of the two reports of this process are left unwritten.
    monkeypatch.setattr("perturbfm_core.pipeline.report.run_report", lambda *_: "")
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            here.module("definitions")
            .defs.resolve_job_def("benchmark")
            .execute_in_process(
                instance=instance,
                partition_key=here.module("partitions").grid_key("ridge", SPLIT),
                run_config=here.module("jobs").quiet_logs("CRITICAL"),
            )
        )
        (made,) = result.asset_materializations_for_node("report")
    in_process = Path(made.metadata["run_dir"].value)
    typed = Path(perturbfm("run", "--split", SPLIT, "--entry", "ridge").values["run_dir"])

    tables = [pd.read_parquet(p / "scores.parquet") for p in (launched, in_process, typed)]
    assert [set(t["run_id"]) for t in tables] == [{launched.name}, {in_process.name}, {typed.name}]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(
            tables[0].drop(columns="run_id"), other.drop(columns="run_id"), check_exact=True
        )
    assert (launched / "metrics.json").read_bytes() == (typed / "metrics.json").read_bytes()


def test_raw_launch_without_the_tags_of_its_dimensions(on_server):
    """Such a key arrives as a plain string; a right one runs, a wrong one fails with its reason."""
    right = on_server.launch("benchmark", {"dagster/partition": f"control_only|{SPLIT}"})
    wrong = on_server.launch("benchmark", {"dagster/partition": f"nope|{SPLIT}"})
    assert on_server.finish(right) == "SUCCESS"
    assert on_server.finish(wrong) == "FAILURE"
    entries = [p.name.split("_", 2)[2] for p in ArtifactStore().run_dirs()]
    assert sum(e.startswith("control_only_") for e in entries) == 1
    assert not any(e.startswith("nope") for e in entries)


def until(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Return what a function finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.2)
    return value


def holder(run: str = "") -> Holder | None:
    """Return who holds the training slot, if that is the run."""
    found = read_holder(ArtifactStore().locks / f"train-{host_name()}-0.lock")
    return found if found is not None and found.what == f"run {run}" else None


def test_a_killed_run_frees_its_slot_and_a_waiting_one_names_it(on_server):
    killed = on_server.cell("endless")
    held = until(lambda: holder(killed), "training")
    waiting = on_server.cell("global_mean")
    line = f"waiting for a training slot held by run {killed} since {held.since} (process {held.pid} on {held.host})"
    until(lambda: line in on_server.messages(waiting), "line of the waiting run")
    assert line in (on_server.location.path / "server.log").read_text()
    assert on_server.runs("STARTED").keys() >= {killed, waiting}

    os.kill(held.pid, signal.SIGKILL)
    assert on_server.finish(waiting) == "SUCCESS"
    assert on_server.finish(killed) == "FAILURE"
    # Dagster's own watch of its worker and the launcher's check of the process race to see the end.
    said = ("unexpectedly exited", "SIGKILL", "of the run has ended")
    until(lambda: any(x in m for m in on_server.messages(killed) for x in said), "reason of the failure")


def test_a_killed_run_inside_another_process_is_marked_as_failed(on_server):
    """Nothing of Dagster's own looks after such a run: the launcher's check of its process does."""
    environment = {k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"}
    code = (
        "import dagster as dg\n"
        "from perturbfm_assets.definitions import defs\n"
        "from perturbfm_assets.launcher import host_tags\n"
        "from perturbfm_assets.partitions import grid_key\n"
        "with dg.DagsterInstance.from_config('.') as instance:\n"
        f"    defs.resolve_job_def('benchmark').execute_in_process(instance=instance, tags=host_tags(), partition_key=grid_key('endless', {SPLIT!r}))\n"
    )
    with (on_server.location.path / "inside.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        # The leaderboard's own run may be on the way too, after the cells of other tests.
        run = until(lambda: next(filter(holder, on_server.runs("STARTED")), None), "training")
        # It is looked at more than once, and left alone while its process lives.
        time.sleep(3)
        assert run in on_server.runs("STARTED")
    finally:
        process.kill()
        process.wait(10)
    assert on_server.finish(run) == "FAILURE"
    assert any(f"process {process.pid} of the run has ended" in m for m in on_server.messages(run))
    assert on_server.finish(on_server.cell("control_only")) == "SUCCESS"
