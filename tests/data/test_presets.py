"""Files of public collections import by their preset, without naming a column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.artifact import load_dataset
from perturbfm_core.data.importing import read_h5ad
from perturbfm_core.errors import DatasetError
from tests.support.command import perturbfm

GENES = ["TP53", "MDM2", "KLF1", "AHR", "G1", "G2", "G3", "G4"]


def written(
    path: Path, labels: list[str], obs: dict[str, Any], *, counts: bool, var: dict[str, Any] | None = None
) -> Path:
    """Write 25 cells of each label; columns of `obs` are repeated over the cells."""
    n = 25 * len(labels)
    rng = np.random.default_rng(0)
    X = rng.poisson(3.0, (n, len(GENES))).astype(np.float32)
    if not counts:
        X = np.log1p(X / np.maximum(X.sum(axis=1, keepdims=True), 1) * 1e4)
    table = pd.DataFrame({k: np.resize(np.asarray(v), n) for k, v in obs.items()})
    table.insert(0, "label", np.repeat(labels, 25))
    table.index = [f"c{i}" for i in range(n)]
    names = pd.DataFrame(var or {}, index=[f"ENSG{i:011d}" for i in range(len(GENES))] if var else GENES)
    anndata.AnnData(sp.csr_matrix(X), table.rename(columns={"label": obs_name(obs)}), names).write_h5ad(path)
    return path


def obs_name(obs: dict[str, Any]) -> str:
    """Return the name of the column of perturbations, which the file's form decides."""
    return {
        "cell_type": "condition",
        "gem_group": "gene",
        "guide_id": "target_gene",
        "dose": "product_name",
    }[next(iter(obs))]


def perturbations(ds: Any) -> set[str]:
    return set(ds.conditions["pert_id"].astype(str))


def test_gears(tmp_path: Path) -> None:
    path = written(
        tmp_path / "perturb_processed.h5ad",
        ["ctrl", "TP53+ctrl", "ctrl+MDM2", "TP53+MDM2", "KLF1+ctrl"],
        {"cell_type": ["A549"], "dose_val": ["1+1"], "control": [0]},
        counts=False,
        var={"gene_name": GENES},
    )
    ds = read_h5ad(path, preset="gears")
    assert perturbations(ds) == {"TP53", "MDM2", "MDM2+TP53", "KLF1"}
    assert (ds.contexts, list(ds.genes), ds.metadata.space) == (["A549"], GENES, "log1p")
    assert int(ds.is_control.sum()) == 25


@pytest.mark.parametrize("twice", [False, True])
def test_replogle(tmp_path: Path, twice: bool) -> None:
    """Genes that share a name have their Ensembl ids, all others their names."""
    names = [*GENES[:-1], GENES[-2]] if twice else GENES
    path = written(
        tmp_path / "K562_essential_raw_singlecell_01.h5ad",
        ["non-targeting", "TP53", "HLA-A"],
        {"gem_group": [1, 2], "sgID_AB": ["x|y"]},
        counts=True,
        var={"gene_name": names},
    )
    ds = read_h5ad(path, preset="replogle")
    assert perturbations(ds) == {"TP53", "HLA-A"}
    assert list(ds.genes) == ([*GENES[:-2], *(f"ENSG{i:011d}" for i in (6, 7))] if twice else GENES)
    named = [w for w in ds.metadata.notes["import_report"]["warnings"] if "called by the index" in w]
    assert (len(named), bool(named) and named[0].startswith("2 of 8 genes")) == (twice, twice)
    assert (ds.metadata.space, ds.obs["batch_id"].nunique()) == ("counts", 2)
    assert set(ds.conditions["modality"].astype(str)) == {"CRISPRi"}


