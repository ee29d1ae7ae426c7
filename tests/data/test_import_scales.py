"""Scales of expression as an import recognises, converts and doubts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data.artifact import load_dataset
from perturbfm_core.errors import DatasetError
from tests.support.command import attempt, perturbfm
from tests.support.import_reports import counts, read, report, warnings


def test_raw_is_read_with_its_own_genes(tmp_path: Path) -> None:
    whole = counts()
    adata = whole[:, :20].copy()
    adata.X = np.log1p(adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4)
    adata.raw = whole
    adata.write_h5ad(tmp_path / "f.h5ad")
    common = ["--pert-col", "pert", "--context-col", "line", "--control-label", "control"]
    refused = attempt("data", "import", tmp_path / "f.h5ad", "--out", "x", *common, "--space", "counts")
    assert "counts are read with --from-raw" in refused.err
    for i, option in enumerate((["--from-raw"], ["--layer", "raw"], ["--layer", "raw/X"])):
        out = tmp_path / f"d{i}"
        perturbfm("data", "import", tmp_path / "f.h5ad", "--out", out, *common, "--space", "counts", *option)
        ds = load_dataset(out)
        assert ds.n_genes == 30
        assert np.array_equal(ds.values.counts.toarray(), whole.X)  # type: ignore[union-attr]


def test_messages_name_the_genes_of_raw() -> None:
    whole = counts(genes=[f"ENSG{i}" for i in range(30)])
    whole.var["symbol"] = [f"G{i}" for i in range(29)] + [""]
    adata = whole[:, :20].copy()
    del adata.var["symbol"]
    adata.raw = whole
    with pytest.raises(DatasetError, match=r"^raw\.var has no column 'symbl'; columns: symbol$"):
        read(adata, layer="raw", gene_col="symbl")
    assert "raw.var column 'symbol' and are called by the index of raw.var ('ENSG29')" in warnings(
        read(adata, layer="raw", gene_col="symbol")
    )
    assert "raw.var column 'symbol' has 4 of the missing ones: --gene-col symbol" in warnings(
        read(adata, layer="raw")
    )
    whole.var_names = ["ENSG0", *whole.var_names[:-1]]
    adata.raw = whole
    with pytest.raises(
        DatasetError,
        match=r"name a raw\.var column .*adata\.raw\.to_adata\(\); adata\.var_names_make_unique",
    ):
        read(adata, layer="raw")


@pytest.mark.parametrize(
    ("space", "write"), [("normalized", lambda x: x), ("log2p1", lambda x: np.log2(x + 1))]
)
def test_other_scales_become_log1p(space: str, write: Any) -> None:
    adata = counts()
    values = adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4
    adata.X = write(values).astype(np.float32)
    with pytest.raises(DatasetError, match=f"declare --space {space}"):
        read(adata, space="log1p")
    ds = read(adata, space=space)
    np.testing.assert_allclose(ds.expression, np.log1p(values), rtol=1e-5)  # type: ignore[arg-type]
    assert (ds.metadata.space, report(ds)["scale"]) == ("log1p", f"{space}, stored as log1p")


def test_z_scores_lose_the_mean_of_their_control_rows() -> None:
    adata = counts(n=30)
    X = np.log1p(adata.X)
    X[(adata.obs["pert"] != "control").to_numpy()] += 0.5
    adata.X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    ds = read(adata, space="zscore")
    control = (adata.obs["pert"] == "control").to_numpy()
    np.testing.assert_allclose(ds.values.delta, adata.X - adata.X[control].mean(axis=0), atol=1e-5)
    assert "mean was subtracted" in warnings(ds)
    assert report(ds)["controls_subtracted"] == "1 of 1 contexts"


def test_differences_to_controls_stay_as_they_are() -> None:
    adata = counts(n=30)
    X = np.log1p(adata.X)
    control = (adata.obs["pert"] == "control").to_numpy()
    adata.X = (X - X[control].mean(axis=0)).astype(np.float32)
    ds = read(adata, space="delta")
    assert np.array_equal(ds.values.delta, adata.X)
    assert report(ds)["controls_subtracted"] == "0 of 1 contexts"


def test_z_scores_of_a_context_without_control_rows_are_refused() -> None:
    adata = counts(n=30)
    adata.obs["line"] = np.where(adata.obs["pert"] == "G4", "other", "K562")
    adata.X = (adata.X - adata.X.mean(axis=0)).astype(np.float32)
    with pytest.raises(DatasetError, match="context 'other' has no control row"):
        read(adata, space="zscore")


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("space", ["log1p", "log2p1", "log10p1"])
@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (lambda X: X, True),
        # One count is a whole number in every row, or the depth is that of the target.
        (lambda X: X * np.resize([2.0, 5.0, 10.0], (len(X), 1)), False),
        (lambda X: X / X.sum(axis=1, keepdims=True) * 1e4, False),
        (lambda X: (X / X.sum(axis=1, keepdims=True) * 1e6)[:, :20], False),
        (lambda X: (X / X.sum(axis=1, keepdims=True) * np.median(X.sum(axis=1)))[:, :20], False),
    ],
)
def test_logarithms_of_counts_without_normalisation_are_named(
    scale: Any, said: bool, space: str, sparse: bool
) -> None:
    log = {"log1p": np.log1p, "log2p1": lambda x: np.log2(x + 1), "log10p1": lambda x: np.log10(x + 1)}[space]
    adata = counts()
    X = log(scale(adata.X.astype(np.float64))).astype(np.float32)
    adata = adata[:, : X.shape[1]].copy()
    adata.X = sp.csr_matrix(X) if sparse else X
    found = "counts without depth normalisation" in warnings(read(adata, space=space))
    assert found == said


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("space", ["log1p", "counts"])
@pytest.mark.parametrize("kept", [30, 12])
def test_a_logarithm_of_logarithms_is_refused(kept: int, space: str, sparse: bool) -> None:
    """Of all genes the row sums show it, of some the whole multiples of one count."""
    adata = counts()
    X = adata.X.astype(np.float64)
    once = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)[:, :kept].astype(np.float32)
    adata = adata[:, :kept].copy()
    adata.X = sp.csr_matrix(once) if sparse else once
    assert report(read(adata, space="log1p"))["scale"] == "log1p, stored as log1p"
    adata.X = np.log1p(adata.X)
    with pytest.raises(DatasetError, match=r"is a logarithm of logarithms \(as log1p of log1p values"):
        read(adata, space=space)


@pytest.mark.parametrize("space", ["counts", "log1p", "delta"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_rows_that_repeat_another_are_named(space: str, form: Any) -> None:
    single = counts(n=40)
    X = single.X if space == "counts" else np.log1p(single.X / single.X.sum(axis=1, keepdims=True) * 1e4)
    single.X = form(X - (X.mean(axis=0) if space == "delta" else 0))
    given = {"space": space, "level": "cell"}
    assert "values of another one" not in warnings(read(single, **given))
    twice = anndata.concat([single, single[:3]], index_unique="-")
    assert "3 of 203 rows have exactly the values of another one ('r0-1' those of 'r0-0')" in warnings(
        read(twice, **given)
    )


@pytest.mark.parametrize("column", ["line", "batch"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_genes_that_a_part_of_the_cells_never_measured_are_named(column: str, form: Any) -> None:
    """An outer join of two screens fills what one of them lacks with zeros."""
    first, second = counts(n=10), counts(n=10, seed=1)
    first.obs["batch"], second.obs["batch"] = "b0", "b1"
    if column == "line":
        second.obs["line"] = "RPE1"
    given = {"batch_col": "batch"} if column == "batch" else {}
    whole = anndata.concat([first, second], index_unique="-")
    assert warnings(read(whole, **given)) == ""
    joined = anndata.concat([first, second[:, 12:].copy()], index_unique="-", join="outer", fill_value=0)
    joined.X = form(joined.X)
    assert "11 of 29 genes that are common elsewhere are zero in" in warnings(read(joined, **given))
    few = anndata.concat([first, second[:, 5:].copy()], index_unique="-", join="outer", fill_value=0)
    assert warnings(read(few, **given)) == ""


@pytest.mark.parametrize("factor", [np.linspace(0.9, 0.99, 30), 1.0000001])
def test_counts_with_fractions_are_not_taken_for_a_mixture_of_scales(factor: Any) -> None:
    """Counts corrected for ambient RNA: as logarithms, rows of the same largest count would have the same sum."""
    adata = counts(n=40)
    adata.X = (adata.X * factor).astype(np.float64)
    with pytest.raises(DatasetError, match="has fractions, counts have none; round corrected counts first"):
        read(adata)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_expression_without_zeros_is_named(form: Any) -> None:
    """A batch correction that was shifted to be positive, or what a model says is the mean, has no zeros."""
    adata = counts(genes=[f"G{i}" for i in range(250)])
    X = np.log1p(adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4)
    adata.X = form(X)
    assert "of the values are zero" not in warnings(read(adata, space="log1p"))
    rng = np.random.default_rng(0)
    shifted = X + rng.normal(0, 0.1, X.shape)
    adata.X = form((shifted - shifted.min()).astype(np.float32))
    assert "0.0% of the values are zero, fewer than counts of cells have" in warnings(
        read(adata, space="log1p")
    )
    assert "of the values are zero" not in warnings(read(adata, space="log1p", level="condition"))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("column", ["total_counts", "nCount_RNA", "ncounts"])
def test_counts_of_selected_genes_are_named(column: str, form: Any) -> None:
    adata = counts()
    depth = adata.X.sum(axis=1)
    adata.X = form(adata.X)
    for factor, said in ((1.0, False), (10.0, True)):
        adata.obs[column] = depth * factor
        adata.obs.loc[adata.obs_names[0], column] = np.nan
        shown = f"cells have 10% of the counts that obs column {column!r} states" in warnings(read(adata))
        assert shown == said
    adata.obs[column] = "many"
    assert "of the counts that" not in warnings(read(adata))


def test_rows_that_sum_to_one_are_named() -> None:
    adata = counts()
    share = adata.X / adata.X.sum(axis=1, keepdims=True)
    for factor, said in ((1.0, True), (1e4, False)):
        adata.X = (share * factor).astype(np.float32)
        assert (
            "log1p hardly differs from the value itself" in warnings(read(adata, space="normalized"))
        ) == said


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_logarithms_cut_to_whole_numbers_are_no_counts(form: Any) -> None:
    adata = counts()
    log = np.log1p(adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4)
    few = adata.copy()
    few.X = form(np.minimum(adata.X, 15))
    assert "by chance" not in warnings(read(few))
    adata.X = form(log.astype(np.int32))
    assert "differ less between rows than counts do by chance" in warnings(read(adata))
