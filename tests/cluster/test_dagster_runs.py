"""Dagster's runs as jobs of a real Slurm: the daemon and a job killed, a running and a waiting run cancelled."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import VARIABLES
from tests.support.paths import REPO
from tests.support.postgres_node import binaries, postgres
from tests.support.slurm_node import free_ports, skip_unless_started, slurm_node, why_not

NO_POSTGRES = None if binaries() else "not installed: postgresql"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.no_cover,
    pytest.mark.skipif("PERTURBFM_CLUSTER" not in os.environ, reason="takes minutes: make cluster-test"),
    pytest.mark.skipif(bool(why_not() or NO_POSTGRES), reason=str(why_not() or NO_POSTGRES)),
]
(SPLIT,) = [
    e["key"]
    for e in json.loads((REPO / "splits/index.json").read_text())["splits"]
    if (e["dataset"], e["kind"]) == ("demo", "context_ood")
]
ENTRIES = ("control_only", "global_mean", "per_perturbation_mean", "additive", "ridge", "linear")
SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "perturbfm_assets.definitions"}
LAUNCH = "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"
CANCEL = "mutation($r: String!, $p: TerminateRunPolicy) { terminateRun(runId: $r, terminatePolicy: $p) { __typename ... on PythonError { message } } }"
START = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename ... on PythonError { message } } }"
# Seconds that a command of Slurm may take.
WAIT_S = 60


class Cluster:
    """Slurm, Postgres, a web server and a daemon."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.url = home, f"http://127.0.0.1:{port}"
        self.running: list[subprocess.Popen[bytes]] = []
        module = ("-m", "perturbfm_assets.definitions")
        self.start("dagster-webserver", "-h", "127.0.0.1", "-p", str(port), *module)
        self.daemon = self.start("dagster-daemon", "run", *module)

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program of the environment."""
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [Path(sys.executable).parent / name, *words], stdout=log, stderr=log, start_new_session=True
            )
        self.running.append(process)
        return process

    def restart_daemon(self) -> None:
        """Kill the daemon, and start another."""
        self.daemon.kill()
        self.daemon.wait(30)
        self.daemon = self.start("dagster-daemon", "run", "-m", "perturbfm_assets.definitions")

    def ask(self, query: str, **variables: Any) -> Any:
        """Return the data of a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return found["data"]

    def launch(self, entry: str) -> str:
        """Launch a cell and return the run's id."""
        tags = {
            "dagster/partition": f"{entry}|{SPLIT}",
            "dagster/partition/model": entry,
            "dagster/partition/split": SPLIT,
        }
        metadata = {"tags": [{"key": k, "value": v} for k, v in tags.items()]}
        params = {
            "selector": {**SELECTOR, "jobName": "benchmark"},
            "runConfigData": {},
            "executionMetadata": metadata,
        }
        found = self.ask(LAUNCH, p=params)["launchRun"]
        assert found["__typename"] == "LaunchRunSuccess", found
        return str(found["run"]["runId"])

    def end(self) -> None:
        """End all that was started."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait(20)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Start everything in a folder with the frozen splits, by the shipped configuration with shorter intervals."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copytree(REPO / "splits", work / "splits")
    config = yaml.safe_load((REPO / "docs/deploy/slurm/dagster.yaml").read_text())
    config["run_launcher"]["config"]["sbatch"] = ["--cpus-per-task=1", "--mem=1500M", "--time=20"]
    config["run_coordinator"]["config"]["dequeue_interval_seconds"] = 1
    config["run_monitoring"]["poll_interval_seconds"] = 3
    (work / "dagster.yaml").write_text(yaml.safe_dump(config))
    given = {
        "PERTURBFM_HOME": str(work),
        "PERTURBFM_SPLIT_DIR": str(work / "splits"),
        "PERTURBFM_SLURM_LOGS": str(work / "slurm"),
        "DAGSTER_HOME": str(work),
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
    }
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    with skip_unless_started(), slurm_node() as conf, postgres() as url:
        monkeypatch.setenv("SLURM_CONF", str(conf))
        monkeypatch.setenv("DAGSTER_PG_URL", url)
        (port,) = free_ports(1)
        # The first to open the database makes its tables; two at once would collide.
        with dg.DagsterInstance.from_config(str(work)) as instance:
            assert instance.get_runs() == []
        made = Cluster(work, port)
        try:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    made.ask("{ version }")
                    break
                assert time.monotonic() < deadline, (work / "dagster-webserver.log").read_text()[-3000:]
                time.sleep(0.5)
            yield made
        finally:
            made.end()


def until(
    instance: dg.DagsterInstance, wanted: Callable[[list[dg.DagsterRun]], Any], seconds: float = 400
) -> Any:
    """Wait for something of the runs, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := wanted(instance.get_runs())):
        runs = [(r.run_id[:8], r.status.value, r.tags.get("slurm/job_id")) for r in instance.get_runs()]
        assert time.monotonic() < deadline, runs
        time.sleep(0.5)
    return found