@pytest.mark.parametrize("lines", [["H1"], ["H1", "HepG2"], None])
def test_virtual_cell_challenge(tmp_path: Path, lines: list[str] | None) -> None:
    columns: dict[str, Any] = {"guide_id": ["CHMP3_P1P2_A|CHMP3_P1P2_B"], "batch": ["Flex_1_01", "Flex_1_02"]}
    if lines:
        columns["cell_type"] = lines
    path = written(tmp_path / "train.h5ad", ["non-targeting", "TP53", "CHMP3"], columns, counts=True)
    ds = read_h5ad(path, preset="vcc")
    assert perturbations(ds) == {"TP53", "CHMP3"}
    assert len(ds.contexts) == len(lines or [1])
    assert ds.values.counts is not None


@pytest.mark.parametrize("batch", ["batch", "batch_var"])
def test_virtual_cell_challenge_2026(tmp_path: Path, batch: str) -> None:
    """Its files call the perturbed gene ``target``."""
    columns: dict[str, Any] = {"guide_id": ["x"], batch: ["1", "2"], "cell_type": ["H1"]}
    path = written(tmp_path / "train.h5ad", ["non-targeting", "TP53", "KLF1"], columns, counts=True)
    table = anndata.read_h5ad(path)
    table.obs = table.obs.rename(columns={"target_gene": "target"})
    table.write_h5ad(path)
    ds = read_h5ad(path, preset="vcc")
    assert perturbations(ds) == {"TP53", "KLF1"}
    assert (ds.contexts, ds.obs["batch_id"].nunique()) == (["H1"], 2)
    assert int(ds.is_control.sum()) == 25


def test_sciplex_keeps_drug_names_whole(tmp_path: Path) -> None:
    path = written(
        tmp_path / "sciplex3.h5ad",
        ["Vehicle", "(+)-JQ1", "Trametinib (GSK1120212)", "A+B mix"],
        {"dose": [10.0, 1000.0], "cell_type": ["A549"], "time_point": [24.0]},
        counts=True,
    )
    ds = read_h5ad(path, preset="sciplex")
    table = ds.conditions
    assert len(perturbations(ds)) == 3
    assert set(table["modality"].astype(str)) == {"drug"}
    assert set(table["doses"].astype(str)) == {"0.01 uM", "1 uM"}


