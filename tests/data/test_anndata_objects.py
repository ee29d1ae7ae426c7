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

from perturbfm_core.data.artifact import write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import from_anndata, read_h5ad
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import GeneSelection
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


def embedded(X: Any) -> anndata.AnnData:
    adata = cells(X)
    adata.obsm["X_hvg"] = LOG1P
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
        (
            embedded(None),
            {},
            "has no X; layers: none; obsm holds X_hvg: to import expression from there, make it X",
        ),
        (with_raw(LOG1P), {"layer": "lost"}, "has no layers/lost; layers: ['raw']"),
        (cells(COUNTS)[:, :0].copy(), {}, "has 0 genes (rows of var); nothing is left to import"),
        (cells(COUNTS)[:0].copy(), {}, "has 0 cells (rows of obs); nothing is left to import"),
    ],
    ids=["raw", "layer", "truth", "no X", "in obsm", "no such layer", "no genes", "no cells"],
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


def test_deltas_and_controls_that_are_stated_survive(make_dataset: Any) -> None:
    stated = Values(expression=LOG1P, delta=LOG1P / 2, x_control=LOG1P / 2)
    ds = make_dataset(LOG1P, ["control", "B", "C"] * 4, values=stated, metadata={"control_policy": "file"})
    back = from_anndata(ds.to_anndata())
    assert back.computed_sha256 == ds.computed_sha256
    assert np.array_equal(back.delta(np.arange(3)), LOG1P[:3] / 2)


def test_controls_that_are_stated_in_another_way_are_refused() -> None:
    adata = screen(grid_rows(["A", "B"], ["x", "y"])).to_anndata()
    assert "control_policy" not in adata.uns["perturbfm"]
    adata.uns["perturbfm"]["control_policy"] = "median"
    with pytest.raises(ConfigError, match=r"uns\['perturbfm'\] .*control_policy: Input should be 'mean', "):
        from_anndata(adata)


# ---- names ---------------------------------------------------------------------------------------------------


