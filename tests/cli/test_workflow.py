"""Whole workflows, by the commands that a user types."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from perturbfm_core import schema
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.models.base import load_model
from perturbfm_core.store.artifacts import RUN_ID_PATTERN, ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.workflow import CONTEXT, SYNTH, leaves, tiny_suite

COMMAND = Path(sys.executable).with_name("perturbfm")
CONTRACT = {
    "config.json",
    "split_hash.txt",
    "audit.json",
    "calibrator.json",
    "calibrator.safetensors",
    "model.safetensors",
    "model.json",
    "predictions.npz",
    "metrics.json",
    "scores.parquet",
    "calibration.json",
    "training.json",
    "report.html",
}


def shell(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a process of its own, in a terminal of 20 columns."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PERTURBFM_")}
    return subprocess.run(
        [COMMAND, *argv],
        env={**environment, "COLUMNS": "20"},
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )


def test_the_documented_commands_as_processes(template, tmp_path):
    made = shell(*SYNTH)
    # Another process, the same data.
    content = json.loads((template.path / "D/meta.json").read_text())["metadata"]["content_sha256"]
    assert f"content_sha256={content}\n" in made.stdout
    created = shell(*CONTEXT)
    (split,) = re.findall(r"(?m)^split_hash=([0-9a-f]{64})$", created.stdout)
    trained = shell("train", "baseline", "--data", "D", "--split", split, "--baseline", "global_mean")
    (run,) = re.findall(r"(?m)^run_dir=(runs/\S+)$", trained.stdout)
    assert RUN_ID_PATTERN.fullmatch(Path(run).name)
    assert f"report={run}/report.html\n" in trained.stdout
    assert (made.stderr, created.stderr, trained.stderr) == ("", "", "")
    # 20 columns wrapped nothing: every line is a whole result.
    for line in (made.stdout + created.stdout + trained.stdout).splitlines():
        assert re.match(r"^[A-Za-z_.0-9]+=", line)
    assert {p.name for p in (tmp_path / run).iterdir()} == CONTRACT
    scored = shell(
        *("eval", "predictions", "--data", "D", "--split", split),
        *("--preds", f"{run}/predictions.npz", "--out", "OUT"),
    )
    assert "metrics=OUT/metrics.json\n" in scored.stdout
    assert (tmp_path / "OUT/metrics.json").read_bytes() == (tmp_path / run / "metrics.json").read_bytes()


def test_width_of_the_terminal_changes_nothing(work, monkeypatch):
    argv = ("leaderboard", "sql", "select * from leaderboard limit 5")
    wide = perturbfm(*argv)
    monkeypatch.setenv("COLUMNS", "20")
    assert perturbfm(*argv).out == wide.out
    assert len(wide.out.splitlines()) == 6
    assert wide.out.startswith("board ")
    assert max(map(len, wide.out.splitlines())) > 200


def test_evaluation_of_a_run_repeats_its_metrics(work):
    run = work.path / "runs" / work.run
    answer = perturbfm(
        *("eval", "predictions", "--data", "D", "--split", work.split),
        *("--preds", f"runs/{work.run}/predictions.npz", "--out", "OUT"),
    )
    assert (work.path / "OUT/metrics.json").read_bytes() == (run / "metrics.json").read_bytes()
    assert (work.path / "OUT/calibration.json").read_bytes() == (run / "calibration.json").read_bytes()
    ours = pd.read_parquet(run / "scores.parquet").drop(columns=["run_id", "entry", "config_hash"])
    theirs = pd.read_parquet(work.path / "OUT/scores.parquet").drop(
        columns=["run_id", "entry", "config_hash"]
    )
    pd.testing.assert_frame_equal(ours, theirs)
    assert answer.values["alignment"] == "by_name"


def test_everything_of_a_run_can_be_read(work):
    run = work.path / "runs" / work.run
    assert {p.name for p in run.iterdir()} == CONTRACT
    assert (run / "split_hash.txt").read_text() == work.split + "\n"
    config = json.loads((run / "config.json").read_text())
    assert config["run_id"] == work.run
    assert config["split"]["hash"] == config["split_hash"] == work.split
    assert config["data_hash"] == config["dataset"]["content_sha256"]
    assert re.fullmatch("[0-9a-f]{64}", config["config_hash"])
    assert set(config["code"]) == {"trained_model", "prediction", "metric_panel"}
    assert set(config["libraries"]) <= {"numpy", "scipy", "scikit-learn", "torch"}
    assert config["libraries"]["numpy"] == ".".join(np.__version__.split(".")[:2])
    assert (
        config["dataset"]["content_sha256"]
        == json.loads((work.path / "D/meta.json").read_text())["metadata"]["content_sha256"]
    )
    assert config["environment"]["libraries"]["numpy"] == np.__version__
    scores = pd.read_parquet(run / "scores.parquet")
    assert list(scores.columns) == list(schema.SCORE_COLUMNS)
    assert set(scores["run_id"]) == {work.run}
    metrics = json.loads((run / "metrics.json").read_text())
    whole = scores.query("scope == 'global' and panel == 'delta' and metric == 'pearson'")
    assert metrics["delta"]["global"]["pearson"] == pytest.approx(whole["value"].item(), abs=1e-12)
    prediction = read_prediction(run / "predictions.npz")
    assert prediction.split_hash == work.split
    model = load_model(run)
    assert model.name == "global_mean"
    assert json.loads((run / "training.json").read_text()) == model.training
    assert set(json.loads((run / "calibration.json").read_text())["coverage"]) == {
        "0.5",
        "0.8",
        "0.9",
        "0.95",
    }
    page = (run / "report.html").read_text()
    assert work.run in page
    assert work.split[:12] in page


def test_leaderboard_by_sql(work):
    perturbfm("train", "per_perturbation_mean", "--data", "D", "--split", work.split)
    refreshed = perturbfm("leaderboard", "refresh").values
    assert (refreshed["runs"], refreshed["entries"]) == ("2", "2")
    rows = perturbfm("leaderboard", "sql", "select * from leaderboard limit 5", "--json").json
    assert len(rows) == 5
    ask = "select entry, rank, value from leaderboard where panel='delta' and metric='pearson' order by rank"
    first, second = perturbfm("leaderboard", "sql", ask, "--json").json
    assert (first["rank"], second["rank"]) == (1, 2)
    assert first["value"] > second["value"]
    shown = perturbfm("leaderboard", "show", "--metric", "delta.pearson", "--json").json
    assert [r["entry"] for r in shown] == [first["entry"], second["entry"]]
    assert perturbfm("leaderboard", "show", "--board", "no such board", "--json").json == []


@pytest.mark.parametrize(
    "ask",
    [
        "select current_date as x",
        "select now() as x",
        "select [1, 2] as x",
        "select 'a'::blob as x",
        "select uuid() as x",
        "select interval 1 day as x",
        "select {'a': date '2020-01-01'} as x",
        "select 'nan'::double as x",
        "select 1.5::decimal(4, 2) as x",
    ],
    ids=["date", "time", "list", "blob", "uuid", "interval", "struct", "nan", "decimal"],
)
def test_sql_of_any_type_prints_as_json_and_as_text(work, ask):
    (row,) = perturbfm("leaderboard", "sql", ask, "--json").json
    assert list(row) == ["x"]
    assert len(perturbfm("leaderboard", "sql", ask).out.splitlines()) == 2


def test_short_and_long_form_of_train_are_one(work, monkeypatch):
    answers = []
    for home, words in (("a", ["linear"]), ("b", ["baseline", "--baseline", "linear"])):
        monkeypatch.setenv("PERTURBFM_HOME", home)
        monkeypatch.setenv("PERTURBFM_SPLIT_DIR", "splits")
        answers.append(perturbfm("train", *words, "--data", "D", "--split", work.split).values)
    assert [a["run_dir"].split("/runs/")[0] for a in answers] == ["a", "b"]
    one, two = (work.path / a["run_dir"] for a in answers)
    same = ("config_hash", "entry_hash", "objects", "entry", "params")
    configs = [json.loads((p / "config.json").read_text()) for p in (one, two)]
    assert [configs[0][k] for k in same] == [configs[1][k] for k in same]
    assert (one / "metrics.json").read_bytes() == (two / "metrics.json").read_bytes()
    assert np.array_equal(
        read_prediction(one / "predictions.npz").mean, read_prediction(two / "predictions.npz").mean
    )


@pytest.mark.parametrize("verb", ["train", "run"])
def test_repeating_a_command_finds_the_run(work, verb):
    words = {"train": ["train", "global_mean"], "run": ["run", "--entry", "global_mean"]}[verb]
    repeated = perturbfm(*words, "--data", "D", "--split", work.split).values
    assert (repeated["run_id"], repeated["existing"]) == (work.run, "true")
    assert [p.name for p in ArtifactStore().run_dirs()] == [work.run]


def test_a_command_that_is_repeated_again_reuses_its_objects_in_a_new_run(work):
    objects = {p for p in (work.path / "runs/.objects").rglob("*") if p.is_file()}
    again = perturbfm("train", "global_mean", "--data", "D", "--split", work.split, "--again").values
    assert again["run_id"] != work.run
    assert again["existing"] == "false"
    assert {p for p in (work.path / "runs/.objects").rglob("*") if p.is_file()} == objects
    assert len(ArtifactStore().run_dirs()) == 2
    # The newest is found from now on.
    found = perturbfm("run", "--entry", "global_mean", "--data", "D", "--split", work.split, "--json").json
    assert (found["run_id"], found["existing"]) == (again["run_id"], True)


def test_options_of_train_reach_the_model(work):
    base = ("train", "linear", "--data", "D", "--split", work.split)
    plain = perturbfm(*base).values
    other = perturbfm(*base, "--param", "components=2", "--entry", "linear-2", "--seed", "7").values
    assert other["entry"] == "linear-2"
    assert other["seed"] == "7"
    assert "_linear-2_" in other["run_id"]
    config = json.loads((work.path / other["run_dir"] / "config.json").read_text())
    assert config["params"]["components"] == 2
    assert other["delta.pearson_centered"] != plain["delta.pearson_centered"]


def test_run_takes_every_seed_of_an_entry(work):
    folder = work.path / ".perturbfm/catalog/models"
    folder.mkdir(parents=True)
    entry = {"name": "mine", "description": "two seeds", "model": "global_mean", "seeds": [0, 4]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(entry))
    (work.path / "data").mkdir()
    (work.path / "D").rename(work.path / "data/d")
    # Without --data the data set is found by its content.
    both = perturbfm("run", "--split", work.split, "--entry", "mine", "--json").json["runs"]
    assert [r["seed"] for r in both] == [0, 4]
    assert len({r["run_id"] for r in both}) == 2
    assert (work.path / both[0]["run_dir"] / "report.html").is_file()


def test_demo_runs_a_suite_of_the_users_catalog(tmp_path):
    tiny_suite(tmp_path)
    answer = perturbfm("demo", "--suite", "tiny")
    assert answer.values["experiments"] == "2"
    assert answer.values["leaderboard"] == "runs/leaderboard.duckdb"
    lines = answer.out.splitlines()
    assert lines[0].startswith("delta.pearson_centered, higher is better")
    (head,) = [i for i, x in enumerate(lines) if x.split()[:2] == ["rank", "entry"]]
    assert lines[head + 1].split()[:2] == ["1", "control_only"]
    # The train mean is the centre: undefined, with its reason below.
    (note, mark) = lines[head + 2].split()[:2]
    assert (note, lines[head + 2].split()[2]) == ("-", "global_mean")
    assert any(x.startswith(mark) and "prediction equals the train mean" in x for x in lines)
    again = perturbfm("demo", "--suite", "tiny", "--json").json
    assert len(ArtifactStore().run_dirs()) == 2
    assert len(again["standings"]) == 2
    assert again["report"] == answer.values["report"]
    perturbfm("demo", "--suite", "tiny", "--again")
    assert len(ArtifactStore().run_dirs()) == 4


def test_refresh_skips_an_unreadable_run_and_names_it(work):
    other = perturbfm("train", "control_only", "--data", "D", "--split", work.split).values["run_id"]
    (work.path / "runs" / other / "scores.parquet").write_bytes(b"half")
    answer = attempt("leaderboard", "refresh")
    assert (answer.code, answer.values["runs"], answer.values["skipped"]) == (0, "1", "1")
    (line,) = answer.err.splitlines()
    assert line.startswith(f"warning: run {other} is skipped: ")
    as_json = attempt("leaderboard", "refresh", "--json")
    assert (as_json.code, as_json.json["skipped"], as_json.err) == (0, 1, answer.err)


def test_refresh_says_that_it_skips_a_data_set_and_a_file_of_tags(work):
    stray = work.path / "data/stray/meta.json"
    stray.parent.mkdir(parents=True)
    stray.write_text("{")
    (work.path / "runs/.tags.json").write_text("[]")
    answer = attempt("leaderboard", "refresh")
    assert (answer.code, answer.values["skipped"]) == (0, "2")
    assert [line.partition(" is skipped: ")[0] for line in answer.err.splitlines()] == [
        "warning: file of tags .tags.json",
        "warning: data set data/stray",
    ]


def test_help_and_version():
    assert attempt("--version").out.startswith("perturbfm 0.")
    for words, _ in leaves():
        shown = attempt(*words, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert "Usage:" in shown.out
    for group in ((), ("data",), ("splits",), ("graphs",), ("models",), ("eval",), ("leaderboard",)):
        shown = attempt(*group)
        assert shown.code == 2
        assert "Usage:" in shown.out + shown.err
        # Help is laid out on lines, not squeezed into an error.
        assert "\nCommands:\n" in shown.out + shown.err
        assert "error:" not in shown.err


def test_debug_shows_the_traceback(work):
    from perturbfm_core.cli.main import main
    from perturbfm_core.errors import SplitError

    with pytest.raises(SplitError, match="too short a prefix"):
        main(["splits", "show", "abc", "--debug"])