@pytest.mark.parametrize("preset", ["gears", "replogle", "vcc", "sciplex"])
def test_a_file_of_another_collection_is_refused_with_its_columns(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "other.h5ad"
    anndata.AnnData(
        np.ones((4, 2), dtype=np.float32), pd.DataFrame({"mystery": list("abcd")}, index=list("abcd"))
    ).write_h5ad(path)
    with pytest.raises(DatasetError, match=r"no .* column as .* columns with values: mystery") as caught:
        read_h5ad(path, preset=preset)
    assert "\n" not in str(caught.value)


# ---- columns with missing values -----------------------------------------------------------------------------

LABELS = {
    "scperturb": ("perturbation", "control", "cell_line"),
    "sciplex": ("product_name", "Vehicle", "cell_type"),
    "replogle": ("gene", "non-targeting", "cell_line"),
    "vcc": ("target_gene", "non-targeting", "cell_line"),
    "gears": ("condition", "ctrl", "cell_type"),
    "perturbench": ("condition", "control", "cell_type"),
}


def collection(path: Path, preset: str, control: str | None = None, **columns: Any) -> Path:
    """Write a file of a collection: 10 controls, then 10 rows each of TP53 and MDM2; `columns` are of all rows."""
    pert, own, context = LABELS[preset]
    labels = np.repeat([own if control is None else control, "TP53", "MDM2"], 10)
    table = pd.DataFrame({pert: labels, context: "A549", **columns}, index=[f"c{i}" for i in range(30)])
    X = np.random.default_rng(0).poisson(3.0, (30, len(GENES))).astype(np.float32)
    if preset in ("gears", "perturbench"):
        X = np.log1p(X / np.maximum(X.sum(axis=1, keepdims=True), 1) * 1e4)
    anndata.AnnData(X, table, pd.DataFrame(index=GENES)).write_h5ad(path)
    return path


def treated(*values: Any, control: Any = None) -> list[Any]:
    """Return values of 20 treated rows in turn, after those of 10 controls."""
    return [control] * 10 + [values[i % len(values)] for i in range(20)]


def test_vehicles_need_neither_dose_nor_unit_nor_time(tmp_path: Path) -> None:
    path = collection(
        tmp_path / "f.h5ad",
        "sciplex",
        dose=treated(1.0, 10.0),
        dose_unit=treated("uM"),
        time_point=treated(24, 24, 72, 72),
    )
    table = read_h5ad(path, preset="sciplex").conditions
    assert set(table["doses"].astype(str)) == {"1 uM", "10 uM"}
    assert table["covariates"].nunique() == 2


@pytest.mark.parametrize(
    ("unit", "dose"), [([np.nan] * 30, "0.01 uM"), (treated(None, control="uM"), None), (treated("uM", None), None)]
)  # fmt: skip
def test_a_unit_is_never_guessed_where_some_rows_have_one(
    tmp_path: Path, unit: list[Any], dose: str | None
) -> None:
    path = collection(tmp_path / "f.h5ad", "sciplex", dose=treated(10.0), dose_unit=unit)
    if dose is None:
        with pytest.raises(DatasetError, match=r"'dose_unit' \(--dose-unit-col\) has \d+ missing values"):
            read_h5ad(path, preset="sciplex")
    else:
        assert set(read_h5ad(path, preset="sciplex").conditions["doses"].astype(str)) == {dose}


@pytest.mark.parametrize("preset", LABELS)
def test_an_incomplete_context_is_refused_and_no_other_column_taken(tmp_path: Path, preset: str) -> None:
    context = LABELS[preset][2]
    others = {c: "x" for c in ("cell_line", "cell_type", "tissue_type") if c != context}
    path = collection(tmp_path / "f.h5ad", preset, **{context: ["A549"] * 29 + [None]}, **others)
    with pytest.raises(
        DatasetError, match=rf"'{context}' \(--context-col\) has 1 missing values, first in row 'c29'"
    ):
        read_h5ad(path, preset=preset)


@pytest.mark.parametrize(
    ("preset", "column"),
    [("scperturb", "batch"), ("sciplex", "replicate"), ("replogle", "gem_group"), ("vcc", "batch")],
)
def test_an_incomplete_batch_is_refused(tmp_path: Path, preset: str, column: str) -> None:
    path = collection(tmp_path / "f.h5ad", preset, **{column: [None, *["1", "2"] * 14, "1"]})
    with pytest.raises(
        DatasetError, match=rf"'{column}' \(--batch-col\) has 1 .*`perturbfm data import` without"
    ):
        read_h5ad(path, preset=preset)


def test_controls_of_perturbench_need_no_treatment(tmp_path: Path) -> None:
    path = collection(tmp_path / "f.h5ad", "perturbench", treatment=treated("none", "none", "ifn", "ifn"))
    assert read_h5ad(path, preset="perturbench").conditions["covariates"].nunique() == 2


@pytest.mark.parametrize("preset", LABELS)
def test_missing_perturbations_of_a_preset_can_be_left_out(tmp_path: Path, preset: str) -> None:
    path = collection(tmp_path / "f.h5ad", preset)
    table = anndata.read_h5ad(path)
    pert = LABELS[preset][0]
    table.obs[pert] = [None if i > 24 else x for i, x in enumerate(table.obs[pert])]
    table.write_h5ad(path)
    with pytest.raises(DatasetError, match=rf"'{pert}' \(--pert-col\) has 5 missing .*--drop-label nan"):
        read_h5ad(path, preset=preset)
    ds = read_h5ad(path, preset=preset, drop_labels="nan")
    assert (ds.n_obs, perturbations(ds)) == (25, {"TP53", "MDM2"})


def test_another_control_label_needs_no_dose_either(tmp_path: Path) -> None:
    path = collection(
        tmp_path / "f.h5ad", "scperturb", "DMSO", dose_value=treated(10.0), dose_unit=treated("nM")
    )
    ds = read_h5ad(path, preset="scperturb", control_label="DMSO")
    assert set(ds.conditions["doses"].astype(str)) == {"0.01 uM"}


# ---- treatments beside the perturbation ----------------------------------------------------------------------


def within(column: str, *, treatments: tuple[str, str] = ("none", "ifn"), **more: Any) -> dict[str, Any]:
    """Return a column of two treatments, each with controls and with treated rows, and further columns."""
    return {column: [treatments[i % 2] for i in range(30)], **more}


@pytest.mark.parametrize(
    ("preset", "column", "more", "batch"),
    [
        ("perturbench", "treatment", {}, "treatment"),
        (
            "scperturb",
            "perturbation_2",
            {"perturbation_type": "CRISPR", "perturbation_type_2": "cytokine"},
            None,
        ),
        ("scperturb", "perturbation_2", {"batch": ["1", "2", "3", "4"] * 7 + ["1", "2"]}, "batch"),
        ("scperturb", "perturbation_3", {"batch": ["1"] * 15 + ["2"] * 15}, None),
    ],
)
def test_rows_are_matched_to_the_controls_of_their_treatment(
    tmp_path: Path, preset: str, column: str, more: dict[str, Any], batch: str | None
) -> None:
    """A treatment given beside the perturbation changes controls too; batches within it do as well."""
    path = collection(tmp_path / "f.h5ad", preset, **within(column, **more))
    ds = read_h5ad(path, preset=preset)
    notes = ds.metadata.notes
    assert notes["columns"]["batch_col"] == (batch or column)
    assert {v for t in ds.conditions["covariates"] for v in json.loads(t).items()} == {
        (column, "none"),
        (column, "ifn"),
    }
    assert not any("pooled" in text for text in notes["import_report"]["warnings"])


def test_pooled_controls_are_named_where_batches_do_not_part_them(tmp_path: Path) -> None:
    columns = within("time", batch=["1"] * 5 + ["2"] * 25, time_unit="h")
    path = collection(tmp_path / "f.h5ad", "scperturb", **columns)
    (warning,) = [
        w
        for w in read_h5ad(path, preset="scperturb").metadata.notes["import_report"]["warnings"]
        if "pooled" in w
    ]
    assert "controls with different time ('ifn', 'none')" in warning


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"perturbation_type": "drug", "perturbation_type_2": "drug"}, "they are of the same kind"),
        ({"dose_value": 10.0, "dose_value_2": 5.0}, "they are of the same kind"),
        ({"perturbation_3": ["a", "b"] * 15}, "'perturbation_2' and 'perturbation_3' vary"),
        (
            {
                "perturbation_type": ["nan"] * 10 + ["drug"] * 20,
                "perturbation_type_2": ["drug"] * 10 + ["nan"] * 20,
                "perturbation_2": treated("control", control="B"),
            },
            "they are of the same kind",
        ),
        (
            {"perturbation_2": ["none", "B"] * 5 + ["none"] * 20},
            "some are given to 'control' rows of 'perturbation' alone",
        ),
        (
            {"perturbation_2": treated("none", "ifn", control="none")},
            "some have no 'control' rows of 'perturbation'",
        ),
        ({"perturbation_2": treated("ifn", control=None)}, "and 10 missing values; fill them"),
    ],
)
def test_further_perturbations_are_never_left_out(
    tmp_path: Path, columns: dict[str, Any], match: str
) -> None:
    path = collection(tmp_path / "f.h5ad", "scperturb", **{**within("perturbation_2"), **columns})
    with pytest.raises(DatasetError, match=match) as caught:
        read_h5ad(path, preset="scperturb")
    assert "obs column 'perturbation_2'" in str(caught.value)


