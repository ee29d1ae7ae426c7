"""``--force`` of an import replaces a data set, and nothing else."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from tests.support.command import attempt, perturbfm

OPTIONS = ("--pert-col", "pert", "--control-label", "ctrl", "--space", "counts")


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> anndata.AnnData:
    """Write counts of 24 cells as ``in.h5ad`` in the current (temporary) directory."""
    monkeypatch.chdir(tmp_path)
    counts = np.random.default_rng(0).poisson(4.0, (24, 6)).astype(np.float32)
    obs = pd.DataFrame({"pert": ["ctrl", "g0", "g1"] * 8}, index=[f"c{i}" for i in range(24)])
    adata = anndata.AnnData(counts, obs, pd.DataFrame(index=[f"g{i}" for i in range(6)]))
    adata.write_h5ad("in.h5ad")
    return adata


def forced(source: str, out: str) -> str:
    """Return what an import into a place that is taken says."""
    answer = attempt("data", "import", source, "--out", out, *OPTIONS, "--force")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    return answer.err


def test_other_files_are_kept(screen: anndata.AnnData) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("of years")
    Path("mine/raw.h5ad").write_bytes(Path("in.h5ad").read_bytes())
    said = "--force replaces a data set, but mine holds 'notes.txt' and 1 more, which is no part of one"
    assert said in forced("in.h5ad", "mine")
    assert said in attempt("data", "make-synth", "--out", "mine", "--force").err
    assert sorted(p.name for p in Path("mine").iterdir()) == ["notes.txt", "raw.h5ad"]
    assert "in.h5ad is a file" in forced("mine/raw.h5ad", "in.h5ad")
    assert anndata.read_h5ad("in.h5ad").shape == screen.shape


def test_what_is_read_is_kept(screen: anndata.AnnData) -> None:
    screen.write_zarr("in.zarr")
    assert "--force would remove in.zarr, which is to be read" in forced("in.zarr", "in.zarr")
    assert anndata.read_zarr("in.zarr").shape == screen.shape
    perturbfm("data", "import", "in.h5ad", "--out", "d", *OPTIONS)
    assert "--force would remove d/data.zarr, which is to be read, with all of d" in forced(
        "d/data.zarr", "d"
    )
    assert perturbfm("data", "info", "d", "--verify").values["n_obs"] == "24"


def test_a_data_set_and_an_empty_folder_are_replaced(screen: anndata.AnnData) -> None:
    Path("d").mkdir()
    for storage in ("npz", "zarr"):
        perturbfm("data", "import", "in.h5ad", "--out", "d", *OPTIONS, "--storage", storage, "--force")
        Path("d/.DS_Store").write_bytes(b"")
    assert (Path("d/data.zarr").is_dir(), Path("d/data.npz").exists()) == (True, False)
