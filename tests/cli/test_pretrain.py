"""``perturbfm pretrain`` as typed, and what trainings show on a terminal."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from perturbfm_core.cli import display, output
from perturbfm_core.models.perturbfm.encoder.pretraining import load_encoder
from perturbfm_core.progress import EpochReport, epoch_listener
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm

SMALL = ["--epochs", 2, "--hidden-dim", 8, "--dim", 4]


def test_pretrain_leaves_an_encoder_that_is_found_again(work):
    asked = ["pretrain", "--data", "D", "--split", work.split, *SMALL]
    first = perturbfm(*asked).values
    assert first["reused"] == "false"
    assert (first["objective"], first["epochs"], first["device"]) == ("both", "2", "cpu")
    assert first["split_hash"] == work.split
    folder = Path(first["path"])
    assert folder == ArtifactStore().object(first["encoder"])
    genes = json.loads(Path("D/meta.json").read_text())["var"]
    made = load_encoder(folder, split_hash=work.split, genes=np.asarray(genes, dtype=np.str_))
    assert made.encoder.dim == 4
    again = perturbfm(*asked, "--json").json
    assert again == {**again, "encoder": first["encoder"], "reused": True}
    assert not list(Path("runs/.checkpoints").glob("*"))


def test_every_option_reaches_the_settings(work):
    options = {
        "--objective": "mask", "--encoder": "set-transformer", "--dim": 6, "--hidden-dim": 5, "--n-layers": 1,
        "--n-heads": 3, "--n-latents": 2, "--dropout": 0.2, "--hvg-count": 9, "--noise": 0.1, "--zero-rate": 0.05,
        "--mask-rate": 0.4, "--max-cells": 60, "--epochs": 1, "--batch-size": 32, "--lr": 0.01,
        "--weight-decay": 0.0, "--patience": 3, "--device": "cpu", "--precision": "fp32", "--seed": 7,
    }  # fmt: skip
    argv = [word for pair in options.items() for word in pair]
    answer = perturbfm(
        "pretrain", "--data", "D", "--split", work.split, *argv, "--no-compile", "--out", "E", "--json"
    ).json
    assert (answer["path"], answer["cells"], answer["genes_read"]) == ("E", 60, 9)
    assert sorted(p.name for p in Path("E").iterdir()) == ["encoder.json", "encoder.safetensors"]
    told = json.loads(Path("E/encoder.json").read_text())
    config = told["config"]
    found = {
        **config,
        **config["loop"],
        **config["encoder"],
        "encoder": config["encoder"]["kind"],
        "seed": told["seed"],
    }
    for option, value in options.items():
        assert found[option.removeprefix("--").replace("-", "_")] == value, option
    assert found["compile"] is False


def test_a_set_transformer_reads_the_most_variable_genes_by_default(work):
    answer = attempt(
        "pretrain", "--data", "D", "--split", work.split, "--encoder", "set-transformer", "--hvg-count", 10,
        "--epochs", 1, "--dim", 4, "--json",
    )  # fmt: skip
    assert json.loads(answer.out)["genes_read"] == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "guess"], r"pretrain options is not a valid PretrainConfig: objective: .*'guess'"),
        (["--encoder", "cnn"], r"encoder\.kind: .*'cnn'"),
        (["--encoder", "set-transformer", "--dim", 10], r"dim 10 is not a multiple of n_heads 4"),
        (["--mask-rate", 0], r"mask_rate"),
        (["--epochs", 0], r"loop\.epochs"),
        (["--out", "D"], r"D already exists"),
    ],
)
def test_wrong_options_are_one_line(work, options, message):
    answer = attempt("pretrain", "--data", "D", "--split", work.split, *SMALL, *options)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert re.search(message, answer.err), answer.err


def test_cuda_that_is_absent_is_one_line(work, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = attempt("pretrain", "--data", "D", "--split", work.split, *SMALL, "--device", "cuda")
    assert answer.code == 2
    assert "device 'cuda' was asked for" in answer.err
    assert "use --device auto or cpu" in answer.err


# ---- progress ------------------------------------------------------------------------------------------------


def shown(tell) -> str:
    """Return what a display of width 100 shows after `tell` was called with it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Progress(*display.columns(), console=console, auto_refresh=False) as bar:
        tell(display.Display(bar, None))
        console.file.truncate(0)
        bar.refresh()
    return console.file.getvalue()


def test_a_training_shows_phase_loss_and_score():
    def tell(display):
        display("fitting v2, seed 0")
        display.epoch(EpochReport("stage A", 2, 40, 0.5, None))
        display.epoch(EpochReport("stage A", 3, 40, 0.25, 0.625))

    text = shown(tell)
    assert "fitting v2, seed 0" in text
    assert re.search(r"stage A: loss 0\.25, validation 0\.6250 .*3/40", text)
    assert "loss 0.5" not in text


def test_a_new_phase_takes_the_bar_and_a_new_stage_ends_it():
    def phases(display):
        display.epoch(EpochReport("stage A", 40, 40, 0.5))
        display.epoch(EpochReport("stage B", 1, 300, 0.125))

    text = shown(phases)
    assert re.search(r"stage B: loss 0\.125 .*1/300", text)
    assert "stage A" not in text

    def over(display):
        phases(display)
        display("scoring")

    text = shown(over)
    assert "scoring" in text
    assert "stage B" not in text


@pytest.mark.parametrize(("terminal", "silent"), [(False, False), (True, True), (True, False)])
def test_epochs_are_told_only_if_somebody_sees_them(monkeypatch, terminal, silent):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with output.progress(silent=silent) as tell:
        tell("a stage")
        listener = epoch_listener(tell)
        if listener is not None:
            listener(EpochReport("a phase", 1, 2, 0.5))
    assert (listener is not None) == (terminal and not silent)
    assert bool(sys.stderr.getvalue()) == (terminal and not silent)


def test_train_with_json_is_silent_on_a_terminal(work, monkeypatch):
    seen = []
    plain = output.progress

    def spy(*args, **options):
        seen.append(options.get("silent", False))
        return plain(*args, **options)

    monkeypatch.setattr("perturbfm_core.cli.train.progress", spy)
    asked = ["train", "control_only", "--data", "D", "--split", work.split]
    perturbfm(*asked, "--json")
    perturbfm(*asked)
    assert seen == [True, False]
