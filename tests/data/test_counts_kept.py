"""Counts of a data set: kept by every way of import and in both storages, and said in the report."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.importing import ColumnMapping, from_anndata, import_h5ad
from perturbfm_core.data.summary import summary
from tests.support.command import perturbfm

GENES = [f"G{i}" for i in range(20)]


@pytest.fixture(scope="module")
def cells():
    """Return (counts, log1p values, obs) of 40 cells."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2.0, 3.0, 20) * rng.gamma(10, 0.1, (40, 1))).astype(np.float32)
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    labels = np.repeat(["ctrl", "G1", "G2", "G3"], 10)
    return (
        counts,
        logs,
        pd.DataFrame({"pert": labels, "line": "K"}, index=[f"r{i}" for i in range(40)]),
    )


def written(path, cells, where, *, sparse):
    """Write an h5ad with counts in X, a layer or raw, and log1p values elsewhere."""
    counts, logs, obs = cells
    keep = sp.csr_matrix if sparse else np.asarray
    var = pd.DataFrame(index=GENES)
    made = anndata.AnnData(keep(counts if where == "X" else logs), obs, var)
    if where == "raw":
        made.raw = anndata.AnnData(keep(counts), obs, var)
    elif where != "X":
        made.layers[where] = keep(counts)
    made.write_h5ad(path)
    return path


def mapping(**more):
    return ColumnMapping(pert_col="pert", context_col="line", control_label="ctrl", **more)


@pytest.mark.parametrize("storage", ["npz", "zarr"])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    ("where", "layer", "said"),
    [
        ("X", None, "kept, from X"),
        ("counts", "counts", "kept, from layer 'counts'"),
        ("spliced", "spliced", "kept, from layer 'spliced'"),
        ("raw", "raw", "kept, from raw.X"),
    ],
)
def test_counts_come_back_from_both_storages(tmp_path, cells, where, layer, said, sparse, storage):
    path = written(tmp_path / "d.h5ad", cells, where, sparse=sparse)
    ds = import_h5ad(path, mapping(space="counts", layer=layer), name="d")
    write_dataset(ds, tmp_path / "d", storage=storage)
    back = load_dataset(tmp_path / "d")
    assert sp.issparse(back.values.counts)
    assert back.values.counts.dtype == np.int32
    np.testing.assert_array_equal(back.values.counts.toarray(), cells[0])
    np.testing.assert_allclose(back.expression.toarray(), cells[1], rtol=1e-5)
    assert back.metadata.notes["import_report"]["counts"] == said
    assert summary(back, tmp_path / "d")["counts"] == said
    assert perturbfm("data", "info", tmp_path / "d", "--json").json["counts"] == said


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("counts", "not kept; counts are read with --layer counts --space counts"),
        ("raw", "not kept; counts are read with --from-raw --space counts"),
    ],
)
def test_values_without_counts_say_where_the_file_has_some(tmp_path, cells, where, said):
    path = written(tmp_path / "d.h5ad", cells, where, sparse=True)
    ds = import_h5ad(path, mapping(space="log1p"), name="d")
    assert ds.values.counts is None
    assert ds.metadata.notes["import_report"]["counts"] == said
    write_dataset(ds, tmp_path / "d", storage="zarr")
    assert summary(load_dataset(tmp_path / "d"), tmp_path / "d")["counts"] == said


def test_objects_and_data_made_here_say_so_too(tmp_path, cells):
    counts, logs, obs = cells
    var = pd.DataFrame(index=GENES)
    named = {"pert_col": "pert", "context_col": "line", "control_label": "ctrl"}
    ds = from_anndata(
        anndata.AnnData(logs, obs, var, layers={"n": counts}), space="counts", layer="n", **named
    )
    assert ds.metadata.notes["import_report"]["counts"] == "kept, from layer 'n'"
    plain = from_anndata(anndata.AnnData(logs, obs, var), **named)
    assert plain.metadata.notes["import_report"]["counts"] == "not kept"
    perturbfm("data", "make-synth", "--out", tmp_path / "s", "--n-obs", 200, "--n-genes", 12, "--n-perts", 3)
    assert summary(load_dataset(tmp_path / "s"), tmp_path / "s")["counts"] == "kept"
    # Differences have no counts to speak of.
    other = from_anndata(
        anndata.AnnData(logs - logs.mean(axis=0), obs, var),
        space="delta",
        pert_col="pert",
        context_col="line",
    )
    assert "counts" not in other.metadata.notes["import_report"]