def jobs() -> list[str]:
    text = subprocess.run(
        ["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True, timeout=WAIT_S
    ).stdout
    return text.split()


def partition(state: str) -> None:
    """Let jobs begin (``UP``), or wait (``DOWN``)."""
    subprocess.run(["scontrol", "update", "PartitionName=test", f"State={state}"], check=True, timeout=WAIT_S)


def _numbered(runs: list[dg.DagsterRun]) -> list[dg.DagsterRun]:
    """Return the runs if all are in the queue of Slurm, with the number of their job, else none."""
    known = [r for r in runs if "slurm/job_id" in r.tags]
    return known if len(known) == len(ENTRIES) else []


def test_nothing_is_lost_and_nothing_is_left(cluster):
    with dg.DagsterInstance.from_config(str(cluster.home)) as instance:
        started = cluster.ask(START, s={**SELECTOR, "sensorName": "reconcile_slurm"})["startSensor"]
        assert started["__typename"] == "Sensor", started
        # No job begins before all wait, so that what is cancelled and killed does not depend on the machine's speed.
        partition("DOWN")
        launched = {cluster.launch(entry): entry for entry in ENTRIES}

        def of_state(*states: str) -> Callable[[list[dg.DagsterRun]], list[dg.DagsterRun]]:
            return lambda runs: [r for r in runs if r.run_id in launched and r.status.value in states]

        def begins() -> dg.DagsterRun:
            """Wait for a run that has not begun yet: one that has may be about to end."""
            begun = {r.run_id for r in of_state("STARTED")(instance.get_runs())}
            return until(
                instance, lambda runs: [r for r in of_state("STARTED")(runs) if r.run_id not in begun]
            )[0]

        until(instance, lambda _: len(jobs()) == len(ENTRIES))
        waiting = until(instance, lambda runs: _numbered(of_state("STARTING")(runs)))
        # The last in the queue waits in Slurm: Dagster can only mark it as cancelled.
        waits = max(waiting, key=lambda r: int(r.tags["slurm/job_id"]))
        cluster.ask(CANCEL, r=waits.run_id, p="MARK_AS_CANCELED_IMMEDIATELY")
        partition("UP")
        first = begins()
        cluster.ask(CANCEL, r=first.run_id, p="SAFE_TERMINATE")
        cluster.restart_daemon()
        second = begins()
        subprocess.run(["scancel", "--signal=KILL", "--full", second.tags["slurm/job_id"]], check=True)
        until(instance, lambda runs: all(r.is_finished for r in runs) and len(runs) >= 7 and not jobs())
        status = {launched[r]: instance.get_run_by_id(r).status.value for r in launched}
        cancelled = {launched[waits.run_id], launched[first.run_id]}
        killed = launched[second.run_id]
        assert status == {
            e: "CANCELED" if e in cancelled else "FAILURE" if e == killed else "SUCCESS" for e in ENTRIES
        }
        (again,) = [r for r in instance.get_runs() if r.parent_run_id == second.run_id]
        assert again.status == dg.DagsterRunStatus.SUCCESS
        runs = [p.name for p in ArtifactStore().run_dirs()]
        for entry in set(ENTRIES) - cancelled:
            assert sum(f"_{entry}_" in name for name in runs) == 1, (entry, runs)
        assert not any(f"_{launched[waits.run_id]}_" in name for name in runs)
