"""`perturbfm predict` and `suggest`, as a user types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.screening.predictions import predict_blocks
from tests.support.command import attempt, perturbfm


@pytest.fixture
def asked(work):
    """Return the options that name data, split and run."""
    return ["--data", "D", "--split", work.split, "--run", work.run]


def test_one_condition_as_lines_and_as_json(work, asked):
    pert = open_dataset(work.path / "D").conditions["pert_id"].iloc[0]
    line = perturbfm("predict", *asked, "--perturbation", pert, "--context", "C0", "--top", 3)
    values = line.values
    assert values["condition"].startswith(f"C0|{pert}|")
    assert "; trust: " in values["verdict"]
    assert "unseen context" in values["verdict"]
    assert len(line.out.split("epistemic_share\n")[-1].splitlines()) == 3
    told = perturbfm("predict", *asked, "--perturbation", pert, "--context", "C0", "--top", 3, "--json").json
    assert told["verdict"] == values["verdict"]
    assert told["run_id"] == work.run
    sizes = [abs(g["mean"]) for g in told["genes"]]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert all(g["lower"] < g["mean"] < g["upper"] and g["sd"] > 0 for g in told["genes"])
    assert told["in_distribution"] in (True, False, None)


def test_the_top_genes_are_those_of_the_runs_prediction(work, asked):
    ds = open_dataset(work.path / "D")
    stored = read_prediction(work.path / "runs" / work.run / "predictions.npz")
    key = ds.conditions.index[ds.condition_codes[stored.idx[0]]]
    context, pert = key.split("|")[:2]
    told = perturbfm(
        "predict", *asked, "--perturbation", pert, "--context", context, "--top", 50, "--json"
    ).json
    mean = {g["gene"]: g["mean"] for g in told["genes"]}
    own = stored.mean[stored.rows[0]]
    assert [mean[g] for g in ds.genes] == pytest.approx(own, abs=1e-6)
    assert told["genes"][0]["gene"] == ds.genes[int(np.argmax(np.abs(own)))]


def test_wider_levels_have_wider_intervals(work, asked):
    width = []
    for level in (0.5, 0.8, 0.9, 0.95):
        rest = ("--perturbation", "G01", "--context", "C1", "--top", 1, "--level", level, "--json")
        gene = perturbfm("predict", *asked, *rest).json["genes"][0]
        width.append(gene["upper"] - gene["lower"])
    assert width == sorted(width)
    assert width[0] < width[-1]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_batch_is_written_whole(work, asked, suffix):
    table = pd.DataFrame(
        {"perturbation": ["G01", "TP53+G01", "G01", "TP53"], "context": ["C1", "C2", "C1", "C1"]}
    )
    if suffix == "parquet":
        table.to_parquet("list.parquet")
    else:
        table.to_csv(f"list.{suffix}", sep="\t" if suffix == "tsv" else ",", index=False)
    done = perturbfm(
        "predict", *asked, "--batch", f"list.{suffix}", "--out", "answers.parquet", "--json"
    ).json
    # The third row repeats the first.
    assert (done["conditions"], done["genes"], done["rows"]) == (3, 50, 150)
    (note,) = done["notes"]
    assert note.startswith("unknown gene 'TP53'")
    assert sum(done[f"trust_{t}"] for t in ("high", "fair", "low")) == 3
    written = pd.read_parquet("answers.parquet")
    assert list(written) == [
        *("condition", "gene", "mean", "sd", "lower", "upper", "epistemic_share", "verdict"),
    ]
    assert len(written) == 150
    one = perturbfm(
        "predict", *asked, "--perturbation", "G01+TP53", "--context", "C2", "--top", 50, "--json"
    ).json
    mine = written[written["condition"] == one["condition"]].set_index("gene")
    assert set(mine["verdict"]) == {one["verdict"]}
    for gene in one["genes"]:
        assert mine.loc[gene["gene"], "upper"] == pytest.approx(gene["upper"], abs=1e-5)
    answer = attempt("predict", *asked, "--batch", f"list.{suffix}", "--out", "answers.parquet")
    assert answer.code == 2
    assert "--force" in answer.err
    assert not list(Path().glob(".answers*"))


def test_options_fill_what_a_batch_lacks_and_never_overrule_it(work, asked):
    Path("bare.csv").write_text("perturbation,modality\nG01,\nG02,\n")
    rest = ("--batch", "bare.csv", "--out", "x.parquet")
    given = {"--context": "C1", "--modality": "CRISPRa", "--doses": "5", "--covariates": "time=6 h"}
    perturbfm("predict", *asked, *rest, *(x for pair in given.items() for x in pair))
    keys = list(pd.read_parquet("x.parquet")["condition"].unique())
    assert keys == [f'C1|G0{i}|CRISPRa|5|{{"time":"6 h"}}' for i in (1, 2)]
    columns = {"--context": "C2", "--modality": "CRISPRa", "--doses": "1", "--covariates": "a=b"}
    for option, value in given.items():
        name = option[2:]
        row = {"perturbation": "G01", "context": "C2", name: columns[option]}
        pd.DataFrame([row]).to_csv("full.csv", index=False)
        answer = attempt("predict", *asked, "--batch", "full.csv", "--out", "y.parquet", option, value)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert f"has a column '{name}' and {option} '{value}' is given too; give one of them" in answer.err
    assert not Path("y.parquet").exists()


def test_a_batch_of_several_blocks_is_one_table(work, asked, monkeypatch):
    pd.DataFrame({"perturbation": ["G01", "TP53", "G02"], "context": "C1"}).to_csv("list.csv", index=False)
    rest = ("--batch", "list.csv", "--out")
    whole = perturbfm("predict", *asked, *rest, "whole.parquet", "--json").json
    monkeypatch.setattr(predict_blocks, "__defaults__", (0.9, 2))
    parts = perturbfm("predict", *asked, *rest, "parts.parquet", "--json").json
    assert parts == {**whole, "out": "parts.parquet"}
    assert pq.ParquetFile("parts.parquet").num_row_groups == 2
    assert pd.read_parquet("parts.parquet").astype(str).equals(pd.read_parquet("whole.parquet").astype(str))


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        pytest.param(["--perturbation", "G01", "--context", "c0"], ["'c0'", "nearest: C0"], id="context"),
        pytest.param(["--perturbation", "control", "--context", "C0"], ["control"], id="control"),
        pytest.param(
            ["--perturbation", "G01", "--context", "C0", "--level", 0.7], ["0.5, 0.8, 0.9, 0.95"], id="level"
        ),
        pytest.param(["--perturbation", "G01+G01", "--context", "C0"], ["repeated part"], id="repeated"),
        pytest.param(
            ["--perturbation", "G01", "--context", "C0", "--doses", "x"],
            ["dose 'x' is not a number"],
            id="dose",
        ),
        pytest.param(
            ["--perturbation", "G01", "--context", "C0", "--modality", "crispra"],
            ["unknown modality 'crispra'; nearest: CRISPRa"],
            id="modality",
        ),
        pytest.param(["--perturbation", "G01"], ["--context"], id="no-context"),
        pytest.param([], ["--perturbation", "--batch"], id="nothing"),
        pytest.param(
            ["--batch", "absent.csv", "--out", "x.parquet"], ["absent.csv does not exist"], id="no-file"
        ),
        pytest.param(["--batch", "x.csv", "--out", "x.csv"], ["--out FILE.parquet"], id="no-parquet"),
        pytest.param(["--batch", "bad.csv", "--out", "x.parquet"], ["lacks perturbation"], id="columns"),
    ],
)
def test_bad_questions_are_one_line(work, asked, rest, words):
    Path("bad.csv").write_text("gene,context\nG01,C0\n")
    answer = attempt("predict", *asked, *rest)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert all(w in answer.err for w in words), answer.err


def test_a_gene_of_no_known_name_is_answered_with_its_nearest_names(work, asked):
    told = perturbfm("predict", *asked, "--perturbation", "g01", "--context", "C1", "--json").json
    assert told["notes"][0].startswith("unknown gene 'g01'; nearest: G01")
    assert told["trust"] == "low"
    assert "unknown features" in told["verdict"]


def test_a_run_of_another_split_is_refused(work, asked):
    other = perturbfm(
        *("splits", "create", "--data", "D", "--spec", "context_ood", "--holdout-context", "C1")
    ).values["split_hash"]
    rest = ("--run", work.run, "--perturbation", "G01", "--context", "C1")
    answer = attempt("predict", "--data", "D", "--split", other, *rest)
    assert answer.code == 2
    assert f"is of split {work.split[:12]}, not {other[:12]}" in answer.err


def test_a_run_without_its_model_is_read_from_the_objects(work, asked):
    rest = ("--perturbation", "G01", "--context", "C1", "--json")
    before = perturbfm("predict", *asked, *rest).json
    run = work.path / "runs" / work.run
    for name in ("model.safetensors", "model.json", "calibrator.safetensors", "calibrator.json"):
        (run / name).unlink()
    assert perturbfm("predict", *asked, *rest).json == before
    shutil.rmtree(work.path / "runs" / ".objects")
    answer = attempt("predict", *asked, *rest)
    assert answer.code == 2
    assert "train again" in answer.err


def test_suggestions_are_printed_and_come_from_a_file(work, asked):
    shown = perturbfm("suggest", *asked, "--k", 3, "--context", "C1")
    assert shown.values["method"] == "variance"
    rows = shown.out.split("nearest\n")[-1].splitlines()
    assert [r.split()[0] for r in rows] == ["1", "2", "3"]
    assert {r.split()[2] for r in rows} == {"C1"}
    Path("mine.csv").write_text("perturbation\nG00+G01\nG02+G03\n")
    told = perturbfm(
        "suggest", *asked, "--k", 5, "--context", "C2", "--candidates", "mine.csv", "--json"
    ).json
    assert sorted(s["perturbation"] for s in told["suggestions"]) == ["G00+G01", "G02+G03"]
    assert told["candidates"] == 2
    two = ("--context", "C1", "--context", "C2")
    answer = attempt("suggest", *asked, *two, "--candidates", "mine.csv")
    assert answer.code == 2
    assert "mine.csv lacks context" in answer.err
    Path("full.csv").write_text("perturbation,context\nG00+G01,C1\nG02+G03,C2\n")
    told = perturbfm("suggest", *asked, "--context", "C1", "--candidates", "full.csv", "--json").json
    assert [s["context"] for s in told["suggestions"]] == ["C1"]
    assert told["possible"] == 1
    assert told["notes"] == ["candidates left out: 1 of other contexts than C1"]
    for rest, word in ((["--method", "magic"], "entropy, variance"), (["--method", "entropy"], "no process")):
        answer = attempt("suggest", *asked, *rest)
        assert answer.code == 2
        assert word in answer.err