def labelled(labels: list[str], **columns: list[str]) -> anndata.AnnData:
    adata = cells(COUNTS)
    adata.obs["pert"] = labels * (12 // len(labels))
    for name, values in columns.items():
        adata.obs[name] = values * (12 // len(values))
    return adata


@pytest.mark.parametrize("by_file", [False, True], ids=["object", "file"])
@pytest.mark.parametrize(
    ("adata", "mapping"),
    [
        (labelled(["ctrl", "g0_1", "g0_2"]), {"guides": "separate"}),
        (labelled(["ctrl", "g0", "g0"], of=["x", "a/1", "a_+_2"]), {"guides": "separate", "guide_col": "of"}),
        (labelled(["ctrl", "g0_1", "g0_2"]), {"accept": "label_naming_features"}),
        (labelled(["ctrl", "NA", "Control"]), {"keep_labels": ["NA", "Control"]}),
        (
            labelled(["ctrl", "a"], line=["x", "x", "None", "None"]),
            {"keep_labels": "None", "context_col": "line"},
        ),
        (labelled(["ctrl", "a"], batch_id=["x", "x", "y", "y"]), {"covariate_cols": "batch_id"}),
        (labelled(["ctrl", "a"], pert_id=["x"], modality=["y"]), {"covariate_cols": ["pert_id", "modality"]}),
        (labelled(["ctrl", "a"], doses=["x"], doses_=["y"]), {"covariate_cols": ["doses", "doses_"]}),
    ],
    ids=["guides", "guide column", "merged guides", "labels", "context", "batch", "own names", "both names"],
)
def test_names_survive_the_way_through_anndata(
    tmp_path: Path, by_file: bool, adata: anndata.AnnData, mapping: dict[str, Any]
) -> None:
    """They are names by then: no guide is merged, no text means missing, no column takes the place of another."""
    ds = from_anndata(adata, **{**MAPPING, **mapping})
    shown = ds.to_anndata()
    if by_file:
        shown.write_h5ad(tmp_path / "f.h5ad")
        shown = anndata.read_h5ad(tmp_path / "f.h5ad")
    back = from_anndata(shown)
    assert back.conditions.index.tolist() == ds.conditions.index.tolist()
    assert back.computed_sha256 == ds.computed_sha256
    # What the audit and prediction files read.
    kept = [{k: d.metadata.notes.get(k) for k in ("guides", "merged_guides")} for d in (ds, back)]
    assert kept[0] == kept[1]
    assert back.metadata.notes["columns"].get("accept") == ds.metadata.notes["columns"].get("accept")


@pytest.mark.parametrize("given", ["f.h5ad", None, pd.DataFrame(COUNTS)], ids=["path", "none", "table"])
def test_what_is_no_anndata_is_refused(given: Any) -> None:
    with pytest.raises(
        DatasetError, match=r"takes an AnnData object, found (str|NoneType|DataFrame); a file is read by"
    ):
        from_anndata(given, **MAPPING)


def test_an_object_is_no_path() -> None:
    given: Any = cells(COUNTS)
    with pytest.raises(
        DatasetError, match="takes the path of a file, found AnnData; an object is read by from_anndata"
    ):
        read_h5ad(given, **MAPPING)


def test_notes_on_guides_that_are_none_are_refused() -> None:
    adata = screen(grid_rows(["A", "B"], ["x", "y"])).to_anndata()
    adata.uns["perturbfm"]["guide_notes"] = '{"guides": 1}'
    with pytest.raises(
        DatasetError, match=r"guide_notes in uns\['perturbfm'\] must be tables of guides and their genes"
    ):
        from_anndata(adata)


# ---- files and parts of what to_anndata made ---------------------------------------------------------------------


def own(**metadata: Any) -> PerturbDataset:
    """Return a data set of counts with what a file would have to state besides its columns."""
    ds = screen(grid_rows(["A", "B"], ["x", "y"], reps=2), **metadata)
    return from_anndata(ds.to_anndata(), name="mine", source="GSE1")


@pytest.mark.parametrize(
    "ds",
    [
        own(),
        own(control_seed=1),
        own(control_policy="sampled", control_seed=3),
        own(licence="CC0", gene_selection=GeneSelection(method="variable", rows="all")),
        from_anndata(labelled(["ctrl", "g0_1", "g0_2"]), **MAPPING, guides="separate"),
        from_anndata(labelled(["ctrl", "a"], total_counts=["x"]), **MAPPING, covariate_cols="total_counts"),
        from_anndata(cells(LOG1P), pert_col="pert", control_label="ctrl"),
        from_anndata(cells(LOG1P - LOG1P.mean(axis=0)), pert_col="pert", space="delta"),
    ],
    ids=["counts", "zarr", "sampled", "origin", "guides", "depth as covariate", "log1p", "delta"],
)
def test_a_file_of_a_data_set_needs_no_mapping(
    tmp_path: Path, ds: PerturbDataset, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "f"
    by_zarr = request.node.callspec.id == "zarr"
    getattr(ds.to_anndata(), "write_zarr" if by_zarr else "write_h5ad")(path)
    back = read_h5ad(path)
    assert back.computed_sha256 == ds.computed_sha256
    kept = ("name", "source", "licence", "level", "gene_selection", "control_policy", "control_seed")
    assert [getattr(back.metadata, k) for k in kept] == [getattr(ds.metadata, k) for k in kept]
    assert back.metadata.notes.get("guides") == ds.metadata.notes.get("guides")
    assert read_h5ad(path, name="other").name == from_anndata(ds.to_anndata(), name="other").name == "other"


def test_stated_deltas_survive_in_a_file(tmp_path: Path, make_dataset: Any) -> None:
    stated = Values(expression=LOG1P, delta=LOG1P / 2, x_control=LOG1P / 2)
    ds = make_dataset(LOG1P, ["control", "B", "C"] * 4, values=stated, metadata={"control_policy": "file"})
    ds.to_anndata().write_h5ad(tmp_path / "f.h5ad")
    back = read_h5ad(tmp_path / "f.h5ad")
    assert back.computed_sha256 == ds.computed_sha256
    on_disk = from_anndata(anndata.read_h5ad(tmp_path / "f.h5ad", backed="r"))
    assert on_disk.computed_sha256 == ds.computed_sha256


def test_counts_of_fewer_genes_do_not_change_the_depth_unnoticed(tmp_path: Path) -> None:
    ds = from_anndata(cells(COUNTS), **MAPPING, target_sum=500)
    some = ds.to_anndata()[:, :4].copy()
    some.write_h5ad(tmp_path / "f.h5ad")
    message = r"12 of 12 cells hold other counts than obs column 'total_counts' states .*target_sum=500\)"
    for read in (lambda: from_anndata(some), lambda: read_h5ad(tmp_path / "f.h5ad")):
        with pytest.raises(DatasetError, match=message):
            read()
    # Genes and cells in another order, and fewer cells, have the same depth.
    part = ds.to_anndata()[[5, 4, 3, 2, 1, 0], [2, 1, 0, 5, 4, 3]].copy()
    assert np.array_equal(
        from_anndata(part).expression.toarray(), ds.expression.toarray()[5::-1][:, [2, 1, 0, 5, 4, 3]]
    )
    # As the message says.
    del some.obs["total_counts"]
    assert from_anndata(some).n_genes == 4


def test_what_others_keep_under_the_same_key_is_no_mapping(tmp_path: Path) -> None:
    adata = cells(COUNTS)
    adata.uns["perturbfm"] = "scored"
    adata.write_h5ad(tmp_path / "f.h5ad")
    with pytest.raises(ConfigError, match="pert_col: Field required"):
        read_h5ad(tmp_path / "f.h5ad")


def test_a_data_set_that_was_imported_is_named(tmp_path: Path) -> None:
    ds = own()
    write_dataset(ds, tmp_path / "screen")
    with pytest.raises(
        DatasetError, match=r"screen is a data set of perturbfm, imported already: .*load_dataset"
    ):
        read_h5ad(tmp_path / "screen", **MAPPING)
    with pytest.raises(DatasetError, match="imported already"):
        read_h5ad(tmp_path / "screen")
