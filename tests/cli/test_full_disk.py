"""Every verb that writes, on a disk that is full, nearly full, or read-only: one line, and nothing half-written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import Work, attempt, perturbfm
from tests.support.leftovers import check_runs, debris
from tests.support.paths import REPO
from tests.support.small_disk import SmallDisk, small_disk

ON = ["--data", "D", "--split", "SPLIT"]
VERBS: dict[str, list[str]] = {
    "data make-synth": ["--out", "E", "--n-obs", "160", "--n-perts", "4", "--register"],
    "data import": ["cells.h5ad", "--out", "E", "--name", "e", "--pert-col", "pert", "--control-label", "ctrl", "--space", "counts"],
    "splits create": ["--data", "D", "--spec", "leave_one_context_out"],
    "graphs build": ["coexpression", *ON, "--name", "g"],
    "train": ["linear", *ON],
    "train v1": ["perturbfm-v1", *ON, "--epochs", "2"],
    "run": [*ON, "--entry", "additive"],
    "run again": [*ON, "--entry", "global_mean", "--again"],
    "pretrain": [*ON, "--epochs", "1"],
    "tune": ["ridge", *ON, "--trials", "2"],
    "eval predictions": [*ON, "--preds", "runs/RUN/predictions.npz", "--out", "scored"],
    "submit": ["runs/RUN/predictions.npz", *ON, "--entry", "mine"],
    "leaderboard refresh": [],
    "export": ["RUN", "--out", "table.h5ad"],
    "export csv": ["RUN", "--out", "table.csv"],
    "predict": ["--run", "RUN", "--split", "SPLIT", "--batch", "batch.csv", "--out", "p.parquet", "--data", "D"],
}  # fmt: skip
# Bytes that are left: none, a few files, most of what a run takes. Every verb works with the last.
LEFT = (0, 20_000, 120_000, 700_000, 12_000_000)
LINE = re.compile(
    r"error: cannot write (\S+): the disk is full; it needs (more than )?[\d.]+ (bytes|kB|MB), [\d.]+ (bytes|kB|MB) are free; [^\n]*\n"
)


def words_of(verb: str, work: Work) -> list[str]:
    """Return the command line of a verb in the folder of `work`."""
    names = {"SPLIT": work.split}
    head = verb.removesuffix(" v1").removesuffix(" again").removesuffix(" csv").split()
    return [*head, *(names.get(word, word).replace("RUN", work.run) for word in VERBS[verb])]


@pytest.fixture
def on_disk(template: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_h5ad):
    """Return the small disk with the folder of `work`, which is the current directory."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, size=(60, 20)).astype(np.float32)
    cells = write_h5ad(counts, {"pert": np.repeat(["ctrl", "a", "b"], 20)}, name="cells.h5ad")
    with small_disk(tmp_path / "disk") as disk:
        shutil.copytree(template.path, disk.path / "work", symlinks=True)
        shutil.copy(cells, disk.path / "work")
        monkeypatch.chdir(disk.path / "work")
        Path("batch.csv").write_text("perturbation,context\nG1,C1\nG2,C1\n")
        yield disk
        monkeypatch.undo()


def contents(root: Path) -> dict[str, bytes]:
    """Return the files of a folder, but for caches, locks and finished objects, which may be more afterwards."""
    skipped = {".objects", ".locks", ".checkpoints", ".studies", ".staging"}
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and not skipped & set(p.relative_to(root).parts)
    }


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_line_and_nothing_is_half_written(on_disk: SmallDisk, template: Work, verb):
    root, words = on_disk.path / "work", words_of(verb, template)
    store, before, refused = ArtifactStore(), contents(root), 0
    for left in LEFT:
        on_disk.fill(left)
        answer = attempt(*words)
        on_disk.empty()
        check_runs(store)
        assert debris(root) == []
        if answer.code == 0:
            break
        refused += 1
        assert answer.code == 2
        assert LINE.fullmatch(answer.err), answer.err
        assert ".staging" not in answer.err
        assert "remove" not in answer.err
        after = contents(root)
        if verb == "splits create":
            # The folds that were written before are whole.
            assert perturbfm("splits", "verify", "--all").values["failed"] == "0"
            after = {k: v for k, v in after.items() if not k.startswith("splits/")}
            assert {k: v for k, v in before.items() if not k.startswith("splits/")} == after
        else:
            assert after == before
    assert answer.code == 0, answer.err
    assert refused


@pytest.mark.parametrize("verb", VERBS)
def test_a_read_only_disk_is_one_line(on_disk: SmallDisk, template: Work, verb):
    before = contents(on_disk.path)
    with on_disk.read_only():
        answer = attempt(*words_of(verb, template))
    assert answer.code == 2
    assert re.fullmatch(r"error: cannot write \S+: the file system is read-only; [^\n]*\n", answer.err), (
        answer.err
    )
    assert contents(on_disk.path) == before


def test_what_only_reads_works_on_a_read_only_disk(on_disk: SmallDisk, template: Work):
    with on_disk.read_only():
        for words in (
            ["splits", "list"],
            ["splits", "verify", "--all"],
            ["splits", "show", template.split],
            ["data", "info", "D"],
            ["leaderboard", "show"],
            ["train", "global_mean", "--data", "D", "--split", template.split],
        ):
            perturbfm(*words)


def test_a_study_on_a_full_disk_is_kept_and_goes_on(on_disk: SmallDisk, template: Work):
    """The disk fills up after the study was begun: it is not damaged, so nobody is advised to remove it."""
    words = ["tune", "ridge", "--data", "D", "--split", template.split, "--study", "mine"]
    perturbfm(*words, "--trials", "2")
    study = Path("runs/.studies/mine.db")
    on_disk.fill(0)
    answer = attempt(*words, "--trials", "40")
    on_disk.empty()
    assert answer.code == 2
    assert LINE.fullmatch(answer.err), answer.err
    assert str(study) in answer.err
    assert "remove" not in answer.err
    assert int(perturbfm(*words, "--trials", "4").values["trials"]) >= 4


@pytest.mark.parametrize(
    "words", [["models", "list"], ["splits", "kinds", "--json"], ["splits", "list"], ["--help"]]
)
def test_full_standard_output_is_one_line(work: Work, words):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "perturbfm_core.cli.main", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: cannot write standard output: No space left on device; [^\n]*\n", done.stderr
    )


@pytest.mark.parametrize("address", ["s3://bucket/home", "gs://bucket"])
def test_an_address_is_no_home(monkeypatch, tmp_path, address):
    monkeypatch.setenv("PERTURBFM_HOME", address)
    for words in (
        ["splits", "list"],
        ["demo"],
        ["leaderboard", "refresh"],
        ["data", "make-synth", "--out", "D"],
    ):
        answer = attempt(*words)
        if words[0] == "data" and answer.code == 0:
            # It writes where --out says, and needs no home.
            continue
        assert answer.code == 2
        assert answer.err.startswith(
            f"error: PERTURBFM_HOME is {address!r}, which is no folder of a file system"
        )
        assert answer.err.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"D"}
