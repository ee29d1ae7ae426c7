"""A newcomer's surroundings, and a small screen with a split, a run and a leaderboard."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from tests.support.command import VARIABLES, Work, perturbfm


@pytest.fixture(autouse=True)
def plain_environment(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a newcomer does: no variable set, everything in the current (temporary) directory."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Make the folder of `Work` once."""
    path = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        size = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)
        perturbfm("data", "make-synth", "--out", "D", *size)
        held = ("--spec", "context_ood", "--holdout-context", "C0")
        split = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
        run = perturbfm("train", "global_mean", "--data", "D", "--split", split).values["run_id"]
        perturbfm("leaderboard", "refresh")
    return Work(path, split, run)


@pytest.fixture
def work(template: Work, tmp_path: Path) -> Work:
    """Return a private copy of that folder, which is the current directory."""
    shutil.copytree(template.path, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Work(tmp_path, template.split, template.run)


@pytest.fixture
def screen_h5ad(tmp_path: Path) -> Path:
    """Write an h5ad of counts in two cell lines: singles, a pair written ``B_A``, doses, three donors."""
    rng = np.random.default_rng(3)
    n, genes = 240, ["A", "B", "C", *(f"g{i}" for i in range(17))]
    pert = rng.choice(["ctrl", "A", "B", "C", "B_A"], size=n, p=[0.3, 0.2, 0.2, 0.2, 0.1])
    obs = pd.DataFrame(
        {
            "perturbation": pert,
            "cell_line": rng.choice(["K562", "RPE1"], size=n),
            "batch": rng.choice(["d1", "d2", "d3"], size=n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    counts = rng.poisson(5.0, size=(n, len(genes))).astype(np.float32)
    counts[pert == "A", 0] += 30
    counts[pert == "B", 1] += 30
    path = tmp_path / "screen.h5ad"
    anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return path
