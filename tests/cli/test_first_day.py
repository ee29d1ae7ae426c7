"""A first day: import a file, freeze, run a suite, add a model, submit one from elsewhere, compare, open both reports."""

from __future__ import annotations

import subprocess
import sys
import webbrowser
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.folder import SplitFolder
from tests.support.command import VARIABLES, perturbfm

MODEL = '''"""The median effect of all train conditions."""

import numpy as np

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline


@MODELS.register("median_effect")
class MedianEffect(Baseline):
    """Median delta of all train conditions, half of it, per gene."""

    family = "baseline"

    def _fit(self, view, seed):
        self._median = 0.5 * np.median(view.delta, axis=0)

    def _mean(self, query):
        return np.tile(self._median, (len(query), 1))

    def _state_arrays(self):
        return {"median": self._median}

    def _restore(self, arrays, meta):
        self._median = arrays["median"]
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PERTURBFM_PLUGINS", str(tmp_path / ".perturbfm/plugins"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_screen(path: Path) -> None:
    """Write a screen of single genes as its laboratory would: its own names, raw counts."""
    ds, _ = simulate(
        SimulationConfig(name="s", n_obs=600, n_genes=30, n_contexts=2, n_perts=8, n_combos=0, seed=3)
    )
    adata = ds.to_anndata()
    label = ds.obs["pert_id"].astype(str).replace({"control": "NT"})
    obs = pd.DataFrame(
        {"sgRNA_target": label.to_numpy(), "line": ds.obs["context_id"].astype(str).to_numpy()},
        index=adata.obs_names,
    )
    anndata.AnnData(ds.values.counts.astype(np.float32), obs, adata.var[[]]).write_h5ad(path)


def write_gears(path: Path, split: str) -> None:
    """Write predicted cells of the test conditions in the form of GEARS: ``A+ctrl``, log1p values, no variance."""
    ds = open_dataset(Path("data/screen"))
    test = sorted(SplitFolder(Path("splits")).load(split).definition.folds.table["test"])
    rng = np.random.default_rng(0)
    parts, rows = [], []
    control = np.asarray(ds.expression[np.flatnonzero(ds.is_control)].toarray())
    for key in test:
        context, gene = key.split("|")[:2]
        cells = control[rng.integers(0, len(control), 20)] + rng.normal(0, 0.05, len(ds.genes))
        parts.append(np.maximum(cells, 0))
        rows += [(f"{gene}+ctrl", context)] * 20
    obs = pd.DataFrame(rows, columns=["condition", "cell_type"], index=[f"p{i}" for i in range(len(rows))])
    X = np.concatenate(parts).astype(np.float32)
    anndata.AnnData(X, obs, pd.DataFrame(index=list(map(str, ds.genes)))).write_h5ad(path)


def catalog(kind: str, name: str, content: dict[str, object]) -> None:
    path = Path(".perturbfm/catalog") / kind / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"name": name, **content}))


def test_a_first_day(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_screen(Path("screen.h5ad"))
    mapping = ["--pert-col", "sgRNA_target", "--context-col", "line", "--control-label", "NT"]
    perturbfm(
        *("data", "import", "screen.h5ad", "--out", "data/screen", *mapping),
        *("--space", "counts", "--modality", "CRISPRi", "--register"),
        warns=True,
    )
    made = perturbfm(
        *(
            "splits",
            "create",
            "--data",
            "screen",
            "--spec",
            "context_ood",
            "--holdout-context",
            "C1",
            "--json",
        )
    ).json
    split = str(made["split_hash"])
    suite: dict[str, object] = {
        "description": "our screen",
        "grid": [{"dataset": "screen", "splits": [{"kind": "context_ood", "params": {"holdout": ["C1"]}}]}],
        "models": ["control_only", "ridge"],
    }
    catalog("suites", "ours", suite)
    first = perturbfm("suite", "run", "ours", "--json", warns=True).json
    assert perturbfm("suite", "status", "ours", "--json").json
    assert first

    Path(".perturbfm/plugins").mkdir()
    Path(".perturbfm/plugins/median_effect.py").write_text(MODEL)
    catalog("models", "mine", {"description": "half the median effect", "model": "median_effect"})
    catalog("suites", "ours", {**suite, "models": ["control_only", "ridge", "mine"]})
    before = {p.name for p in Path("runs").glob("2*")}
    # A process of its own: plug-ins are found when a command starts.
    subprocess.run(
        [sys.executable, "-m", "perturbfm_core.cli.main", "suite", "run", "ours"],
        check=True,
        capture_output=True,
    )
    new = {p.name for p in Path("runs").glob("2*")} - before
    # What was done is found: one new run, of the new entry.
    assert len(new) == 1
    mine = new.pop()
    assert "_mine_" in mine

    write_gears(Path("gears.h5ad"), split)
    columns = ["--pert-col", "condition", "--context-col", "cell_type", "--control-label", "ctrl"]
    submitted = perturbfm(
        *("submit", "gears.h5ad", "--split", split, "--entry", "gears-elsewhere", *columns, "--json"),
        warns=True,
    ).json
    theirs = submitted["run_id"]
    perturbfm("leaderboard", "refresh")
    board = {r["entry"]: r for r in perturbfm("leaderboard", "show", "--json").json}
    assert {"mine", "gears-elsewhere", "ridge", "control_only"} <= set(board)
    ranks = sorted(r["rank"] for r in board.values())
    assert ranks == [1, 2, 3, 4]
    assert board["gears-elsewhere"]["family"] == "external"

    compared = perturbfm("runs", "compare", mine, theirs, "--json").json
    assert compared
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address, *_, **__: opened.append(address) or True)
    for run in (mine, theirs):
        perturbfm("report", run, "--open")
        text = (Path("runs") / run / "report.html").read_text()
        assert "delta.pearson_centered" in text
    assert len(opened) == 2
