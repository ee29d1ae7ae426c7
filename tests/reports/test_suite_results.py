"""The table of a suite, of results by hand and of a suite that was run in part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from perturbfm_core.reports.html import DASH
from perturbfm_core.reports.results import board_titles, markers
from perturbfm_core.reports.suite_results import BoardMarks, BoardResult, suite_markdown
from tests.support.command import attempt, perturbfm

NEEDS = "needs perturbations that train has (3 of 4 test conditions, e.g. c|A|||)"
NETWORK = "needs inputs for others; each of the 7 test conditions has one that train lacks"
RESULTS = [
    BoardResult("ridge", "a, combo_ood", ran=True, value=0.5, cpu_s=2.0, best=True),
    BoardResult("ridge", "b, context_ood", ran=True, value=-0.25, cpu_s=0.5, best=True),
    BoardResult("gears", "a, combo_ood", ran=True, value=0.25, cpu_s=900.0),
    BoardResult("gears", "b, context_ood", reason=NEEDS),
    BoardResult("mean", "a, combo_ood", ran=True, cpu_s=3600.0, undefined="it is constant"),
    BoardResult("mean", "b, context_ood", ran=True, value=-0.25, cpu_s=7200.0, best=True),
    BoardResult("net", "a, combo_ood", reason=NETWORK),
    BoardResult("net", "b, context_ood"),
    BoardResult(
        "both",
        "a, combo_ood",
        reason=f"{NEEDS}; one dose of each perturbation (1 of 4 test conditions, e.g. x)",
    ),
    BoardResult("both", "b, context_ood", reason=NEEDS),
]


def test_values_costs_and_what_cannot_run():
    text = suite_markdown("delta.pearson_centered", RESULTS)
    assert text.startswith("`delta.pearson_centered` over the test conditions")
    assert text.splitlines()[2:] == [
        "| entry | a, combo_ood | b, context_ood | CPU hours | cannot run: it needs |",
        "|---|---|---|---|---|",
        "| `ridge` | **0.500** | **-0.250** | <0.001 | nothing |",
        "| `gears` | 0.250 | n/a | 0.25 | perturbations that train has |",
        f"| `mean` | {DASH}<sup>1</sup> | **-0.250** | 1 to 2 | nothing |",
        f"| `net` | n/a | not run | {DASH}<sup>2</sup> | inputs for others |",
        f"| `both` | n/a | n/a | {DASH}<sup>2</sup> | perturbations that train has; one dose of each perturbation |",
        "",
        "<sup>1</sup> it is constant; <sup>2</sup> no run.",
    ]


def test_a_value_of_some_folds_says_so():
    results = [
        BoardResult("ridge", "a, combo_ood", ran=True, value=0.5, folds="1 of 2 folds"),
        BoardResult("mean", "a, combo_ood", ran=True, value=0.25, best=True),
    ]
    assert [line.split(" | ")[1] for line in suite_markdown("delta.pearson", results).splitlines()[4:6]] == [
        "0.500 (1 of 2 folds)",
        "**0.250**",
    ]


def test_boards_of_one_data_set_and_kind_have_titles_of_their_own():
    boards = {
        "d.k.abcdefgh": ("d", "k"),
        "d.k.cv-12345678": ("d", "k"),
        "d.m.abcdefgh": ("d", "m"),
    }
    assert list(board_titles(boards).values()) == ["d, k, abcdefg", "d, k, cv-1234", "d, m"]


def test_floors_ceilings_and_folds_of_each_board_with_the_reasons_of_gaps():
    marks = {
        "a, combo_ood": BoardMarks(
            "1 of 5 folds",
            {"control_mean_floor": 0.1, "ceiling": 0.7, "ceiling_noise_free": None},
            {"ceiling_noise_free": "no rule", "train_mean_floor": "constant"},
        )
    }
    text = suite_markdown("delta.rmse", RESULTS[:4], marks).splitlines()
    assert text[2].startswith("| entry | a, combo_ood (1 of 5 folds) | b, context_ood |")
    assert text[4:6] == [
        "| `ridge` | **0.500** | **-0.250** | <0.001 | nothing |",
        "| `gears` | 0.250 | n/a | 0.25 | perturbations that train has |",
    ]
    assert text[6:] == [
        f"| *control* | 0.100 | {DASH}<sup>1</sup> |  |  |",
        f"| *train mean* | {DASH}<sup>2</sup> | {DASH}<sup>1</sup> |  |  |",
        f"| *half of the cells* | 0.700 | {DASH}<sup>3</sup> |  |  |",
        f"| *noise-free* | {DASH}<sup>4</sup> | {DASH}<sup>3</sup> |  |  |",
        "",
        "<sup>1</sup> no floor for this metric; <sup>2</sup> constant; <sup>3</sup> no ceiling for this metric; "
        "<sup>4</sup> no rule.",
    ]


SUITE = {
    "name": "small",
    "description": "Two splits of a small screen.",
    "grid": [
        {
            "dataset": "tiny",
            "splits": [
                {"kind": "context_ood", "params": {"holdout": ["C0"]}},
                {"kind": "perturbation_ood", "folds": 3, "fold": 0},
            ],
        }
    ],
    "models": ["ridge", "global_mean", "linear_additive", "external-scgen"],
}
TINY = {
    "name": "tiny",
    "description": "A small screen.",
    "source": "synth",
    "synth": {"n_obs": 300, "n_genes": 20, "n_contexts": 3, "n_perts": 5},
}


@pytest.fixture
def suite(own_home: Path) -> Path:
    """Return a file with markers, beside a catalog with a small suite."""
    for kind, content in (("suites", SUITE), ("datasets", TINY)):
        folder = own_home.parent / "catalog" / kind
        folder.mkdir(parents=True)
        (folder / f"{content['name']}.yaml").write_text(yaml.safe_dump(content))
    begin, end = markers("small")
    readme = own_home.parent / "R.md"
    readme.write_text(f"before\n{begin}\nold\n{end}\nbetween\n" + "\n".join(markers()) + "\n")
    return readme


@pytest.mark.slow
def test_a_suite_that_was_run_in_part_stands_between_its_own_markers(suite: Path) -> None:
    none = attempt("leaderboard", "results", "--suite", "nothing")
    assert none.code == 2
    assert "unknown suite 'nothing'" in none.err
    only = ("--only", "entry=ridge", "--only", "entry=global_mean,split=context_ood")
    assert attempt("suite", "run", "small", *only).code == 0
    perturbfm("leaderboard", "results", "--suite", "small", "--into", str(suite))
    lines = suite.read_text().splitlines()
    assert (lines[0], lines[1]) == ("before", markers("small")[0])
    assert lines[-3:] == ["between", *markers()]
    assert "old" not in lines
    rows = {
        line.split("|")[1].strip(" `"): [c.strip() for c in line.split("|")[2:-1]]
        for line in lines
        if line.startswith("| `")
    }
    assert list(rows) == SUITE["models"]
    assert all(float(cell.strip("*")) for cell in rows["ridge"][:2])
    assert re.fullmatch(rf"{DASH}<sup>\d</sup>", rows["global_mean"][0])
    assert rows["global_mean"][1] == "not run"
    head = next(line for line in lines if line.startswith("| entry"))
    assert "tiny, perturbation_ood (1 of 3 folds)" in head
    marks = {line.split("|")[1].strip() for line in lines if line.startswith("| *")}
    assert marks == {"*control*", "*train mean*", "*half of the cells*", "*noise-free*"}
    assert rows["linear_additive"][:2] == ["not run", "n/a"]
    assert rows["linear_additive"][3].startswith("perturbations that train has")
    # An environment that is not on this machine is no reason of the model.
    assert rows["external-scgen"][:2] == ["not run", "n/a"]
    assert "environment" not in rows["external-scgen"][3]
    suite.write_text("no markers")
    wrong = attempt("leaderboard", "results", "--suite", "small", "--into", str(suite))
    assert wrong.code == 2
    assert "must have one <!-- results of small:begin -->" in wrong.err
