"""The storage of ``dagster.yaml``: the same files as Dagster's own, read and written by both."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from perturbfm_assets import storage
from perturbfm_assets.storage import KeptEnginesEventLog, LocalStorage
from tests.support.paths import REPO


@dg.op
def seen(context: dg.OpExecutionContext) -> None:
    context.log.info("one line")
    context.log_event(dg.AssetMaterialization("thing"))


@dg.job
def look() -> None:
    seen()


def instance(folder: Path, own: bool) -> dg.DagsterInstance:
    base = {"base_dir": str(folder / "storage")}
    custom = {"module": "perturbfm_assets.storage", "class": "LocalStorage", "config": base}
    (folder / "dagster.yaml").write_text(
        yaml.safe_dump(
            {"storage": {"custom": custom} if own else {"sqlite": base}, "telemetry": {"enabled": False}}
        )
    )
    return dg.DagsterInstance.from_config(str(folder))


def run(folder: Path, own: bool) -> str:
    with instance(folder, own) as opened:
        # By name: other tests load the package anew.
        assert (type(opened.event_log_storage).__name__ == KeptEnginesEventLog.__name__) is own
        result = look.execute_in_process(instance=opened)
        assert result.success
        return result.run_id


def events(folder: Path, own: bool, run_id: str) -> list[str]:
    with instance(folder, own) as opened:
        return [e.to_json() for e in opened.all_logs(run_id)]


def test_the_instance_of_dagster_yaml_uses_it() -> None:
    settings = yaml.safe_load((REPO / "dagster.yaml").read_text())
    assert settings["storage"]["custom"]["class"] == LocalStorage.__name__


@pytest.mark.parametrize("own", [True, False])
def test_each_reads_what_the_other_wrote_and_goes_on(tmp_path: Path, own: bool) -> None:
    first = run(tmp_path, own)
    second = run(tmp_path, not own)
    for run_id in (first, second):
        assert len(events(tmp_path, True, run_id)) > 5
        assert events(tmp_path, True, run_id) == events(tmp_path, False, run_id)
    with instance(tmp_path, own) as opened:
        assert {r.dagster_run.run_id for r in opened.get_run_records()} == {first, second}
        records = opened.fetch_materializations(dg.AssetKey("thing"), limit=9).records
        assert len(records) == 2


def shape(path: Path) -> tuple[list[str], str, list[str]]:
    with sqlite3.connect(path) as db:
        tables = [
            r[0] for r in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
        ]
        mode = db.execute("PRAGMA journal_mode").fetchone()[0]
        return tables, mode, [r[0] for r in db.execute("SELECT version_num FROM alembic_version")]


def test_files_of_later_runs_are_made_like_the_first(tmp_path: Path) -> None:
    with instance(tmp_path, True) as opened:
        made = [look.execute_in_process(instance=opened).run_id for _ in range(3)]
        counts = [len(opened.all_logs(r)) for r in made]
    assert len(set(counts)) == 1
    (tmp_path / "plain").mkdir()
    plain = run(tmp_path / "plain", False)
    expected = shape(tmp_path / "plain" / "storage" / "history" / "runs" / f"{plain}.db")
    folder = tmp_path / "storage" / "history" / "runs"
    assert {name: shape(folder / f"{name}.db") for name in made} == dict.fromkeys(made, expected)
    assert not list(folder.glob("*.part"))


def test_a_file_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    assert storage._placed(path, b"one")
    assert not storage._placed(path, b"two")
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["run.db"]


def test_a_disk_without_links_leaves_the_file_to_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(storage.os, "link", no_links)
    assert not storage._placed(tmp_path / "run.db", b"one")
    assert list(tmp_path.iterdir()) == []


def test_engines_beyond_the_limit_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "KEPT_ENGINES", 2)
    log = KeptEnginesEventLog(str(tmp_path))
    for name in "abcab":
        with log.run_connection(name):
            pass
    assert list(log._engines) == ["a", "b"]
    assert sorted(SqliteEventLogStorage(str(tmp_path)).get_all_run_ids()) == ["a", "b", "c"]


@pytest.mark.parametrize("n", [1, 3, 20])
def test_who_watches_a_run_sees_its_events_while_it_goes_on(tmp_path: Path, n: int) -> None:
    seen_by_watcher: list[str] = []

    def watch(entry: dg.EventLogEntry, _: str) -> None:
        seen_by_watcher.append(entry.get_dagster_event().message or "")

    with instance(tmp_path, True) as writer, instance(tmp_path, False) as reader:
        made = writer.create_run_for_job(look)
        reader.watch_event_logs(made.run_id, None, watch)
        time.sleep(0.2)
        for i in range(n):
            writer.report_engine_event(f"line {i}", made)
        deadline = time.monotonic() + 20
        while f"line {n - 1}" not in seen_by_watcher and time.monotonic() < deadline:
            time.sleep(0.05)
        reader.event_log_storage.end_watch(made.run_id, watch)
    assert [m for m in seen_by_watcher if m.startswith("line")] == [f"line {i}" for i in range(n)]


def test_files_are_held_open_only_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with instance(tmp_path, True) as opened:
        log = opened.event_log_storage
        # Of the module that Dagster loaded, which need not be the one imported here.
        monkeypatch.setitem(type(log)._wrote.__globals__, "HELD_OPEN", 2)
        runs = [look.execute_in_process(instance=opened).run_id for _ in range(3)]
        assert len(log._held) == 2
        assert runs[-1] in log._held
        folder = tmp_path / "storage" / "history" / "runs"
        # Their journals stay while they are held, and are gone with the last who has them open.
        assert (folder / f"{runs[-1]}.db-wal").exists()
        assert not (folder / f"{runs[0]}.db-wal").exists()
        opened.event_log_storage.wipe()
        assert opened.all_logs(runs[-1]) == []
        again = look.execute_in_process(instance=opened).run_id
        assert len(opened.all_logs(again)) > 5
    assert not list(folder.glob("*-wal"))
    assert len(events(tmp_path, False, again)) > 5


def test_nothing_is_lost_with_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tests.assets.test_storage import instance, look; "
        "opened = instance(Path(sys.argv[1]), True); "
        "print(look.execute_in_process(instance=opened).run_id, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    run_id = done.stdout.split()[-1]
    for own in (False, True):
        assert "RUN_SUCCESS" in "".join(events(tmp_path, own, run_id)).upper().replace("PIPELINE_", "RUN_")
