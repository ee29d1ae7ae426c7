"""The table of a suite, of results by hand and of a suite that was run in part."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from perturbfm_core.reports.html import DASH
from perturbfm_core.reports.results import markers
from perturbfm_core.reports.suite_results import BoardResult, suite_markdown
from tests.support.command import attempt, perturbfm

NEEDS = "needs perturbations that train has (3 of 4 test conditions, e.g. c|A|||)"
NETWORK = "needs inputs for others; each of the 7 test conditions has one that train lacks"
RESULTS = [
    BoardResult("ridge", "a, combo_ood", ran=True, value=0.5, cpu_s=2.0),
    BoardResult("ridge", "b, context_ood", ran=True, value=-0.25, cpu_s=0.5),
    BoardResult("gears", "a, combo_ood", ran=True, value=0.25, cpu_s=900.0),
    BoardResult("gears", "b, context_ood", reason=NEEDS),
    BoardResult("mean", "a, combo_ood", ran=True, cpu_s=3600.0),
    BoardResult("mean", "b, context_ood", ran=True, value=-0.25, cpu_s=7200.0),
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
        f"| `ridge` | **0.500** | **-0.250** | <0.001 | {DASH} |",
        "| `gears` | 0.250 | n/a | 0.25 | perturbations that train has |",
        f"| `mean` | {DASH} | **-0.250** | 1 to 2 | {DASH} |",
        f"| `net` | n/a | not run | {DASH} | inputs for others |",
        f"| `both` | n/a | n/a | {DASH} | perturbations that train has; one dose of each perturbation |",
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
    assert rows["global_mean"][:2] == [DASH, "not run"]
    assert rows["linear_additive"][:2] == ["not run", "n/a"]
    assert rows["linear_additive"][3].startswith("perturbations that train has")
    # An environment that is not on this machine is no reason of the model.
    assert rows["external-scgen"][:2] == ["not run", "n/a"]
    assert "environment" not in rows["external-scgen"][3]
    suite.write_text("no markers")
    wrong = attempt("leaderboard", "results", "--suite", "small", "--into", str(suite))
    assert wrong.code == 2
    assert "must have one <!-- results of small:begin -->" in wrong.err
