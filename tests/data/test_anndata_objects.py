"""An AnnData object is imported as the file of it is: the same data set, or the same line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.importing import from_anndata, read_h5ad
from perturbfm_core.errors import ConfigError, DatasetError
from tests.support.factories import grid_rows, screen

COUNTS = np.random.default_rng(0).poisson(3.0, (12, 6)).astype(np.float32)
LOG1P = np.log1p(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4)
MAPPING: dict[str, Any] = {"pert_col": "pert", "control_label": "ctrl", "space": "counts"}


def cells(X: Any, genes: int = 6) -> anndata.AnnData:
    obs = pd.DataFrame({"pert": ["ctrl", "A", "B"] * 4}, index=[f"r{i}" for i in range(12)])
    return anndata.AnnData(X, obs, pd.DataFrame(index=[f"g{i}" for i in range(genes)]))


def with_raw(X: Any) -> anndata.AnnData:
    """Return an object of some genes, with counts of all of them set aside."""
    adata = cells(COUNTS)
    out = adata[:, :4].copy()
    out.X = X[:, :4]
    out.raw = adata
    return out


def layered(X: Any) -> anndata.AnnData:
    adata = cells(X)
    adata.layers["kept"] = COUNTS
    return adata


@pytest.mark.parametrize(
    ("adata", "mapping"),
    [
        (with_raw(LOG1P), {"layer": "raw"}),
        (with_raw(LOG1P), {"layer": "raw.X"}),
        (layered(LOG1P), {"layer": "kept"}),
        (cells(COUNTS.astype(np.float16)), {}),
        (cells(COUNTS.astype(np.int64)), {}),
        (cells(sp.csc_matrix(COUNTS)), {}),
        (cells(LOG1P.astype(np.float16)), {"space": "log1p"}),
        (cells(sp.csr_matrix(LOG1P)), {"space": "log1p"}),
    ],
    ids=["raw", "raw.X", "layer", "half floats", "integers", "csc", "half log1p", "csr log1p"],
)
def test_the_same_data_set(tmp_path: Path, adata: anndata.AnnData, mapping: dict[str, Any]) -> None:
    adata.write_h5ad(tmp_path / "f.h5ad")
    expected = read_h5ad(tmp_path / "f.h5ad", **{**MAPPING, **mapping})
    for given in (adata, anndata.read_h5ad(tmp_path / "f.h5ad", backed="r")):
        found = from_anndata(given, **{**MAPPING, **mapping})
        assert found.computed_sha256 == expected.computed_sha256
        reports = [ds.metadata.notes["import_report"] for ds in (found, expected)]
        assert reports[0] == {**reports[1], "file": "the AnnData object"}


@pytest.mark.parametrize(
    ("adata", "mapping", "message"),
    [
        (with_raw(LOG1P), {}, "counts are read with --from-raw"),
        (layered(LOG1P), {}, "counts are read with --layer kept"),
        (cells(COUNTS > 3), {}, "X holds true and false (bool), not numbers"),
        (layered(None), {}, "has no X; layers: ['kept']"),
        (with_raw(LOG1P), {"layer": "lost"}, "has no layers/lost; layers: ['raw']"),
        (cells(COUNTS)[:, :0].copy(), {}, "has 0 genes (rows of var); nothing is left to import"),
        (cells(COUNTS)[:0].copy(), {}, "has 0 cells (rows of obs); nothing is left to import"),
    ],
    ids=["raw", "layer", "truth", "no X", "no such layer", "no genes", "no cells"],
)
def test_the_same_line(tmp_path: Path, adata: anndata.AnnData, mapping: dict[str, Any], message: str) -> None:
    adata.write_h5ad(tmp_path / "f.h5ad")
    with pytest.raises(DatasetError, match=re.escape(message)):
        read_h5ad(tmp_path / "f.h5ad", **{**MAPPING, **mapping})
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        from_anndata(adata, **{**MAPPING, **mapping})
    assert str(caught.value).count("the AnnData object") == 1
    assert "\n" not in str(caught.value)


def test_a_matrix_of_objects_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"X holds objects \(object\), not numbers"):
        from_anndata(cells(COUNTS.astype(object)), **MAPPING)


def test_the_object_is_not_changed() -> None:
    adata = cells(sp.csr_matrix(COUNTS))
    before = adata.copy()
    adata.X.data[0] = before.X.data[0] = 0
    from_anndata(adata, **MAPPING)
    assert adata.X.nnz == before.X.nnz
    assert np.array_equal(adata.X.data, before.X.data)


# ---- controls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "controls", [{"control_policy": "sampled"}, {"control_seed": 3}, {"control_policy": "sampled", "control_seed": 3}]
)  # fmt: skip
@pytest.mark.parametrize("by_file", [False, True], ids=["object", "file"])
def test_controls_survive_the_way_through_anndata(
    tmp_path: Path, controls: dict[str, Any], by_file: bool
) -> None:
    ds = screen(grid_rows(["A", "B"], ["x", "y"], reps=2), **controls)
    adata = ds.to_anndata()
    if by_file:
        adata.write_h5ad(tmp_path / "f.h5ad")
        adata = anndata.read_h5ad(tmp_path / "f.h5ad")
    back = from_anndata(adata)
    assert (back.metadata.control_policy, back.metadata.control_seed) == (
        ds.metadata.control_policy,
        ds.metadata.control_seed,
    )
    assert back.computed_sha256 == ds.computed_sha256


def test_controls_that_are_stated_in_another_way_are_refused() -> None:
    adata = screen(grid_rows(["A", "B"], ["x", "y"])).to_anndata()
    assert "control_policy" not in adata.uns["perturbfm"]
    adata.uns["perturbfm"]["control_policy"] = "median"
    with pytest.raises(ConfigError, match=r"uns\['perturbfm'\] .*control_policy: Input should be 'mean' or"):
        from_anndata(adata)