def test_two_drugs_with_two_doses_import_as_the_refusal_says(tmp_path: Path) -> None:
    columns = {
        "perturbation_2": treated("control", "B", control="control"),
        "dose_value": treated(10.0, control=0.0),
        "dose_value_2": treated(0.0, 5.0, control=0.0),
        "dose_unit": "nM",
    }
    path = collection(tmp_path / "f.h5ad", "scperturb", **columns)
    with pytest.raises(DatasetError, match="join 'perturbation' and 'perturbation_2' with") as caught:
        read_h5ad(path, preset="scperturb")
    text = str(caught.value)
    assert "'dose_value' and 'dose_value_2' in the same order in a new one 'doses'" in text
    table = anndata.read_h5ad(path)
    obs = table.obs.astype(str)
    table.obs["pert"] = obs["perturbation"] + "+" + obs["perturbation_2"]
    table.obs["doses"] = obs["dose_value"] + "+" + obs["dose_value_2"]
    table.write_h5ad(path)
    argv = text.split("`perturbfm ")[1].rstrip("`").replace("FILE", str(path)).split()
    perturbfm(*argv, "--out", tmp_path / "d", warns=True)
    ds = load_dataset(tmp_path / "d")
    assert int(ds.is_control.sum()) == 10
    found = {(p, d) for p, d in ds.conditions[["pert_id", "doses"]].astype(str).to_numpy()}
    assert found == {
        ("MDM2", "0.01 uM"),
        ("TP53", "0.01 uM"),
        ("B+MDM2", "0.005 uM+0.01 uM"),
        ("B+TP53", "0.005 uM+0.01 uM"),
    }


