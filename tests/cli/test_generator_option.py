"""Option ``--generator``: how counts are drawn enters the identity of runs, their record and their scores."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.pipeline.experiment import ModelConfig, model_configs
from perturbfm_core.reports.run.provenance import provenance
from perturbfm_core.store.run_record import read_run_record
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.counts_screen import GENES, counts_screen

HELD = GENES[12:15]
COLUMNS = ("--pert-col", "target", "--context-col", "line", "--control-label", "non-targeting")
DRAWN = "counts_of_point_predictions"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder with a screen, a split, and runs of one entry with two generators."""
    path = tmp_path_factory.mktemp("generator")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        counts_screen(cells=12, controls=60).write_h5ad("screen.h5ad")
        perturbfm("data", "import", "screen.h5ad", "--out", "D", *COLUMNS, "--space", "counts", warns=True)
        held = [x for p in HELD for x in ("--holdout-perturbation", p)]
        spec = ("--data", "D", "--no-bounds", "--spec", "perturbation_ood", *held)
        split = perturbfm("splits", "create", *spec).values["split_hash"]
        train = ("train", "global_mean", "--data", "D", "--split", split)
        runs = [
            Path(perturbfm(*train, *more).values["run_dir"])
            for more in ((), ("--generator", "multinomial"), ("--generator", "scaled"))
        ]
    return path, split, runs


@pytest.fixture
def here(home, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home[0])
    return home


def read(run, name="config.json"):
    return json.loads((run / name).read_text())


def test_runs_with_another_generator_are_others_with_the_same_fit(here):
    _, _, (plain, named, scaled) = here
    # The default by its name is the default.
    assert plain == named
    first, second = read(plain), read(scaled)
    assert (first["generator"]["counts"], second["generator"]["counts"]) == ("multinomial", "scaled")
    assert first["config_hash"] != second["config_hash"]
    assert first["entry_hash"] != second["entry_hash"]
    assert second["entry"].startswith("global_mean-")
    assert first["objects"]["panels"]["vcc2026"] != second["objects"]["panels"]["vcc2026"]
    for run, name in ((plain, "multinomial"), (scaled, "scaled")):
        assert read(run, "metrics.json")["vcc2026"][DRAWN] == {"generator": name, "version": "2", "seed": 0}
    values = [read(r, "metrics.json")["vcc2026"]["global"]["expr_mse_unbiased"] for r in (plain, scaled)]
    assert values[0] != values[1]
    deltas = [read(r, "metrics.json")["delta"]["global"] for r in (plain, scaled)]
    assert deltas[0] == deltas[1]


def test_a_fit_is_shared_by_all_generators_of_the_same_entry():
    entry = ModelEntry(name="x", description="", model="global_mean")
    plain, same, other = (
        model_configs(entry.model_copy(update={"generator": g}))[0] for g in (None, "multinomial", "redraw")
    )
    assert plain.config_hash == same.config_hash != other.config_hash
    assert plain.fit_hash == same.fit_hash == other.fit_hash == plain.config_hash
    assert "generator" not in plain.model_dump(mode="json")
    assert ModelConfig.model_validate(other.model_dump(mode="json")) == other


def test_a_run_is_read_back_with_its_generator(here):
    _, _, (_, _, scaled) = here
    # Refused if the recorded configuration had another identity.
    (row,) = perturbfm("rescore", "--run", scaled.name, "--json").json["rows"]
    assert (row["state"], row["reason"]) == ("up to date", None)
    assert (
        "scaled"
        in perturbfm("export", scaled.name, "--format", "vcc2026", "--out", "c.h5ad", "--data", "D").out
    )


def test_the_page_of_a_run_names_the_generator_of_its_counts(here):
    _, _, (plain, _, scaled) = here
    for run, name in ((plain, "multinomial"), (scaled, "scaled")):
        drawn = read(run, "metrics.json")["vcc2026"][DRAWN]
        assert drawn["generator"] == name
        page = (run / "report.html").read_text(encoding="utf-8")
        row = page.split(">generator of counts<")[1].split("</tr>")[0]
        assert f"{name} {drawn['version']}, seed {drawn['seed']}" in row
        assert (
            "control_shift without residual noise" in page.split(">generator of cells<")[1].split("</tr>")[0]
        )


