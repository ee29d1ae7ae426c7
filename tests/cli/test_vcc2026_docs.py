"""The commands of docs/vcc2026.md, run as they stand on a small screen of that form."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.support.command import Answer, perturbfm
from tests.support.counts_screen import GENES, counts_screen
from tests.support.paths import REPO

pytestmark = pytest.mark.slow
PAGE = (REPO / "docs" / "vcc2026.md").read_text(encoding="utf-8")
TARGETS = ("TP53", "MYC", "KRAS", "EGFR", "STAT1", "JUN", "FOS", "GATA1")


def commands() -> list[list[str]]:
    """Return the words of every command of the page."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^```", PAGE, flags=re.MULTILINE)) == 2 * len(blocks)
    return [
        shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()
    ]


def screen():
    """Return a screen whose perturbed genes have the names that the page uses."""
    made = counts_screen(GENES[10:18])
    names = dict(zip(GENES[10:18], TARGETS, strict=True))
    made.var_names = [names.get(g, g) for g in made.var_names]
    made.obs["target"] = made.obs["target"].astype(str).replace(names)
    return made.copy()


def test_every_command_of_the_page_runs(tmp_path):
    screen().write_h5ad("screen.h5ad")
    values: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    verbs = []
    for words in commands():
        assert words[0] == "perturbfm"
        argv = [values.get(w, w) for w in words[1:]]
        answer = perturbfm(*argv, warns=True)
        verb = " ".join(w for w in argv[:2] if re.fullmatch(r"[a-z][a-z-]*", w))
        verbs.append(verb)
        answers[verb] = answer
        if verb == "splits create":
            values["<hash>"] = answer.values["split_hash"]
        elif verb == "run":
            values["<run>"] = answer.values["run_id"]
    assert verbs == [
        *("data import", "splits create", "run", "export", "metrics score-pair", "eval predictions", "submit")
    ]
    # All ways give the same score.
    run = json.loads(Path(f"runs/{values['<run>']}/metrics.json").read_text())["vcc2026"]
    scored = json.loads(Path("scored/metrics.json").read_text())["vcc2026"]
    submitted = json.loads(Path(answers["submit"].values["run_dir"], "metrics.json").read_text())["vcc2026"]
    with Path("pair/score.csv").open(newline="") as file:
        pair = {r["metric"]: float(r["from_replicate"]) for r in csv.DictReader(file)}
    score = run["global"]["vcc2026_score"]
    assert score == pytest.approx(pair["avg_score"], rel=1e-9)
    for other in (scored, submitted):
        assert other["global"]["vcc2026_score"] == pytest.approx(score, rel=1e-12)
    # What the page says of metrics.json.
    (context,) = run["scale"]
    assert all(set(ends) == {"baseline", "anchor"} for ends in run["scale"][context].values())
    assert run["scale"] == scored["scale"] == submitted["scale"]
    assert len([m for m in run["global"] if re.fullmatch(r"score_.*", m)]) == 6