@pytest.mark.parametrize("values", ["control", "ifn", [None, "control", "nan"] * 10, [np.nan] * 30])
def test_a_further_column_that_says_nothing_is_not_used(tmp_path: Path, values: Any) -> None:
    path = collection(tmp_path / "f.h5ad", "scperturb", perturbation_2=values)
    ds = read_h5ad(path, preset="scperturb")
    assert set(ds.conditions["covariates"].astype(str)) == {""}


def test_verbs_of_presets_take_other_columns(tmp_path: Path) -> None:
    path = collection(tmp_path / "f.h5ad", "scperturb", **within("donor", line="HeLa", time=[6, 6, 24] * 10))
    argv = ["data", "import-scperturb", "--dataset", path, "--out", tmp_path / "d", "--modality", "KO"]
    perturbfm(*argv, "--batch-col", "time", "--context-col", "line", "--covariate-col", "donor", warns=True)
    ds = load_dataset(tmp_path / "d")
    assert (ds.contexts, set(ds.conditions["modality"].astype(str))) == (["HeLa"], {"KO"})
    assert set(ds.obs["batch_id"].astype(str)) == {"6", "24"}
    assert set(json.loads(ds.conditions["covariates"].iloc[0])) == {"donor", "time"}


# ---- corrections by hand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ({"covariate_cols": ["donor"]}, ["--covariate-col", "donor"]),
        ({"modality": "KO"}, ["--modality", "KO"]),
        ({"separators": ["&"]}, ["--separator", "&"]),
    ],
    ids=["covariates", "modality", "separators"],
)
def test_python_corrects_a_preset_as_the_command_line_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: dict[str, Any], options: list[str]
) -> None:
    """Covariates are added to those of the preset: without these, conditions of two treatments would be one."""
    monkeypatch.chdir(tmp_path)
    written(
        tmp_path / "f.h5ad",
        ["control", "TP53", "MDM2&KLF1"],
        {
            "cell_type": ["A549"],
            "treatment": ["none", "ifn"],
            "donor": ["a", "a", "b", "b"],
            "perturbation_type": "CRISPRi",
        },
        counts=False,
    )
    perturbfm("data", "import-perturbench", "--dataset", "f.h5ad", "--out", "d", *options, warns=True)
    expected = load_dataset(tmp_path / "d").conditions.index.tolist()
    ds = read_h5ad(tmp_path / "f.h5ad", preset="perturbench", **field)
    assert ds.conditions.index.tolist() == expected
    assert all('"treatment":' in key for key in expected)
    assert len(expected) == (8 if "covariate_cols" in field else 4)
    assert ("A549|KLF1+MDM2" in expected[0]) == ("separators" in field)
    assert ("|KO|" in expected[0]) == ("modality" in field)
