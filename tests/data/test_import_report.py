"""Report of an import: what was read, how it fits together, and what would make numbers wrong."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.condition import parse_covariates
from tests.support.command import attempt, perturbfm
from tests.support.import_reports import GENES, counts, read, report, warnings


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


def test_a_few_genes_with_ensembl_ids_do_not_say_how_the_others_are_called() -> None:
    adata = counts(genes=[*GENES[:25], *(f"ENSG{i:011d}" for i in range(5))], perts=["control", "G1", "PDX9"])
    assert "Ensembl" not in warnings(read(adata))


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
