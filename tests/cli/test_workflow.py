"""Whole workflows, by the commands that a user types."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
import yaml

from perturbfm_core import schema
from perturbfm_core.cli.main import app
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.models.base import load_model
from perturbfm_core.store.artifacts import RUN_ID_PATTERN, ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.few_panels import score_only
from tests.support.paths import REPO, TESTS

PARITY = TESTS / "parity"
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
SYNTH = [
    "data",
    "make-synth",
    "--out",
    "D",
    "--n-obs",
    "200",
    "--n-genes",
    "50",
    "--n-contexts",
    "3",
    "--n-perts",
    "5",
]
CONTEXT = ["splits", "create", "--data", "D", "--spec", "context_ood", "--holdout-context", "C0"]


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


def leaves(command=None, path=()):
    """Return every verb of the command line as (words, click command)."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "list_commands"):
        return [(path, command)]
    names = command.list_commands(None)
    return [leaf for name in names for leaf in leaves(command.get_command(None, name), (*path, name))]


@pytest.fixture
def screen_h5ad(tmp_path):
    """Write an h5ad of counts in two cell lines: singles, a pair written ``B_A``, doses, three donors."""
    rng = np.random.default_rng(3)
    n, genes = 240, ["A", "B", "C", *(f"g{i}" for i in range(17))]
    pert = rng.choice(["ctrl", "A", "B", "C", "B_A"], size=n, p=[0.3, 0.2, 0.2, 0.2, 0.1])
    obs = pd.DataFrame(
        {
            "perturbation": pert,
            "cell_line": rng.choice(["K562", "RPE1"], size=n),
            "batch": rng.choice(["d1", "d2", "d3"], size=n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    counts = rng.poisson(5.0, size=(n, len(genes))).astype(np.float32)
    counts[pert == "A", 0] += 30
    counts[pert == "B", 1] += 30
    path = tmp_path / "screen.h5ad"
    anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return path


IMPORT = [
    "--pert-col",
    "perturbation",
    "--context-col",
    "cell_line",
    "--batch-col",
    "batch",
    "--control-label",
    "ctrl",
    "--separator",
    "_",
    "--space",
    "counts",
    "--modality",
    "CRISPRa",
]


# ---- the documented commands --------------------------------------------------------------------------------


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


# ---- training ---------------------------------------------------------------------------------------------------


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


def test_a_split_is_found_by_prefix_and_key(work):
    wanted = perturbfm("splits", "show", work.split).values
    assert perturbfm("splits", "show", work.split[:7]).values == wanted
    assert perturbfm("splits", "show", wanted["key"]).values == wanted
    trained = perturbfm("train", "control_only", "--data", "D", "--split", work.split[:9])
    assert trained.values["split_hash"] == work.split


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


# ---- splits -------------------------------------------------------------------------------------------------------


def test_the_same_request_finds_the_same_split(work):
    files = {p.name: p.read_bytes() for p in (work.path / "splits").iterdir()}
    again = perturbfm(*CONTEXT).values
    assert again["split_hash"] == work.split
    assert again["new"] == "false"
    assert {p.name: p.read_bytes() for p in (work.path / "splits").iterdir()} == files


@pytest.mark.parametrize(
    ("kind", "k"),
    [("perturbation_ood", 3), ("combo_ood", 2), ("context_ood", 3), ("leave_one_context_out", 3)],
)
def test_k_folds_at_once_and_one_by_one(work, kind, k):
    folds = [] if kind == "leave_one_context_out" else ["--folds", k]
    base = ("splits", "create", "--data", "D", "--spec", kind, *folds, "--no-bounds")
    together = perturbfm(*base, "--json").json["splits"]
    assert [s["cv"].split(" fold ")[1] for s in together] == [f"{i} of {k}" for i in range(k)]
    assert len({s["split_hash"] for s in together}) == k
    alone = perturbfm(*base, "--fold", k - 1).values
    assert alone["split_hash"] == together[-1]["split_hash"]
    assert alone["new"] == "false"
    listed = perturbfm("splits", "list", "--json").json
    assert len({r["cv_group"] for r in listed if r["fold"] is not None}) == 1
    assert sorted(r["fold"] for r in listed if r["fold"] is not None) == list(range(k))
    assert len(perturbfm("splits", "list").out.splitlines()) == len(listed) + 1


def test_folds_partition_the_conditions(work):
    made = perturbfm(
        *("splits", "create", "--data", "D", "--spec", "combo_ood", "--folds", 2, "--no-bounds", "--json")
    ).json["splits"]
    tests = [
        set(perturbfm("splits", "show", s["split_hash"], "--json").json["folds"]["table"]["test"])
        for s in made
    ]
    conditions = {key for key in _conditions(work) if "+" in key.split("|")[1]}
    assert tests[0] | tests[1] == conditions
    assert not tests[0] & tests[1]


def _conditions(work):
    table = perturbfm("splits", "show", work.split, "--json").json["folds"]["table"]
    return [key for keys in table.values() for key in keys]


def test_explicit_folds_from_json_and_csv_are_one_split(work):
    keys = sorted(_conditions(work))
    folds = {"test": keys[:4], "unused": keys[4:6], "val": keys[6:8]}
    Path("folds.json").write_text(json.dumps(folds))
    rows = [f'"{key}",{fold}' for fold, members in folds.items() for key in members]
    Path("folds.csv").write_text("\n".join(["condition,fold", *rows]) + "\n")
    base = ("splits", "create", "--data", "D", "--spec", "explicit", "--conditions")
    one, two = perturbfm(*base, "folds.json").values, perturbfm(*base, "folds.csv").values
    assert one["split_hash"] == two["split_hash"]
    assert (one["new"], two["new"]) == ("true", "false")
    table = perturbfm("splits", "show", one["split_hash"], "--json").json["folds"]["table"]
    assert {fold: table[fold] for fold in folds} == folds
    assert set(table["train"]) == set(keys[8:])
    run = perturbfm("train", "global_mean", "--data", "D", "--split", one["split_hash"]).values
    tested = pd.read_parquet(f"{run['run_dir']}/scores.parquet").query("scope == 'condition'")["key"]
    assert set(tested) == set(folds["test"])


def test_explicit_folds_by_perturbation_id_join_one_cross_validation(work):
    perts = sorted({key.split("|")[1] for key in _conditions(work) if "+" in key})
    groups = []
    for i, pert in enumerate(perts[:2]):
        Path(f"fold{i}.json").write_text(json.dumps({"test": ["+".join(reversed(pert.split("+")))]}))
        made = perturbfm(
            *("splits", "create", "--data", "D", "--spec", "explicit", "--conditions", f"fold{i}.json"),
            *("--cv-group", "published", "--folds", 2, "--fold", i, "--no-bounds"),
        ).values
        groups.append(made["cv"].split(" fold "))
        shown = perturbfm("splits", "show", made["split_hash"], "--json").json
        assert {key.split("|")[1] for key in shown["folds"]["table"]["test"]} == {pert}
    assert groups[0][0] == groups[1][0]
    assert [g[1] for g in groups] == ["0 of 2", "1 of 2"]


def test_verify_with_and_without_the_data(work):
    answer = perturbfm("splits", "verify", work.split, "--data", "D")
    assert answer.out == f"{work.split[:12]} ok (file and data)\nverified=1\nfailed=0\n"
    # D does not lie under data/, so it is not found by itself.
    assert "file only" in perturbfm("splits", "verify", "--all").out
    (work.path / "data").mkdir()
    (work.path / "D").rename(work.path / "data/d")
    assert "(file and data)" in perturbfm("splits", "verify", "--all").out


def test_migrate_carries_a_split_to_new_values(work):
    perturbfm(*SYNTH[:3], "D2", *SYNTH[4:], "--name", "d", "--depth", 2500)
    refused = attempt("train", "global_mean", "--data", "D2", "--split", work.split)
    assert refused.code == 2
    assert "perturbfm splits migrate" in refused.err
    moved = perturbfm("splits", "migrate", work.split, "--data", "D2").values
    assert moved["supersedes"] == work.split
    assert moved["split_hash"] != work.split
    old = perturbfm("splits", "show", work.split, "--json").json
    new = perturbfm("splits", "show", moved["split_hash"], "--json").json
    assert new["folds"] == old["folds"]
    assert new["stats"]["supersedes"] == work.split
    assert perturbfm("splits", "verify", moved["split_hash"], "--data", "D2").values["failed"] == "0"
    assert perturbfm("train", "global_mean", "--data", "D2", "--split", moved["split_hash"]).values["run_dir"]


# ---- data ---------------------------------------------------------------------------------------------------------


def test_import_registers_a_data_set_for_the_grid(screen_h5ad, tmp_path):
    made = perturbfm(
        "data", "import", screen_h5ad, "--out", "S", *IMPORT, "--name", "screen", "--register"
    ).values
    assert made["n_obs"] == "240"
    assert json.loads(made["contexts"]) == ["K562", "RPE1"]
    assert made["n_combos"] == "2"
    assert "reload" in made["note"]
    entry = yaml.safe_load((tmp_path / ".perturbfm/catalog/datasets/screen.yaml").read_text())
    assert entry["source"] == "artifact"
    assert entry["content_sha256"] == made["content_sha256"]
    split = perturbfm(
        "splits", "create", "--data", "S", "--spec", "combo_ood", "--holdout-combo", "B+A", "--no-bounds"
    )
    # The registered data set is found by its name and content: no --data.
    run = perturbfm("run", "--split", split.values["split_hash"], "--entry", "additive").values
    assert run["entry"] == "additive"
    assert perturbfm("splits", "verify", "--all").out.splitlines()[0].endswith("ok (file and data)")


def test_imported_counts_are_those_of_the_file(screen_h5ad, tmp_path):
    perturbfm("data", "import", screen_h5ad, "--out", "S", *IMPORT)
    from perturbfm_core.pipeline.dataset import open_dataset

    ds = open_dataset(tmp_path / "S")
    source = anndata.read_h5ad(screen_h5ad)
    assert np.array_equal(ds.values.counts.toarray(), source.X)
    assert list(ds.row_ids) == list(source.obs_names)
    label = source.obs["perturbation"].astype(str).map({"ctrl": "control", "B_A": "A+B"}.get, na_action=None)
    assert list(ds.obs["pert_id"]) == list(label.fillna(source.obs["perturbation"].astype(str)))
    assert set(ds.obs.loc[ds.is_control, "modality"]) == {""}
    assert set(ds.obs.loc[~ds.is_control, "modality"]) == {"CRISPRa"}


def test_storages_hold_the_same_data_and_give_the_same_scores(work, monkeypatch):
    perturbfm(*SYNTH[:3], "Z", *SYNTH[4:], "--name", "d", "--storage", "zarr")
    assert (work.path / "Z/data.zarr").is_dir()
    assert not (work.path / "Z/data.npz").exists()
    info = [perturbfm("data", "info", place, "--verify").values for place in ("D", "Z")]
    assert info[0].pop("path") != info[1].pop("path")
    assert info[0] == info[1]
    assert perturbfm(*CONTEXT[:3], "Z", *CONTEXT[4:]).values["split_hash"] == work.split
    run = perturbfm("train", "linear", "--data", "D", "--split", work.split).values
    scored = perturbfm(
        *("eval", "predictions", "--data", "Z", "--split", work.split),
        *("--preds", f"{run['run_dir']}/predictions.npz", "--out", "OUT"),
    ).values
    assert scored["alignment"] == "by_name"
    assert Path("OUT/metrics.json").read_bytes() == Path(run["run_dir"], "metrics.json").read_bytes()
    monkeypatch.setenv("PERTURBFM_HOME", "other")
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", "splits")
    sparse = perturbfm("train", "linear", "--data", "Z", "--split", work.split).values
    assert float(sparse["delta.pearson_centered"]) == pytest.approx(
        float(run["delta.pearson_centered"]), abs=1e-6
    )


def test_force_replaces_a_data_set(work):
    old = perturbfm("data", "info", "D").values["content_sha256"]
    made = perturbfm(*SYNTH, "--seed", 9, "--force").values
    assert made["content_sha256"] != old
    assert perturbfm("data", "info", "D", "--verify").values["content_sha256"] == made["content_sha256"]
    assert sorted(p.name for p in work.path.iterdir()) == ["D", "runs", "splits"]


def test_catalog_configuration_is_simulated_by_name(tmp_path, monkeypatch):
    folder = tmp_path / ".perturbfm/catalog/datasets"
    folder.mkdir(parents=True)
    entry = {
        "name": "tiny",
        "description": "very small",
        "source": "synth",
        "synth": {"n_obs": 100, "n_genes": 20, "n_contexts": 2, "n_perts": 4},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(entry))
    made = perturbfm("data", "make-synth", "--config", "tiny", "--out", "T").values
    assert (made["name"], made["n_obs"], made["n_genes"]) == ("tiny", "100", "20")


# ---- JSON --------------------------------------------------------------------------------------------------------


def test_every_verb_has_the_json_option():
    # A server prints its address and runs until it is stopped.
    without = [
        words
        for words, command in leaves()
        if words != ("serve",) and "--json" not in {o for p in command.params for o in p.opts}
    ]
    assert without == []


# A server runs until it is stopped; these need an environment of gigabytes, or tasks that were submitted.
ELSEWHERE = {
    "serve",
    "data import-tahoe",
    "knowledge add",
    "external env create",
    "external env remove",
    "suite task",
    "suite logs",
    "suite cancel",
}


def _tiny_suite(root: Path) -> None:
    """Add a data set and a suite to the user's catalog that run in a second."""
    entries = {
        "datasets/tiny.yaml": {
            "name": "tiny",
            "description": "very small",
            "source": "synth",
            "synth": {"n_obs": 160, "n_genes": 20, "n_contexts": 2, "n_perts": 4},
        },
        "suites/tiny.yaml": {
            "name": "tiny",
            "description": "one unseen context",
            "grid": [{"dataset": "tiny", "splits": [{"kind": "context_ood", "params": {"holdout": ["C1"]}}]}],
            "models": ["control_only", "global_mean"],
        },
    }
    for name, entry in entries.items():
        path = root / ".perturbfm/catalog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(entry))


def _logarithms(counts: Any) -> Any:
    """Return log1p of counts scaled to ten thousand per cell."""
    cells = counts.toarray() if hasattr(counts, "toarray") else counts
    return np.log1p(1e4 * cells / cells.sum(axis=1, keepdims=True)).astype(np.float32)


def _collections(counts: anndata.AnnData) -> list[str]:
    """Write a file in the form of each collection whose preset needs no more than other names."""
    forms = {
        "gears": ({"perturbation": "condition", "cell_line": "cell_type"}, "ctrl"),
        "replogle": ({"perturbation": "gene"}, "non-targeting"),
        "sciplex": ({"perturbation": "product_name", "cell_line": "cell_type"}, "Vehicle"),
        "vcc": ({"perturbation": "target_gene"}, "non-targeting"),
    }
    for name, (columns, control) in forms.items():
        one = counts.copy()
        one.obs = one.obs.rename(columns=columns)
        label = columns["perturbation"]
        one.obs[label] = (
            one.obs[label].astype(str).replace({"control": control, "B_A": "B+A" if name == "gears" else "B"})
        )
        if name == "gears":
            one.X = _logarithms(one.X)
        one.write_h5ad(f"{name}.h5ad")
    return list(forms)


def test_every_verb_prints_json_and_nothing_else(work, screen_h5ad, monkeypatch):
    score_only(monkeypatch, "delta")
    _tiny_suite(work.path)
    lognorm = anndata.read_h5ad(screen_h5ad)
    lognorm.obs = lognorm.obs.rename(columns={"perturbation": "condition", "cell_line": "cell_type"})
    lognorm.obs["condition"] = lognorm.obs["condition"].astype(str).replace({"ctrl": "control", "B_A": "B+A"})
    lognorm.X = _logarithms(lognorm.X)
    lognorm.write_h5ad("perturbench.h5ad")
    counts = anndata.read_h5ad(screen_h5ad)
    counts.obs["perturbation"] = counts.obs["perturbation"].astype(str).replace({"ctrl": "control"})
    counts.write_h5ad("scperturb.h5ad")
    folds = ["test" if c == "A" else "train" for c in lognorm.obs["condition"]]
    Path("saved.csv").write_text("".join(f"{n},{f}\n" for n, f in zip(lognorm.obs_names, folds, strict=True)))
    perturbfm(*SYNTH[:3], "M", *SYNTH[4:], "--name", "d", "--depth", 2500)
    preds = f"runs/{work.run}/predictions.npz"
    asked = ["--data", "D", "--split", work.split, "--run", work.run]
    Path("grid.yaml").write_text("control_components: [0, 2]\n")
    np.savez("emb.npz", genes=np.asarray(["G01", "G02"]), features=np.ones((2, 3)))
    Path("edges.csv").write_text("source,target,weight\nG01,G02,1\n")
    assert attempt("knowledge", "add", "file", "--from", "edges.csv", "--undirected").code == 0
    template = REPO / "perturbfm_core/external/workers/template_worker.py"
    verbs = {
        "data make-synth": ["--out", "J1", "--n-obs", 160, "--n-genes", 20, "--n-perts", 4],
        "data info": ["D"],
        "data table": ["D", "--rows", "0:", "--out", "part.npz"],
        "data merge-tables": ["D", "part.npz", "--out", "table.npz"],
        "data import": [screen_h5ad, "--out", "J2", *IMPORT],
        "data import-perturbench": ["--dataset", "perturbench.h5ad", "--out", "J3"],
        "data import-scperturb": ["--dataset", "scperturb.h5ad", "--out", "J4"],
        **{f"data import-{n}": ["--dataset", f"{n}.h5ad", "--out", f"J-{n}"] for n in _collections(counts)},
        "data download": ["list"],
        "data cite": ["scperturb/norman_2019"],
        "splits create": CONTEXT[2:],
        "splits show": [work.split],
        "splits list": [],
        "splits audit": [work.split, "--data", "D"],
        "splits import-perturbench": ["--dataset", "perturbench.h5ad", "--data", "J3", "--csv", "saved.csv"],
        "splits verify": ["--all"],
        "splits migrate": [work.split, "--data", "M"],
        "graphs build": ["truth", "--data", "D"],
        "graphs list": [],
        "graphs show": ["d.truth", "--data", "D"],
        "graphs features": ["emb.npz", "--name", "emb"],
        "splits kinds": [],
        "models list": [],
        "models show": ["ridge"],
        "predictions template": ["--data", "D", "--split", work.split, "--out", "fill.csv"],
        "eval predictions": ["--data", "D", "--split", work.split, "--preds", preds, "--out", "OUT"],
        "metrics list": [],
        "metrics validate": ["--data", "D", "--split", work.split, "--preds", preds],
        "metrics probe": ["--data", "D", "--split", work.split, "--preds", preds],
        "metrics score-pair": [
            *("--pred", PARITY / "cell_eval2/synth_a/pred_shift.h5ad"),
            *("--real", PARITY / "cell_eval2/synth_a/real.h5ad", "--out", "SCORED"),
        ],
        "parity": [PARITY / "calibrated/synth_a"],
        "submit": [preds, "--data", "D", "--split", work.split, "--entry", "mine"],
        "inbox scan": [],
        "runs list": [],
        "runs show": [work.run],
        "runs compare": [work.run, "global_mean"],
        "runs tag": [work.run, "kept"],
        "runs rm": [work.run, "--dry-run", "--force"],
        "runs gc": [],
        "leaderboard refresh": [],
        "leaderboard show": [],
        "leaderboard sql": ["select * from runs"],
        "leaderboard compare": ["--family", "baseline"],
        "leaderboard results": [],
        "leaderboard page": [],
        "leaderboard export": ["--parquet", "EXPORTED"],
        "report": [work.run],
        "site build": ["--out", "SITE"],
        "train": ["control_only", "--data", "D", "--split", work.split],
        "run": ["--data", "D", "--split", work.split, "--entry", "additive"],
        "pretrain": ["--data", "D", "--split", work.split, "--epochs", 1, "--hidden-dim", 4],
        "tune": ["linear", "--data", "D", "--split", work.split, "--trials", 1],
        "export": [work.run, "--out", "scores.csv", "--what", "scores"],
        "predict": [*asked, "--perturbation", "G01", "--context", "C0"],
        "suggest": [*asked, "--k", 2],
        "demo": ["--suite", "tiny"],
        "external run": [template, "--data", "D", "--split", work.split, "--param", "degenerate=flag"],
        "external export": ["--data", "D", "--split", work.split, "--out", "VIEW"],
        "external convert": [
            *(preds, "--model", "mine", "--data", "D", "--split", work.split),
            *("--out", "CONVERTED.npz", "--degenerate", "flag"),
        ],
        "external env list": [],
        "suite list": [],
        "suite show": ["tiny"],
        "suite status": ["tiny"],
        "suite run": ["tiny"],
        "suite scorecard": ["tiny"],
        "suite submit": ["tiny", "--on", "local", "--dry-run"],
        "suite refresh": ["tiny"],
        "sweep run": ["--base", "ridge", "--grid", "grid.yaml", "--split", work.split, "--data", "D"],
        "sweep show": [],
        "rescore": ["--all"],
        "knowledge list": [],
        "knowledge show": ["edges"],
        "knowledge remove": ["edges"],
        "doctor": [],
    }
    assert set(verbs) == {" ".join(words) for words, _ in leaves()} - ELSEWHERE
    empty = {}
    for verb, rest in verbs.items():
        # `succeed` asserts that standard error is silent; `.json` that standard output is JSON as a whole.
        answer = perturbfm(*verb.split(), *rest, "--json").json
        assert isinstance(answer, dict | list)
        empty[verb] = not answer
    # One entry has no other to be compared with, and the inbox is empty.
    assert {verb for verb, nothing in empty.items() if nothing} <= {"leaderboard compare", "inbox scan"}
    assert "NaN" not in json.dumps(
        perturbfm("leaderboard", "sql", "select * from leaderboard", "--json", warns=True).json
    )


def test_data_sets_of_runs_are_in_the_leaderboard_wherever_they_lay(work):
    """D lies in the current folder, neither under data/ nor in the catalog."""
    (row,) = perturbfm("leaderboard", "sql", "select * from datasets", "--json").json
    meta = json.loads((work.path / "D/meta.json").read_text())["metadata"]
    assert (row["dataset"], row["data_sha256"]) == (meta["name"], meta["content_sha256"])
    assert (row["n_obs"], row["n_genes"], row["level"], row["space"]) == (200, 50, "cell", "counts")
    # It stays there when the artifact is gone.
    shutil.rmtree("D")
    perturbfm("leaderboard", "refresh")
    assert perturbfm("leaderboard", "sql", "select * from datasets", "--json").json == [row]


def test_splits_are_listed_with_whole_numbers(work):
    perturbfm("splits", "create", "--data", "D", "--spec", "perturbation_ood", "--folds", "2", "--no-bounds")
    lines = perturbfm("splits", "list").out.splitlines()
    at = lines[0].split().index("fold")
    assert sorted(line.split()[at] for line in lines[1:]) == ["-", "0", "1"]


def test_demo_runs_a_suite_of_the_users_catalog(tmp_path):
    _tiny_suite(tmp_path)
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
