"""A screen with a frozen split, and the scores of a table of predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.dataset import open_dataset
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.prediction_files import GENES, of


def screen(seed=0):
    """Return a small screen of counts: 2 cell lines, 6 perturbations, 30 cells of each and 120 controls."""
    rng = np.random.default_rng(seed)
    effect = {p: np.exp(rng.normal(0, 0.6, 40) * (rng.random(40) < 0.4)) for p in GENES[1:7]}
    rows, X = [], []
    for line in ("A549", "K562"):
        base = rng.gamma(2.0, 3.0, 40)
        for pert in ("ctrl", *effect):
            n = 120 if pert == "ctrl" else 30
            mu = base * (1 if pert == "ctrl" else effect[pert])
            X.append(rng.poisson(mu * rng.gamma(20, 1 / 20, (n, 1))))
            rows += [(pert, line)] * n
    obs = pd.DataFrame(
        rows, columns=["target", "line"], index=pd.Index([f"cell{i}" for i in range(len(rows))], dtype=object)
    )
    return anndata.AnnData(np.vstack(X).astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("screen")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        screen().write_h5ad("in.h5ad")
        columns = ("--pert-col", "target", "--context-col", "line", "--control-label", "ctrl")
        perturbfm("data", "import", "in.h5ad", "--out", "D", *columns, "--space", "counts")
        held = ("--holdout-perturbation", "G1", "--holdout-perturbation", "G2")
        split = perturbfm("splits", "create", "--data", "D", "--spec", "perturbation_ood", *held)
    return path, split.values["split_hash"]


class Screen:
    """The data set, its test cells, and how a file is scored."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.ds: PerturbDataset = open_dataset(Path("D"))
        self.rows = np.flatnonzero(np.isin(self.ds.obs["pert_id"].astype(str), ["G1", "G2"]))
        self.X = self.ds.expression[self.rows].toarray()
        self.code = np.unique(self.ds.condition_codes[self.rows], return_inverse=True)[1]
        self.keys = self.ds.conditions.index[np.unique(self.ds.condition_codes[self.rows])].tolist()
        self.delta = self.ds.delta(self.rows)
        self.mean = np.stack([self.X[self.code == i].mean(axis=0) for i in range(4)])
        self.mean_delta = np.stack([self.delta[self.code == i].mean(axis=0) for i in range(4)])
        self.obs = self.ds.obs.iloc[self.rows]

    def line(self, file, *options):
        return [
            "eval",
            "predictions",
            "--data",
            "D",
            "--split",
            self.split,
            "--preds",
            file,
            "--out",
            "OUT",
            *options,
        ]

    def score(self, file, *options):
        """Return (what was printed, metrics.json, config.json)."""
        shutil.rmtree("OUT", ignore_errors=True)
        out = perturbfm(*self.line(file, *options), "--json").json
        return out, *(json.loads(Path(f"OUT/{name}.json").read_text()) for name in ("metrics", "config"))

    def refused(self, file, *options):
        """Return the one line with which a file is refused."""
        shutil.rmtree("OUT", ignore_errors=True)
        answer = attempt(*self.line(file, *options))
        assert answer.code == 2, answer.out
        assert answer.err.count("\n") == 1
        assert not Path("OUT").exists()
        return answer.err

    def table(self, values, **labels):
        labels = labels or {"condition": self.keys}
        return pd.concat([pd.DataFrame(labels), pd.DataFrame(values, columns=GENES)], axis=1)


@pytest.fixture
def s(made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return Screen(made[1])


@pytest.fixture
def expected(s):
    np.savez("d.npz", mean=s.mean_delta[s.code], idx=s.rows, genes=np.asarray(GENES))
    return of(s.score("d.npz")[1], "delta.pearson")
