"""The inbox: what is left there is published once, a bad file is rejected with its reason, the sensor asks for it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import yaml

from perturbfm_core.leaderboard import database
from perturbfm_core.pipeline import inbox_files as stage
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import read_run_record
from tests.support.asset_runs import CONTEXT
from tests.support.command import perturbfm

SPLIT = CONTEXT["key"]


@pytest.fixture(scope="module")
def bounds(tmp_path_factory):
    """Return a folder for the objects that belong to the split alone, its bounds and scale: computed by one test."""
    return tmp_path_factory.mktemp("bounds")


@pytest.fixture
def home(here, demo_data, bounds, tmp_path, monkeypatch):
    """Return a store of this test's own, with the demo data, the shipped splits, and what belongs to the split."""
    shutil.copytree(demo_data, tmp_path / "data/demo")
    shutil.copytree(bounds, tmp_path / "runs/.objects")
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore()
    yield store
    for file in store.objects.glob("*/*/*.json"):
        to = bounds / file.parent.relative_to(store.objects)
        if file.name in ("bounds.json", "scale.json") and not to.exists():
            shutil.copytree(file.parent, to)


def table(home, seed=0):
    split = SplitFolder(home.split_dir).load(SPLIT)
    keys = sorted(split.definition.folds.table["test"])
    genes = open_dataset(home.dataset("demo")).genes
    values = np.random.default_rng(seed).normal(0, 0.2, (len(keys), len(genes)))
    return pd.DataFrame(values, index=pd.Index(keys, name="condition"), columns=genes)


def leave(home, name, noise=0, end="csv", **fields):
    """Leave a submission in the inbox."""
    inbox = home.home / "inbox"
    inbox.mkdir(exist_ok=True)
    if end is not None:
        made = table(home, noise)
        made.to_csv(inbox / f"{name}.csv") if end == "csv" else made.to_parquet(inbox / f"{name}.parquet")
    (inbox / f"{name}.yaml").write_text(yaml.safe_dump({"entry": name, "split": SPLIT, **fields}))


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_scan_publishes_each_once(home):
    assert "holds no submission" in perturbfm("inbox", "scan").out
    content = open_dataset(home.dataset("demo")).content_sha256
    leave(home, "one", note="a line", data=content[:12], generator="scaled")
    leave(home, "two", noise=1, end="parquet", data="demo")
    rows = {r["file"]: r for r in perturbfm("inbox", "scan", "--json").json}
    assert {n: r["status"] for n, r in rows.items()} == {"one.yaml": "published", "two.yaml": "published"}
    run = rows["one.yaml"]["run_id"]
    record = read_run_record(home.run(run))
    assert (record.entry, record.family, record.submission.note) == ("one", "external", "a line")
    assert record.submission.options["generator"] == "scaled"
    inbox = home.home / "inbox"
    other = rows["two.yaml"]["run_id"]
    assert names(inbox) == sorted(
        f"accepted/{r}/{n}"
        for r, n in ((run, "one.csv"), (run, "one.yaml"), (other, "two.parquet"), (other, "two.yaml"))
    )
    assert perturbfm("inbox", "scan", "--json").json == []
    # The same file once more finds its run, and is put beside.
    leave(home, "one", note="another line", generator="scaled")
    (row,) = perturbfm("inbox", "scan", "--json").json
    assert (row["status"], row["run_id"]) == ("existing", run)
    assert f"accepted/{run}-2/one.yaml" in names(inbox)
    assert len(home.run_dirs()) == 2


