"""AnnData in zarr folders: imported as h5ad files are, in memory and as a stream, and refused in one line where damaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data import stored_rows
from perturbfm_core.data.importing import ColumnMapping, from_anndata, import_h5ad
from perturbfm_core.data.matrix import is_stored
from perturbfm_core.data.table import condition_table
from perturbfm_core.data.table_file import table_digest
from perturbfm_core.errors import DatasetError
from tests.support.command import attempt, perturbfm

MAPPING: dict[str, Any] = {
    "pert_col": "pert",
    "context_col": "cell",
    "control_label": "ctrl",
    "space": "counts",
}


def cells() -> anndata.AnnData:
    """Return 120 cells x 9 genes of counts, with a categorical column, one with missing values, a layer and raw."""
    rng = np.random.default_rng(0)
    X = sp.csr_matrix(rng.poisson(1.0, (120, 9)).astype(np.float32))
    obs = pd.DataFrame(
        {
            "pert": rng.choice(["ctrl", "A", "B", "A+B"], 120),
            "cell": pd.Categorical(rng.choice(["x", "y"], 120)),
            "n": pd.array([1, None] * 60, dtype="Int64"),
        },
        index=[f"c{i}" for i in range(120)],
    )
    a = anndata.AnnData(X, obs, pd.DataFrame(index=[f"G{i}" for i in range(9)]))
    a.layers["twice"] = X * 2
    a.raw = a.copy()
    return a


def written(a: anndata.AnnData, path: Path, version: int) -> Path:
    with anndata.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a.write_zarr(path)
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "form", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray], ids=["csr", "csc", "dense"]
)
@pytest.mark.parametrize("layer", [None, "twice", "raw"])
def test_a_zarr_folder_is_imported_as_an_h5ad_file(
    tmp_path: Path, version: int, form: Callable[..., Any], layer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = cells()
    a.X, a.layers["twice"] = form(a.X), form(a.layers["twice"])
    a.write_h5ad(tmp_path / "a.h5ad")
    mapping = ColumnMapping(**MAPPING, layer=layer)
    one = import_h5ad(tmp_path / "a.h5ad", mapping, name="d")
    folder = written(a, tmp_path / "a.zarr", version)
    two = import_h5ad(folder, mapping, name="d")
    monkeypatch.setattr(stored_rows, "STREAM_FROM", 1)
    monkeypatch.setattr(stored_rows, "_BLOCK", 50)
    three = import_h5ad(folder, mapping, name="d", stream=True)
    assert is_stored(three.streamed.counts) == (layer == "raw" or form is not sp.csc_matrix)
    for ds in (two, three):
        assert ds.computed_sha256 == one.computed_sha256
        assert table_digest(condition_table(ds)) == table_digest(condition_table(one))


def test_the_command_reads_it_and_names_what_is_no_anndata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    monkeypatch.chdir(tmp_path)
    written(cells(), tmp_path / "a.zarr", 3)
    options = ("--pert-col", "pert", "--context-col", "cell", "--control-label", "ctrl", "--space", "counts")
    perturbfm("data", "import", "a.zarr", *options, "--out", "D", warns=True)
    zarr.open_group("plain", mode="w").create_array("x", shape=(3,), dtype="f4")
    Path("empty").mkdir()
    (tmp_path / "a.zarr/X/data/c/0").write_bytes(b"no chunk")
    for name, what in (
        ("plain", "plain is a zarr folder but no AnnData (obs, var not found)"),
        ("empty", "empty is a folder, not a file"),
        ("a.zarr", "a.zarr is damaged"),
    ):
        answer = attempt("data", "import", name, *options, "--out", "E")
        assert (answer.code, what in answer.err, answer.err.count("\n")) == (2, True, 1), answer.err
        assert not Path("E").exists()


@pytest.mark.parametrize(
    "form", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray], ids=["csr", "csc", "dense"]
)
def test_an_object_backed_by_its_file_is_read(tmp_path: Path, form: Callable[..., Any]) -> None:
    a = cells()
    a.X = form(a.X)
    a.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert from_anndata(backed, **MAPPING).content_sha256 == from_anndata(a, **MAPPING).content_sha256
    with pytest.raises(DatasetError, match="has no layers/none; layers: "):
        from_anndata(backed, **MAPPING, layer="none")
