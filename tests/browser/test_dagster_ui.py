"""The Dagster UI in a browser: the graph is seen, a cell is launched without a warning, its score is read."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.store.artifacts import ArtifactStore
from tests.assets.conftest import REPO, Location, copy_location, demo_data  # noqa: F401 - a fixture
from tests.support.browser import chromium
from tests.support.processes import free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow]

(SPLIT,) = [
    e["key"]
    for e in json.loads((REPO / "splits/index.json").read_text())["splits"]
    if (e["dataset"], e["kind"]) == ("demo", "context_ood")
]
WAIT = 120_000


@dataclass(frozen=True)
class Ui:
    """A running web UI, and the folder that it was started in."""

    url: str
    location: Location


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a browser; asked for first, so that nothing is started where there is none."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def ui(browser: Any, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:  # noqa: F811
    """Start the UI as `make ui` does, over a folder of its own, and stop every process of its after."""
    location = copy_location(tmp_path_factory.mktemp("ui"))
    shutil.copytree(demo_data, location.path / "data/demo")
    shutil.copy(REPO / "pyproject.toml", location.path)
    for name in ("perturbfm_core", "perturbfm_assets"):
        (location.path / name).symlink_to(REPO / name)
    home = location.path / ".dagster"
    home.mkdir()
    (home / "dagster.yaml").symlink_to("../dagster.yaml")
    port, log = free_port(), location.path / "ui.log"
    environment = {
        **os.environ,
        **location.environment,
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(map(str, sys.path)),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("dg"), "dev", "--host", "127.0.0.1", "--port", str(port)],
            cwd=location.path,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield Ui(url, location)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture
def page(browser: Any, ui: Ui) -> Iterator[Any]:
    """Return a new window."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    shown = context.new_page()
    shown.set_default_timeout(WAIT)
    yield shown
    context.close()


def shot(page: Any, name: str) -> None:
    """Keep a picture of a page where a folder for them is named."""
    if folder := os.environ.get("PERTURBFM_SCREENSHOTS"):
        # Menus fade.
        page.wait_for_timeout(800)
        page.screenshot(path=str(Path(folder) / f"ui_{name}.png"))


def choose(page: Any, value: str) -> None:
    """Tick one partition in the first selection that is still empty."""
    page.get_by_text("Select a partition or create one").first.click()
    page.get_by_placeholder("Filter partitions").fill(value)
    page.get_by_text(value, exact=True).locator("visible=true").last.click()
    page.keyboard.press("Escape")


def test_a_cell_is_launched_from_the_graph_and_its_score_is_read(page: Any, ui: Ui) -> None:
    page.goto(f"{ui.url}/locations/perturbfm/asset-groups/models")
    for name in ("pretrained_encoder", "fit_inputs", "trained_model", "prediction"):
        page.get_by_text(name, exact=True).first.wait_for(state="visible")
    shot(page, "graph")

    page.goto(f"{ui.url}/locations/perturbfm/jobs/benchmark")
    page.get_by_role("button", name="Materialize all").click()
    # With a parent that has to be launched first, a question comes in place of this dialog.
    page.get_by_text("Partition selection").wait_for()
    assert "may fail" not in page.inner_text("body")
    choose(page, "ridge")
    choose(page, SPLIT)
    shot(page, "launch")
    page.get_by_role("button", name="Launch 1 run").click()

    # The score on the page is that of the run.
    store, deadline = ArtifactStore(ui.location.path), time.monotonic() + 240
    while not store.run_dirs():
        assert time.monotonic() < deadline, (ui.location.path / "ui.log").read_text()
        time.sleep(1)
    (run,) = store.run_dirs()
    metrics = json.loads((run / "metrics.json").read_text())
    value = round(metrics[HEADLINE_PANEL]["global"][HEADLINE_METRIC], 4)
    address = f"{ui.url}/assets/report?view=partitions&partition=ridge%7C{SPLIT}"
    while True:
        page.goto(address)
        with contextlib.suppress(Exception):
            page.get_by_text(str(value), exact=True).first.wait_for(timeout=10_000)
            break
        assert time.monotonic() < deadline, page.inner_text("body")
    text = page.inner_text("body")
    assert "context C0" in text
    assert f"/runs/{run.name}/report.html" in text
    assert "file:///" not in text
    shot(page, "score")
    page.get_by_text("[Show Markdown]").first.click()
    # The dialog is there before its content is.
    while "noise-free" not in (table := page.get_by_role("dialog").last.inner_text()):
        assert time.monotonic() < deadline, table
        time.sleep(0.2)
    assert f"{value:.4f}" in table
    shot(page, "floor_and_ceiling")


def test_what_splits_hold_out_is_seen_without_running_anything(page: Any, ui: Ui) -> None:
    page.goto(f"{ui.url}/assets/split?view=overview")
    page.get_by_text("6 combinations: G000+G230").first.wait_for()
    page.goto(f"{ui.url}/assets/report?view=overview")
    page.get_by_text("not_applicable").first.wait_for()


def test_nothing_is_left_in_the_folder_but_what_belongs_there(ui: Ui) -> None:
    names = {p.name for p in ui.location.path.iterdir()}
    assert not [n for n in names if n.startswith(".tmp_dagster_home")]
    assert not {"logs", ".logs_queue", "history", "storage", "schedules"} & names
    # Nothing is sent, so nobody was given a number.
    assert not list(ui.location.path.rglob(".telemetry"))