BAD = {
    "unknown field": ({"colour": "red"}, "colour"),
    "catalog entry": ({"entry": "ridge"}, "is a model of the catalog"),
    "no split": ({"split": "0" * 64}, "no split"),
    "elsewhere": ({"file": "../secret.csv"}, "must be the name of a file beside it"),
    "itself": ({"file": "bad.yaml"}, "must be the name of a file beside it"),
    "no data": ({"data": "nowhere"}, "nowhere"),
    "no such content": ({"data": "0123456789abcdef"}, "no data set '0123456789abcdef'"),
    "generator": ({"generator": "dice"}, "generator"),
    "seed": ({"seed": -1}, "seed"),
    "address": ({"url": "x"}, "https://"),
    "kind": ({"kind": "rates"}, "kind"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_description_is_rejected_with_its_reason(home, name):
    fields, expected = BAD[name]
    leave(home, "bad", **fields)
    leave(home, "good", noise=1)
    rows = {r["file"]: r for r in perturbfm("inbox", "scan", "--json").json}
    assert (rows["bad.yaml"]["status"], rows["good.yaml"]["status"]) == ("rejected", "published")
    rejected = home.home / "inbox/rejected/bad"
    reason = (rejected / "reason.txt").read_text()
    assert expected in reason
    assert reason.count("\n") == 1
    assert names(rejected) == ["bad.csv", "bad.yaml", "reason.txt"]
    assert [read_run_record(p).entry for p in home.run_dirs()] == ["good"]
    assert perturbfm("inbox", "scan", "--json").json == []


def test_a_submission_that_is_moved_back_is_another_one(home):
    leave(home, "one")
    first, aside = stage.ready(home), home.home / "aside"
    aside.mkdir()
    for back in (False, True):
        for path in list((aside if back else home.home / "inbox").glob("one.*")):
            path.rename((home.home / "inbox" if back else aside) / path.name)
    assert stage.ready(home) not in (first, None)


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"condition,G0\nnone,1\n", b"not a table"])
def test_a_bad_file_is_rejected_and_a_second_one_beside_it(home, content):
    for n in (1, 2):
        leave(home, "bad")
        (home.home / "inbox/bad.csv").write_bytes(content)
        (row,) = perturbfm("inbox", "scan", "--json").json
        assert row["status"] == "rejected"
        where = home.home / "inbox/rejected" / ("bad" if n == 1 else "bad-2")
        assert (where / "bad.csv").read_bytes() == content
        assert (where / "reason.txt").read_text().strip() == row["reason"]
    assert not home.run_dirs()


@pytest.mark.parametrize("text", ["- a list", "entry: [", "entry: x", "", "\x00"])
def test_a_description_that_is_none_is_rejected_with_its_file(home, text):
    leave(home, "bad")
    (home.home / "inbox/bad.yaml").write_text(text)
    (row,) = perturbfm("inbox", "scan", "--json").json
    assert row["status"] == "rejected"
    assert names(home.home / "inbox/rejected/bad") == ["bad.csv", "bad.yaml", "reason.txt"]


def test_what_is_not_complete_waits(home):
    leave(home, "alone", end=None)
    leave(home, "named", file="elsewhere.csv", end=None)
    table(home).to_csv(home.home / "inbox/bare.csv")
    (home.home / "inbox/copying.csv.part").write_text("condition")
    rows = {r["file"]: r["status"] for r in perturbfm("inbox", "scan", "--json").json}
    assert rows == dict.fromkeys(("alone.yaml", "named.yaml", "bare.csv"), "waiting")
    assert names(home.home / "inbox") == ["alone.yaml", "bare.csv", "copying.csv.part", "named.yaml"]
    # Once the rest is there, it is taken.
    (home.home / "inbox/bare.csv").rename(home.home / "inbox/elsewhere.csv")
    rows = {r["file"]: r["status"] for r in perturbfm("inbox", "scan", "--json").json}
    assert rows == {"alone.yaml": "waiting", "named.yaml": "published"}


def test_a_scan_that_was_killed_while_it_moved_is_finished(home):
    leave(home, "one")
    inbox = home.home / "inbox"
    half = inbox / "rejected/one"
    half.mkdir(parents=True)
    (half / "reason.txt").write_text("why\n")
    (inbox / "one.csv").rename(half / "one.csv")
    (row,) = perturbfm("inbox", "scan", "--json").json
    assert row["status"] == "published"
    assert not half.exists()


