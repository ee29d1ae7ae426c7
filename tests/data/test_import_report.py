"""Report of an import: what was read, how it fits together, and what would make numbers wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import from_anndata
from perturbfm_core.data.label_features import label_features
from perturbfm_core.errors import DatasetError
from tests.support.command import attempt, perturbfm

GENES = [f"G{i}" for i in range(30)]
PERTS = ["control", "G1", "G2", "G3", "G4"]


def counts(n: int = 10, genes: list[str] = GENES, perts: list[str] = PERTS, seed: int = 0) -> anndata.AnnData:
    """Return counts of `n` cells per perturbation, in one cell line."""
    rng = np.random.default_rng(seed)
    labels = [p for p in perts for _ in range(n)]
    mean = rng.gamma(2.0, 3.0, len(genes))
    X = rng.poisson(mean * rng.gamma(10, 0.1, (len(labels), 1))).astype(np.float32)
    obs = pd.DataFrame({"pert": labels, "line": "K562"}, index=[f"r{i}" for i in range(len(labels))])
    return anndata.AnnData(X, obs, pd.DataFrame(index=genes))


def read(adata: anndata.AnnData, **mapping: Any) -> PerturbDataset:
    given = {
        "pert_col": "pert",
        "context_col": "line",
        "control_label": "control",
        "space": "counts",
        **mapping,
    }
    return from_anndata(adata, **given)


def report(ds: PerturbDataset) -> dict[str, Any]:
    return ds.metadata.notes["import_report"]


def warnings(ds: PerturbDataset) -> str:
    return "\n".join(report(ds)["warnings"])


def test_the_report_says_what_was_read(tmp_path: Path) -> None:
    ds = read(counts())
    assert {
        k: report(ds)[k] for k in ("matrix", "rows", "genes", "contexts", "conditions", "control_rows")
    } == {
        "matrix": "X",
        "rows": 50,
        "genes": 30,
        "contexts": 1,
        "conditions": 4,
        "control_rows": 10,
    }
    assert report(ds)["perturbed_names_among_genes"] == "4 of 4"
    assert report(ds)["rows_per_condition"] == "10"
    assert warnings(ds) == ""
    write_dataset(ds, tmp_path / "d", storage="zarr")
    assert report(load_dataset(tmp_path / "d")) == report(ds)


# ---- perturbed names among the genes -------------------------------------------------------------------------


def test_versions_of_ensembl_ids_are_named() -> None:
    adata = counts(genes=[f"ENSG{i:011d}.{i % 3}" for i in range(30)])
    assert "0 of 4 perturbed names are among the 30 genes" in warnings(read(adata))
    assert "Ensembl versions?" in warnings(read(adata))
    bare = counts(
        genes=[f"ENSG{i:011d}.{i % 3 + 1}" for i in range(30)],
        perts=["control", "ENSG00000000001", "ENSG00000000002"],
    )
    assert "The names differ in what follows the point" in warnings(read(bare))


def test_the_column_that_has_the_names_is_named_and_cures_it() -> None:
    adata = counts(genes=[f"ENSG{i:011d}" for i in range(30)])
    adata.var["symbol"] = GENES
    assert "var column 'symbol' has 4 of the missing ones: --gene-col symbol" in warnings(read(adata))
    assert warnings(read(adata, gene_col="symbol")) == ""


def test_names_in_another_case_are_named() -> None:
    assert "differ in upper and lower case only" in warnings(read(counts(genes=[g.lower() for g in GENES])))


def test_drugs_need_not_be_genes() -> None:
    adata = counts(perts=["control", "imatinib", "JQ1"])
    assert warnings(read(adata, modality="drug")) == ""
    assert "0 of 2 perturbed names are among" in warnings(read(adata))


# ---- rows per condition --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "remedy"), [(None, "with --level cell"), ("cell", "with --level condition")]
)
def test_one_row_per_condition_is_named(level: str | None, remedy: str) -> None:
    adata = counts(n=1)
    said = warnings(read(adata, level=level))
    assert "each of 4 conditions has one row" in said
    assert remedy in said
    assert "--level" not in warnings(read(adata, level="condition"))
    assert "--level" not in warnings(read(counts(n=2)))


@pytest.mark.parametrize(
    ("adata", "options", "level"),
    [
        pytest.param(counts(n=1), {}, "condition", id="one row each"),
        pytest.param(counts(n=2), {}, "cell", id="two rows each"),
        pytest.param(counts(n=1), {"level": "cell"}, "cell", id="declared as cells"),
        pytest.param(counts(n=2), {"level": "condition"}, "condition", id="declared as means"),
        pytest.param(counts(n=1, perts=["control", "imatinib"]), {}, "cell", id="a single row says nothing"),
    ],
)
def test_the_level_follows_from_the_rows_per_condition(
    adata: Any, options: dict[str, Any], level: str
) -> None:
    assert read(adata, **options).metadata.level == level


def test_replicates_in_other_contexts_or_doses_are_conditions_of_their_own() -> None:
    adata = counts(n=2)
    adata.obs["dose"] = ["1", "2"] * (adata.n_obs // 2)
    assert read(adata, dose_col="dose", dose_unit="uM").metadata.level == "condition"
    adata.obs["dose"] = "1"
    assert read(adata, dose_col="dose", dose_unit="uM").metadata.level == "cell"


# ---- features that name the condition ------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize(
    "name", ["sg{}", "{}_sgRNA", "guide-{}_1", "CRISPR_{}_2", "{}_g1", "lenti-{}-barcode", "sg{}-2"]
)
def test_features_with_a_guides_name(name: str, sparse: bool) -> None:
    adata = counts(genes=[*GENES[:27], *(name.format(g) for g in ("G1", "G2", "G3"))])
    if sparse:
        adata.X = sp.csr_matrix(adata.X)
    ds = read(adata)
    assert set(label_features(ds).by_name) == set(adata.var_names[27:])
    assert "3 of 30 features name the condition" in warnings(ds)


@pytest.mark.parametrize(
    "name", ["G1-AS1", "G1P1", "G100", "HLA-G1", "MT-G2", "G1.2", "G1-DT", "feature_9", "G1-2"]
)
def test_genes_with_similar_names_are_genes(name: str) -> None:
    assert label_features(read(counts(genes=[*GENES[:29], name]))).by_name == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_rare_genes_are_no_labels(rate: float, seed: int) -> None:
    adata = counts(n=20, seed=seed)
    adata.X = np.random.default_rng(seed).binomial(1, rate, adata.shape).astype(np.float32)
    adata.X[:, 0] = 1
    assert label_features(read(adata)).all == {}


@pytest.mark.parametrize("background", [0.0, 0.005])
def test_features_that_are_on_in_one_perturbation(background: float) -> None:
    adata = counts(n=50, genes=[*GENES[:26], "a", "b", "c", "d"])
    rng = np.random.default_rng(0)
    X = adata.X.copy()
    for i, pert in enumerate(PERTS[1:]):
        own = (adata.obs["pert"] == pert).to_numpy()
        X[:, 26 + i] = np.where(own, rng.binomial(1, 0.8, len(X)) * 5, rng.binomial(1, background, len(X)))
    adata.X = X
    found = label_features(read(adata))
    assert found.by_value == dict(zip("abcd", PERTS[1:], strict=True))
    assert found.certain


# ---- scales --------------------------------------------------------------------------------------------------


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


# ---- doses and times -----------------------------------------------------------------------------------------


def test_doses_and_times_are_canonical_in_every_modality() -> None:
    adata = counts(n=8, perts=["control", "imatinib", "G1", "G1+imatinib"])
    dose = {
        "control": [""],
        "imatinib": ["10 uM", "10000 nM", "1e+1 uM", "0.01 mM"],
        "G1": ["2"],
        "G1+imatinib": ["1+1e+1 uM"],
    }
    texts = [dose[p][i % len(dose[p])] for i, p in enumerate(adata.obs["pert"])]
    adata.obs["dose"] = texts
    adata.obs["time"] = ["24h", "1 day", "24 hr", "24.0 hours"] * 8
    adata.obs["how"] = ["drug" if p == "imatinib" else "CRISPRi" for p in adata.obs["pert"]]
    ds = read(adata, dose_col="dose", time_col="time", modality_col="how")
    found = ds.conditions[[schema.PERT_ID, schema.DOSES]].astype(str).itertuples(index=False, name=None)
    assert set(found) == {("imatinib", "10 uM"), ("G1", "2"), ("G1+imatinib", "1 uM+10 uM")}
    assert {parse_covariates(c)["time"] for c in ds.conditions[schema.COVARIATES]} == {"24 h"}


def test_what_cannot_be_read_stays_text_and_is_named() -> None:
    adata = counts(n=2, perts=["control", "imatinib", "JQ1"])
    adata.obs["dose"] = ["", "", "high", "high", "3 drops", "3 drops"]
    adata.obs["time"] = ["1h", "1h", "overnight", "overnight", "5", "5"]
    ds = read(adata, dose_col="dose", time_col="time", modality="drug")
    assert set(ds.conditions[schema.DOSES].astype(str)) == {"high", "3 drops"}
    assert "2 doses have a unit or form that is not known and stay text ('3 drops', 'high')" in warnings(ds)
    assert "1 times have a unit or form" in warnings(ds)


# ---- the command ---------------------------------------------------------------------------------------------


def test_the_command_prints_the_report_and_stores_it(tmp_path: Path) -> None:
    adata = counts(perts=["control", "NT", " G1", "G1", "nan"])
    adata.write_h5ad(tmp_path / "f.h5ad")
    argv = [
        "data",
        "import",
        tmp_path / "f.h5ad",
        "--out",
        tmp_path / "d",
        "--pert-col",
        "pert",
        "--space",
        "counts",
    ]
    refused = attempt(*argv, "--control-label", "control")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert not (tmp_path / "d").exists()
    done = perturbfm(
        *argv,
        "--control-label",
        "control",
        "--control-label",
        "NT",
        "--drop-label",
        "nan",
        "--json",
        warns=True,
    )
    assert done.json["import_report"]["labels_dropped"] == {"nan": 10}
    assert done.json["n_control"] == 20
    assert "warning: labels that differ only in spaces are one" in done.err
    assert (
        perturbfm("data", "info", tmp_path / "d", "--json").json["import_report"]
        == done.json["import_report"]
    )


def test_a_preset_takes_the_options_that_correct_it(tmp_path: Path) -> None:
    adata = counts(perts=["ctrl", "G1_1", "G2_1", "x_y"])
    adata.obs = adata.obs.rename(columns={"pert": "perturbation", "line": "cell_line"})
    adata.write_h5ad(tmp_path / "f.h5ad")
    argv = ["data", "import-scperturb", "--dataset", tmp_path / "f.h5ad", "--control-label", "ctrl"]
    first = perturbfm(*argv, "--out", tmp_path / "a", warns=True)
    assert first.values["n_combos"] == "0"
    table = tmp_path / "alias.csv"
    table.write_text("label,genes\nx_y,G3+G4\n")
    second = perturbfm(
        *argv,
        "--out",
        tmp_path / "b",
        "--aliases",
        table,
        "--guides",
        "separate",
        "--separator",
        "",
        warns=True,
    )
    assert second.values["n_combos"] == "1"
    assert second.values["n_perturbations"] == "3"


def test_a_name_that_the_catalog_would_refuse_is_refused(tmp_path: Path) -> None:
    counts().write_h5ad(tmp_path / "f.h5ad")
    argv = [
        "data",
        "import",
        tmp_path / "f.h5ad",
        "--out",
        tmp_path / "d",
        "--pert-col",
        "pert",
        "--space",
        "counts",
    ]
    refused = attempt(*argv, "--control-label", "control", "--name", "My screen!")
    assert "data set name 'My screen!'" in refused.err
    assert not (tmp_path / "d").exists()


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


def test_names_that_differ_in_signs_are_named() -> None:
    adata = counts(genes=["HLA-DQB1", "H3-5", *GENES[2:]], perts=["control", "HLADQB1", "H35", "G4"])
    assert "2 of the missing ones differ in signs only, H35 is H3-5: --aliases joins" in warnings(read(adata))
    # A letter is no sign.
    assert "signs only" not in warnings(read(counts(perts=["control", "G1\u03b3", "G2"])))


def test_genes_that_are_called_by_numbers_are_named() -> None:
    """What converts files from R leaves the names of the genes of raw in a column `_index`."""
    adata = counts(genes=[str(i) for i in range(30)], perts=["control", "drug A", "drug B"])
    assert warnings(read(adata, modality="drug")) == ""
    adata.var["_index"], adata.var["chromosome"] = GENES, "1"
    said = warnings(read(adata, modality="drug"))
    assert "genes are called by numbers ('0', '1', '2' and 27 more) and var column '_index' has names" in said
    assert warnings(read(adata, modality="drug", gene_col="_index")) == ""
    genetic = counts(genes=[str(i) for i in range(30)])
    genetic.var["names"] = GENES
    assert warnings(read(genetic)).count("--gene-col names") == 1


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
