"""Commands mistyped or with values out of range are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from perturbfm_core.cli.folders import FOLDERS
from tests.support.command import attempt
from tests.support.refusals import refuse


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("splits show abc", "'abc' is too short a prefix; give at least 7 characters"),
        ("splits show 0000000", "no split in splits match '0000000'"),
        ("splits show d.context_ood.000000000000", "no split has the key"),
        ("splits verify", "name one split, or give --all"),
        ("splits migrate SPLIT --data D", "already belongs to this data"),
        ("train nope --data D --split SPLIT", "unknown model 'nope'; known: .*global_mean"),
        ("train baseline --data D --split SPLIT", "takes --baseline NAME; baselines: .*global_mean"),
        ("train baseline --data D --split SPLIT --baseline nope", "unknown baseline 'nope'; known: .*global_mean"),
        ("train ridge --data D --split SPLIT --baseline ridge", "'train baseline' takes --baseline NAME"),
        ("train ridge --data gone --split SPLIT", "no data set 'gone': it is no directory of a data set"),
        ("train ridge --data D", "Missing option '--split'"),
        ("train ridge --split SPLIT", "is not at hand; give --data DIR"),
        ("train --data D --split SPLIT", "Missing argument"),
        ("train ridge --data D --split SPLIT --param alphas", "--param takes NAME=VALUE, found 'alphas'"),
        ("train ridge --data D --split SPLIT --param =3", "--param takes NAME=VALUE, found '=3'"),
        ("train ridge --data D --split SPLIT --param beta=3", "beta: Extra inputs are not permitted"),
        ("train linear --data D --split SPLIT --param components=many", "components: Input should be a valid integer"),
        ("train linear --data D --split SPLIT --param components=0", "components: Input should be greater than or equal to 1"),
        ("train ridge --data D --split SPLIT --param alphas=[1", "--param 'alphas=.1': the value is not valid YAML"),
        ("train ridge --data D --split SPLIT --seed -1", "seeds must be one or more different numbers of at least 0"),
        ("train ridge --data D --split SPLIT --entry ../mine", "name of a model entry '../mine' cannot be a key"),
        ("train ridge --data D --split SPLIT --entry Mine", "name of a model entry 'Mine' cannot be a key"),
        ("run --data D --split SPLIT --entry nope", "unknown entry 'nope'; known: additive"),
        ("run --split SPLIT --entry ridge", r"data set 'd' \([0-9a-f]{12}\) of split .* is not at hand; give --data DIR"),
        ("demo --suite nope", "unknown suite 'nope'; known: demo, external, perturbench_style, perturbfm, real_small, "),
        ("export nope --out x.csv", "no run in runs match 'nope'"),
        ("export RUN --out D/meta.json", "D/meta.json already exists; choose another --out, or give --force"),
        ("export RUN --out x.txt", r"unknown format '.txt'; the name must end in .h5ad, .parquet, .csv"),
        ("export RUN --out x", r"unknown format '\(none\)'"),
        ("export RUN --out x.csv --what model", "cannot export 'model'; known: predictions, scores"),
        ("export RUN --out x.h5ad --what scores", "scores are a table: export them as .parquet or .csv"),
        ("leaderboard show --metric nope", "unknown metric 'nope'; known: .*delta.pearson"),
        ("data info gone", "no data set 'gone': it is no directory of a data set"),
        ("data make-synth --out D", "D already exists; choose another --out, or give --force"),
        ("data make-synth --out NEW --n-obs 3", "use n_obs of at least"),
        ("data make-synth --out NEW --n-obs many", "Invalid value for '--n-obs'"),
        ("data make-synth --out NEW --n-perts 500", r"n_perts \(500\) must not exceed n_genes"),
        ("data make-synth --out NEW --config nope", "unknown data set 'nope'; known: demo"),
        ("data make-synth --out NEW --storage csv", "unknown storage 'csv'"),
        ("data import-perturbench --dataset D/meta.json --out NEW", "text such as CSV, not HDF5"),
        ("data import-scperturb --dataset gone.h5ad --out NEW", "gone.h5ad does not exist"),
        ("nonsense", "No such command 'nonsense'"),
        ("splits nonsense", "No such command 'nonsense'"),
        ("doctor --nonsense", "No such option"),
    ],
)  # fmt: skip
def test_bad_command_lines(work, argv, message):
    words = [{"SPLIT": work.split, "RUN": work.run}.get(word, word) for word in argv.split()]
    refuse(words, message, work.path)


@pytest.mark.parametrize("value", ["zero", "0", "-1", "1.5", "²"])
def test_bad_number_of_training_slots(work, monkeypatch, value):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", value)
    argv = ["train", "linear", "--data", "D", "--split", work.split]
    refuse(argv, "PERTURBFM_MAX_TRAIN is '.*'; set it to a whole number of at least 1", work.path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_that_is_named_where_a_folder_belongs(work, monkeypatch, name):
    monkeypatch.setenv(name, str(Path("file").absolute()))
    Path("file").write_text("")
    refuse(["splits", "list"], f"{name} '.*file' is a file; name a folder", work.path)


def test_a_current_folder_that_was_removed(work, tmp_path_factory, monkeypatch):
    gone = tmp_path_factory.mktemp("gone")
    monkeypatch.chdir(gone)
    gone.rmdir()
    answer = attempt("splits", "list")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "the current folder was removed" in answer.err


def test_place_that_cannot_be_written(work):
    Path("file").write_text("")
    refuse(["data", "make-synth", "--out", "file/D", "--n-obs", 200, "--n-perts", 4], "file", work.path)
    refuse(["export", work.run, "--out", "file/x.csv"], "file", work.path)


@pytest.mark.parametrize("entry", ["ridge", "kernel_ridge", "set_kernel_ridge", "combo_kernel_ridge"])
@pytest.mark.parametrize("value", ["[1, -1]", "[0]"])
def test_penalties_that_are_not_positive(work, entry, value):
    argv = ["train", entry, "--data", "D", "--split", work.split, "--param", f"alphas={value}"]
    refuse(argv, r"alphas\.\d: Input should be greater than 0", work.path)
