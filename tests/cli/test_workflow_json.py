"""What every verb prints with ``--json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np

from tests.support.command import attempt, perturbfm
from tests.support.few_panels import score_only
from tests.support.paths import REPO, TESTS
from tests.support.workflow import CONTEXT, IMPORT, SYNTH, leaves, tiny_suite

PARITY = TESTS / "parity"


def test_every_verb_has_the_json_option():
    # A server prints its address and runs until it is stopped.
    without = [
        words
        for words, command in leaves()
        if words != ("serve",) and "--json" not in {o for p in command.params for o in p.opts}
    ]
    assert without == []


# A server runs until it is stopped; these need an environment of gigabytes, or tasks that were submitted.
ELSEWHERE = {
    "serve",
    "data import-tahoe",
    "knowledge add",
    "external env create",
    "external env remove",
    "suite task",
    "suite logs",
    "suite cancel",
}


def _logarithms(counts: Any) -> Any:
    """Return log1p of counts scaled to ten thousand per cell."""
    cells = counts.toarray() if hasattr(counts, "toarray") else counts
    return np.log1p(1e4 * cells / cells.sum(axis=1, keepdims=True)).astype(np.float32)


def _collections(counts: anndata.AnnData) -> list[str]:
    """Write a file in the form of each collection whose preset needs no more than other names."""
    forms = {
        "gears": ({"perturbation": "condition", "cell_line": "cell_type"}, "ctrl"),
        "replogle": ({"perturbation": "gene"}, "non-targeting"),
        "sciplex": ({"perturbation": "product_name", "cell_line": "cell_type"}, "Vehicle"),
        "vcc": ({"perturbation": "target_gene"}, "non-targeting"),
    }
    for name, (columns, control) in forms.items():
        one = counts.copy()
        one.obs = one.obs.rename(columns=columns)
        label = columns["perturbation"]
        one.obs[label] = (
            one.obs[label].astype(str).replace({"control": control, "B_A": "B+A" if name == "gears" else "B"})
        )
        if name == "gears":
            one.X = _logarithms(one.X)
        one.write_h5ad(f"{name}.h5ad")
    return list(forms)


def test_every_verb_prints_json_and_nothing_else(work, screen_h5ad, monkeypatch):
    score_only(monkeypatch, "delta")
    tiny_suite(work.path)
    lognorm = anndata.read_h5ad(screen_h5ad)
    lognorm.obs = lognorm.obs.rename(columns={"perturbation": "condition", "cell_line": "cell_type"})
    lognorm.obs["condition"] = lognorm.obs["condition"].astype(str).replace({"ctrl": "control", "B_A": "B+A"})
    lognorm.X = _logarithms(lognorm.X)
    lognorm.write_h5ad("perturbench.h5ad")
    counts = anndata.read_h5ad(screen_h5ad)
    counts.obs["perturbation"] = counts.obs["perturbation"].astype(str).replace({"ctrl": "control"})
    counts.write_h5ad("scperturb.h5ad")
    folds = ["test" if c == "A" else "train" for c in lognorm.obs["condition"]]
    Path("saved.csv").write_text("".join(f"{n},{f}\n" for n, f in zip(lognorm.obs_names, folds, strict=True)))
    perturbfm(*SYNTH[:3], "M", *SYNTH[4:], "--name", "d", "--depth", 2500)
    preds = f"runs/{work.run}/predictions.npz"
    asked = ["--data", "D", "--split", work.split, "--run", work.run]
    Path("grid.yaml").write_text("control_components: [0, 2]\n")
    np.savez("emb.npz", genes=np.asarray(["G01", "G02"]), features=np.ones((2, 3)))
    Path("edges.csv").write_text("source,target,weight\nG01,G02,1\n")
    assert attempt("knowledge", "add", "file", "--from", "edges.csv", "--undirected").code == 0
    template = REPO / "perturbfm_core/external/workers/template_worker.py"
    verbs = {
        "data make-synth": ["--out", "J1", "--n-obs", 160, "--n-genes", 20, "--n-perts", 4],
        "data info": ["D"],
        "data table": ["D", "--rows", "0:", "--out", "part.npz"],
        "data merge-tables": ["D", "part.npz", "--out", "table.npz"],
        "data import": [screen_h5ad, "--out", "J2", *IMPORT],
        "data import-perturbench": ["--dataset", "perturbench.h5ad", "--out", "J3"],
        "data import-scperturb": ["--dataset", "scperturb.h5ad", "--out", "J4"],
        **{f"data import-{n}": ["--dataset", f"{n}.h5ad", "--out", f"J-{n}"] for n in _collections(counts)},
        "data download": ["list"],
        "data cite": ["scperturb/norman_2019"],
        "splits create": CONTEXT[2:],
        "splits show": [work.split],
        "splits list": [],
        "splits audit": [work.split, "--data", "D"],
        "splits import-perturbench": ["--dataset", "perturbench.h5ad", "--data", "J3", "--csv", "saved.csv"],
        "splits verify": ["--all"],
        "splits migrate": [work.split, "--data", "M"],
        "graphs build": ["truth", "--data", "D"],
        "graphs list": [],
        "graphs show": ["d.truth", "--data", "D"],
        "graphs features": ["emb.npz", "--name", "emb"],
        "splits kinds": [],
        "models list": [],
        "models show": ["ridge"],
        "predictions template": ["--data", "D", "--split", work.split, "--out", "fill.csv"],
        "eval predictions": ["--data", "D", "--split", work.split, "--preds", preds, "--out", "OUT"],
        "metrics list": [],
        "metrics validate": ["--data", "D", "--split", work.split, "--preds", preds],
        "metrics probe": ["--data", "D", "--split", work.split, "--preds", preds],
        "metrics score-pair": [
            *("--pred", PARITY / "cell_eval2/synth_a/pred_shift.h5ad"),
            *("--real", PARITY / "cell_eval2/synth_a/real.h5ad", "--out", "SCORED"),
        ],
        "parity": [PARITY / "calibrated/synth_a"],
        "submit": [preds, "--data", "D", "--split", work.split, "--entry", "mine"],
        "inbox scan": [],
        "runs list": [],
        "runs show": [work.run],
        "runs compare": [work.run, "global_mean"],
        "runs tag": [work.run, "kept"],
        "runs rm": [work.run, "--dry-run", "--force"],
        "runs gc": [],
        "leaderboard refresh": [],
        "leaderboard show": [],
        "leaderboard sql": ["select * from runs"],
        "leaderboard compare": ["--family", "baseline"],
        "leaderboard results": [],
        "leaderboard page": [],
        "leaderboard export": ["--parquet", "EXPORTED"],
        "report": [work.run],
        "site build": ["--out", "SITE"],
        "train": ["control_only", "--data", "D", "--split", work.split],
        "run": ["--data", "D", "--split", work.split, "--entry", "additive"],
        "pretrain": ["--data", "D", "--split", work.split, "--epochs", 1, "--hidden-dim", 4],
        "tune": ["linear", "--data", "D", "--split", work.split, "--trials", 1],
        "export": [work.run, "--out", "scores.csv", "--what", "scores"],
        "predict": [*asked, "--perturbation", "G01", "--context", "C0"],
        "suggest": [*asked, "--k", 2],
        "demo": ["--suite", "tiny"],
        "external run": [template, "--data", "D", "--split", work.split, "--param", "degenerate=flag"],
        "external export": ["--data", "D", "--split", work.split, "--out", "VIEW"],
        "external convert": [
            *(preds, "--model", "mine", "--data", "D", "--split", work.split),
            *("--out", "CONVERTED.npz", "--degenerate", "flag"),
        ],
        "external env list": [],
        "suite list": [],
        "suite show": ["tiny"],
        "suite status": ["tiny"],
        "suite run": ["tiny"],
        "suite scorecard": ["tiny"],
        "suite submit": ["tiny", "--on", "local", "--dry-run"],
        "suite refresh": ["tiny"],
        "sweep run": ["--base", "ridge", "--grid", "grid.yaml", "--split", work.split, "--data", "D"],
        "sweep show": [],
        "rescore": ["--all"],
        "knowledge list": [],
        "knowledge show": ["edges"],
        "knowledge remove": ["edges"],
        "doctor": [],
    }
    assert set(verbs) == {" ".join(words) for words, _ in leaves()} - ELSEWHERE
    empty = {}
    for verb, rest in verbs.items():
        # `succeed` asserts that standard error is silent; `.json` that standard output is JSON as a whole.
        answer = perturbfm(*verb.split(), *rest, "--json").json
        assert isinstance(answer, dict | list)
        empty[verb] = not answer
    # One entry has no other to be compared with, and the inbox is empty.
    assert {verb for verb, nothing in empty.items() if nothing} <= {"leaderboard compare", "inbox scan"}
    assert "NaN" not in json.dumps(
        perturbfm("leaderboard", "sql", "select * from leaderboard", "--json", warns=True).json
    )
