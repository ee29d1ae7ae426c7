"""``perturbfm tune`` as typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from perturbfm_core.cli import output
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm

# Of two other contexts, one validates.
FOLD = ["splits", "create", "--data", "D", "--spec", "context_ood", "--holdout-context", "C0", "--no-bounds"]


@pytest.fixture
def validated(work):
    """Return the hash of a split with a validation fold."""
    return perturbfm(*FOLD, "--validation", "fold", "--val-frac", 0.5).values["split_hash"]


def test_tune_selects_stores_and_goes_on(work, validated):
    asked = ["tune", "linear", "--data", "D", "--split", validated]
    first = perturbfm(*asked, "--trials", 2).values
    assert (first["trials"], first["complete"], first["validation"]) == ("2", "2", "fold")
    assert Path(first["database"]) == ArtifactStore().study(first["study"])
    assert Path(first["page"]).read_text().rstrip().endswith("</html>")
    again = perturbfm(*asked, "--trials", 4, "--json").json
    assert (again["study"], again["trials"]) == (first["study"], 4)
    assert again["pearson_centered"] >= max(again["own_pearson_centered"], float(first["pearson_centered"]))
    assert again["gain"] == pytest.approx(again["pearson_centered"] - again["own_pearson_centered"])
    assert set(again["params"]) == {"components", "penalty"}


def test_what_is_selected_is_registered_and_runs(work, validated):
    asked = ["tune", "ridge", "--data", "D", "--split", validated, "--trials", 2, "--study", "mine"]
    made = perturbfm(*asked, "--register", "ridge-tuned", "--control-components", 3).values
    assert "reload" in made["note"]
    entry = yaml.safe_load(Path(made["registered"]).read_text())
    assert entry["params"]["control_components"] == 3
    assert json.loads(made["params"]).keys() == {"alphas"}
    assert entry["tuned"]["study"] == "mine"
    ran = perturbfm("run", "--data", "D", "--split", validated, "--entry", "ridge-tuned").values
    config = json.loads(Path(ran["run_dir"], "config.json").read_text())
    assert config["tuned"] == entry["tuned"]
    assert config["params"]["control_components"] == 3
    # With another parameter it is no longer what was selected.
    other = perturbfm("train", "ridge-tuned", "--data", "D", "--split", validated, "--control-components", 4)
    assert json.loads(Path(other.values["run_dir"], "config.json").read_text())["tuned"] is None


def test_a_registered_model_or_an_entry_is_tuned_and_help_lists_its_options(work):
    shown = attempt("tune", "set_kernel_ridge", "--help")
    assert shown.code == 0
    assert "--components" in shown.out
    assert "--trials" in shown.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing"], "unknown model 'nothing'"),
        (["control_only"], "'control_only' has nothing to search"),
        (["ridge", "--trials", 0], "--trials"),
        (["ridge", "--jobs", 2], "set PERTURBFM_MAX_TRAIN=2"),
        (["ridge", "--study", "A B"], "study name 'A B' cannot be a key"),
        (["ridge", "--register", "additive"], "already has an entry 'additive'"),
        (["ridge", "--penalty", 1], "model 'ridge' has no option --penalty"),
        (["linear", "--components", 0], "components"),
    ],
)
def test_wrong_options_are_one_line(work, validated, options, message):
    answer = attempt("tune", *options, "--data", "D", "--split", validated)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert message in answer.err
    assert not list(Path("runs").glob("study_*"))


def test_the_bar_counts_trials_on_a_terminal_only(work, validated, monkeypatch):
    seen = []
    plain = output.progress

    def spy(total=None, **options):
        seen.append((total, options["silent"]))
        return plain(total, **options)

    monkeypatch.setattr("perturbfm_core.cli.tune.progress", spy)
    asked = ["tune", "linear", "--data", "D", "--split", validated, "--trials", 1]
    perturbfm(*asked, "--json")
    perturbfm(*asked)
    assert seen == [(1, True), (1, False)]


def test_nothing_leaks_to_the_terminal_of_a_process(work, validated):
    command = Path(sys.executable).with_name("perturbfm")
    asked = ["tune", "linear", "--data", "D", "--split", validated, "--trials", "1", "--json"]
    done = subprocess.run([command, *asked], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert re.search(r"\.db$", json.loads(done.stdout)["database"])
