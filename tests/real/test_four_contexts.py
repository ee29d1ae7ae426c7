"""K562 with CRISPRa beside three glioma lines with CRISPRi, which carry almost no signal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.store.atomic import read_json
from tests.support.command import perturbfm
from tests.support.few_panels import brief

FILE = "sc_norman_mcfaline_4contexts.h5ad"
GLIOMA = ["A172", "T98G", "U87MG"]
ENTRIES = ("global_mean", "per_perturbation_mean", "control_only")


@pytest.fixture(scope="module")
def splits(real, place):
    """Import, freeze and run; return {held-out context: split} of the cross-validation."""
    columns = ("--pert-col", "condition", "--context-col", "context", "--modality-col", "perturbation_type")
    # Most genes that are common in the glioma lines are zero in K562, which is warned of.
    perturbfm(
        *(
            "data",
            "import",
            real(FILE),
            "--out",
            "F",
            "--name",
            "four",
            *columns,
            "--control-label",
            "control",
        ),
        warns=True,
    )
    made = perturbfm("splits", "create", "--data", "F", "--spec", "leave_one_context_out", "--json").json[
        "splits"
    ]
    found = {}
    for split in made:
        shown = perturbfm("splits", "show", split["split_hash"], "--json").json
        (held,) = shown["params"]["holdout"]
        found[held] = shown
        with brief("delta"):
            for entry in ENTRIES:
                run = perturbfm("train", entry, "--data", "F", "--split", split["split_hash"], "--json").json
                found[held][entry] = run
    # One glioma line as a board of its own, with every panel and report.
    alone = perturbfm(
        "splits", "create", "--data", "F", "--spec", "context_ood", "--holdout-context", "A172"
    ).values
    for entry in ENTRIES:
        perturbfm("train", entry, "--data", "F", "--split", alone["split_hash"])
    perturbfm("leaderboard", "refresh")
    return found


def test_perturbations_of_a_held_out_context_occur_elsewhere(splits):
    assert sorted(splits) == [*GLIOMA, "k562"]
    for held, split in splits.items():
        table = split["folds"]["table"]
        assert len(table["test"]) == 9
        assert {key.split("|")[0] for key in table["test"]} == {held}
        train = {key.split("|")[1] for key in table["train"]}
        assert {key.split("|")[1] for key in table["test"]} <= train
    # What only K562 has cannot be asked for there, and is listed.
    assert len(splits["k562"]["folds"]["table"]["unused"]) == 24


def test_glioma_lines_carry_no_signal_and_k562_does(splits):
    assert {held: split["stats"]["no_signal"] for held, split in splits.items()} == {
        **dict.fromkeys(GLIOMA, True),
        "k562": False,
    }
    ceilings = {held: split["stats"]["ceiling"]["pearson"]["half"] for held, split in splits.items()}
    assert max(ceilings[line] for line in GLIOMA) < 0.1
    assert ceilings["k562"] > 0.3
    for held, split in splits.items():
        assert split["global_mean"]["no_signal"] is (held in GLIOMA)
        assert split["global_mean"]["shared_control"] is False


def test_nothing_is_ranked_on_noise(splits):
    rows = perturbfm(
        "leaderboard", "sql", "--json", "select * from leaderboard where split_kind = 'context_ood'"
    ).json
    boards = {r["board"]: [x for x in rows if x["board"] == r["board"]] for r in rows}
    assert len(boards) == 2
    noise = [b for b in boards.values() if b[0]["no_signal"]]
    assert len(noise) == 1
    assert {r["entry"] for r in noise[0]} == set(ENTRIES)
    assert {r["rank"] for r in noise[0]} == {None}
    (pooled,) = [b for b in boards.values() if not b[0]["no_signal"]]
    assert {(r["n_splits"], r["n_splits_expected"], r["n_splits_no_signal"]) for r in pooled} == {(1, 4, 3)}
    ranked = [
        r for r in pooled if r["metric"] == "pearson" and r["panel"] == "delta" and r["rank"] is not None
    ]
    # Only the nine conditions of K562 enter; a prediction of zero has no correlation and no rank.
    assert {r["n_conditions"] for r in ranked} == {9}
    assert {r["entry"] for r in ranked} == {"global_mean", "per_perturbation_mean"}
    value = {r["entry"]: r["value"] for r in ranked}
    assert value["global_mean"] == pytest.approx(
        read_json(Path(splits["k562"]["global_mean"]["run_dir"]) / "metrics.json")["delta"]["global"][
            "pearson"
        ],
        abs=1e-9,
    )


def test_activation_and_repression_of_a_gene_are_never_averaged(splits):
    """The same gene was switched on in K562 and off in the glioma lines: nothing of it carries over."""

    def means(held, entry):
        return read_prediction(f"{splits[held][entry]['run_dir']}/predictions.npz").mean

    assert np.allclose(means("k562", "per_perturbation_mean"), means("k562", "global_mean"), atol=1e-6)
    assert not np.allclose(means("A172", "per_perturbation_mean"), means("A172", "global_mean"), atol=1e-3)