def test_the_sensor_asks_again_after_a_failed_job(here, home, monkeypatch):
    """The files are the same, but the disk may have room by now; each failure doubles the wait."""
    module, tries = here.module("inbox_sensor"), here.module("tries")
    leave(home, "one")
    with dg.DagsterInstance.ephemeral() as instance:

        def tick():
            return module.inbox(dg.build_sensor_context(instance=instance))

        def fail(request):
            job = here.module("definitions").defs.resolve_job_def("publish_submissions")
            run = instance.create_run_for_job(job, tags={**request.tags, "dagster/run_key": request.run_key})
            instance.report_run_failed(run)
            return run

        first = tick()
        assert tick().run_key == first.run_key
        fail(first)
        waits = tick()
        assert isinstance(waits, dg.SkipReason)
        assert "try 1 failed; the next is in 5 minutes" in waits.skip_message
        now = time.time()
        monkeypatch.setattr(tries.time, "time", lambda: now + 310)
        second = tick()
        assert second.run_key not in (None, first.run_key)
        fail(second)
        assert isinstance(tick(), dg.SkipReason)
        monkeypatch.setattr(tries.time, "time", lambda: now + 920)
        third = tick()
        assert third.run_key not in (first.run_key, second.run_key)
        # Another file is asked for at once.
        leave(home, "two", noise=1)
        monkeypatch.setattr(tries.time, "time", lambda: now)
        assert isinstance(tick(), dg.RunRequest)


def test_the_sensor_goes_on_where_a_file_leads_nowhere_or_is_gone(here, home, monkeypatch):
    """A link without a target is refused by the scan, which has to be asked for; what was removed is no fault."""
    module = here.module("inbox_sensor")

    def tick():
        with dg.DagsterInstance.ephemeral() as instance:
            return module.inbox(dg.build_sensor_context(instance=instance))

    leave(home, "one")
    (home.home / "inbox/dangling.yaml").symlink_to("/nowhere/a.yaml")
    assert tick().run_key == tick().run_key
    rows = {r["file"]: r["status"] for r in perturbfm("inbox", "scan", "--json").json}
    assert rows == {"dangling.yaml": "rejected", "one.yaml": "published"}

    def gone(_):
        raise FileNotFoundError(2, "No such file or directory", str(home.home / "inbox/gone.csv"))

    monkeypatch.setattr(module, "ready", gone)
    assert isinstance(tick(), dg.SkipReason)


def test_what_a_broken_scan_has_published_is_ranked(here, home):
    module, defs = here.module("sensors"), here.module("definitions").defs
    with dg.DagsterInstance.ephemeral() as instance:

        def tick():
            return module.rank_after_cells(dg.build_sensor_context(instance=instance, definitions=defs))

        job = defs.resolve_job_def("publish_submissions")
        keys = set()
        for _ in range(2):
            assert isinstance(tick(), dg.SkipReason if not keys else dg.RunRequest)
            instance.report_run_failed(instance.create_run_for_job(job))
            keys.add(tick().run_key)
    assert len(keys) == 2


def test_the_sensor_asks_for_what_is_complete_once(here, home):
    sensor = here.module("inbox_sensor").inbox

    def tick():
        with dg.DagsterInstance.ephemeral() as instance:
            return sensor(dg.build_sensor_context(instance=instance))

    assert isinstance(tick(), dg.SkipReason)
    leave(home, "one", end=None)
    assert isinstance(tick(), dg.SkipReason)
    leave(home, "one")
    first = tick()
    assert first.run_key == tick().run_key
    leave(home, "two", noise=1)
    assert tick().run_key != first.run_key
    job = here.module("definitions").defs.resolve_job_def("publish_submissions")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance, run_config=here.module("jobs").quiet_logs("CRITICAL")
        )
    assert result.success
    assert isinstance(tick(), dg.SkipReason)
    board = database.query(home, "SELECT DISTINCT entry, family FROM leaderboard ORDER BY entry")
    assert board.to_numpy().tolist() == [["one", "external"], ["two", "external"]]
    assert stage.ready(home) is None
    assert Path("runs/leaderboard.html").is_file()