def test_a_page_says_nothing_of_counts_that_were_not_drawn(here):
    record = read_run_record(here[2][0])
    metrics = read(here[2][0], "metrics.json")
    given = metrics["vcc2026"]
    for panel in ({**given, DRAWN: None}, {k: v for k, v in given.items() if k != DRAWN}, None):
        names = [row[0] for row in provenance(record, {"vcc2026": panel})]
        assert "generator of counts" not in names
        assert "generator of cells" in names
    own = [row[0] for row in provenance(record.model_copy(update={"generator": None}), None)]
    assert not [name for name in own if name.startswith("generator")]


@pytest.mark.parametrize("generator", [None, "negative_binomial", "redraw"])
def test_files_are_scored_with_the_generator_that_is_asked_for(here, generator):
    _, split, (plain, _, _) = here
    out = f"scores-{generator}"
    given = () if generator is None else ("--generator", generator)
    file = plain / "predictions.npz"
    perturbfm("eval", "predictions", "--data", "D", "--split", split, "--preds", file, "--out", out, *given)
    named = generator or "multinomial"
    assert read(Path(out))["generator"]["counts"] == named
    assert read(Path(out), "metrics.json")["vcc2026"][DRAWN]["generator"] == named


def test_submissions_of_one_file_by_two_generators_are_two(here):
    _, split, (plain, _, _) = here
    submit = ("submit", plain / "predictions.npz", "--data", "D", "--split", split, "--entry", "mine")
    first = perturbfm(*submit).values["run_id"]
    second = perturbfm(*submit, "--generator", "scaled").values["run_id"]
    assert first != second
    assert perturbfm(*submit, "--generator", "scaled").values["run_id"] == second
    record = read(Path("runs") / second)
    assert record["submission"]["options"]["generator"] == "scaled"
    assert record["generator"]["counts"] == "scaled"


def test_counts_of_a_file_are_not_drawn_and_the_scores_say_so(here):
    _, split, _ = here
    screen = counts_screen(cells=12, controls=60)
    kept = screen[screen.obs["target"].isin([*HELD, "non-targeting"])].copy()
    anndata.AnnData(kept.X, obs=kept.obs, var=kept.var).write_h5ad("own.h5ad")
    perturbfm(
        *("eval", "predictions", "--data", "D", "--split", split, "--preds", "own.h5ad", "--out", "own"),
        *("--generator", "scaled", *COLUMNS[:4], "--control-label", "non-targeting"),
        warns=True,
    )
    record = read(Path("own"))
    assert record["generator"] is None
    assert read(Path("own"), "metrics.json")["vcc2026"][DRAWN] is None
    assert any("counts of its own" in w for w in record["notes"]["warnings"])


def test_a_generator_needs_counts_and_is_one_of_four(here):
    _, split, _ = here
    wrong = attempt("train", "global_mean", "--data", "D", "--split", split, "--generator", "gaussian")
    assert wrong.code == 2
    screen = counts_screen(cells=6, controls=20)
    screen.X = np.log1p(screen.X.toarray() * np.random.default_rng(0).uniform(0.5, 2.0, screen.shape))
    screen.write_h5ad("plain.h5ad")
    perturbfm("data", "import", "plain.h5ad", "--out", "P", *COLUMNS, "--space", "log1p", warns=True)
    held = ("--holdout-perturbation", HELD[0])
    made = perturbfm("splits", "create", "--data", "P", "--no-bounds", "--spec", "perturbation_ood", *held)
    other = made.values["split_hash"]
    refused = attempt("train", "global_mean", "--data", "P", "--split", other, "--generator", "scaled")
    assert refused.code != 0
    assert "no counts of control cells" in refused.err
