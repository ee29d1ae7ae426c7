"""Labels with parts: controls beside genes, genes inside other names, doses; each is decided openly or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.errors import DatasetError
from tests.support.factories import split_one
from tests.support.labelled import GENES, cells, perts, read, report, warned

Write = Callable[..., Path]


# ---- controls as parts, genes inside names -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "control", "separator"),
    [
        (["ctrl+ctrl", "G1+ctrl", "ctrl+G2", "G1+G2"], ("ctrl+ctrl",), "+"),
        (["N0_N0", "G1_N0", "N0_G2", "G1_G2"], ("N0_N0",), "_"),
        (["N0_N0", "G1_N0", "N0_G2", "G1_G2"], ("N0",), "_"),
        (["control", "G1;NT", "G2;NT", "G1;G2"], ("control", "NT"), ";"),
    ],
)
def test_a_control_that_is_a_part_is_no_perturbation(
    labels: list[str], control: tuple[str, ...], separator: str
) -> None:
    ds = read(cells(labels), control_label=control, separators=(separator,))
    assert perts(ds) == ["G1", "G1+G2", "G2"]
    assert int(ds.is_control.sum()) == 4


@pytest.mark.parametrize(
    ("labels", "mapping"),
    [
        (["ctrl+ctrl", "G1+ctrl", "G2"], {"control_label": "ctrl"}),
        (["ctrl", "G1", "G2"], {"control_label": "ctrl"}),
        (["a+b", "G1", "G2+a"], {"control_label": ("a", "b")}),
        (["a+N1", "G1", "G2+N1"], {"control_label": "a", "aliases": {"N1": "control"}}),
    ],
)
def test_rows_whose_parts_are_all_controls_are_untreated(labels: list[str], mapping: dict[str, Any]) -> None:
    adata = cells(labels, dose=[None, "1", "2"], guide=["nt", "x", "y"])
    ds = read(adata, dose_col="dose", dose_unit="uM", guide_col="guide", guides="separate", **mapping)
    assert (perts(ds), int(ds.is_control.sum())) == (["x", "y"], 4)


def test_an_alias_can_name_the_control() -> None:
    ds = read(cells(["control", "N1", "G1+N1"]), aliases={"N1": "control"})
    assert (perts(ds), int(ds.is_control.sum())) == (["G1"], 8)
    assert warned(read(cells(["control", "G1"]), aliases={"g1": "G2"}), "aliases of 'g1' match no label")


def test_controls_as_parts_are_named() -> None:
    assert warned(read(cells(["control", "G1+NT", "G2+NT"])), "'NT' read like controls")


@pytest.mark.parametrize("joint", ["|", ",", "_", " & ", "/", "-", ":"])
def test_several_genes_in_one_name_are_named_with_their_separator(joint: str) -> None:
    ds = read(cells(["control", "G1", "G2", f"G3{joint}G4"]))
    assert warned(ds, f"'G3{joint}G4' have several genes in their names")
    assert warned(ds, f"--separator {joint!r}")
    split = split_one(ds, "perturbation_ood", {"holdout": ["G1"]})
    assert split.definition.params["holdout"] == ["G1"]


@pytest.mark.parametrize(
    "label", ["G3_A", "G3_P1P2", "gG3", "G3sg1", "G3_KO", "10_G3_P1_ENSG1", "CRISPRi_G3"]
)
def test_a_gene_inside_a_name_is_named(label: str) -> None:
    assert warned(read(cells(["control", "G1", label])), f"{label!r} have a gene in their names")


def test_a_gene_with_the_separator_in_its_name_stays_whole() -> None:
    ds = read(cells(["control", "HLA-A", "G1-G2"], genes=[*GENES[:7], "HLA-A"]), separators=("-",))
    assert perts(ds) == ["G1+G2", "HLA-A"]


@pytest.mark.parametrize(
    ("labels", "mapping"),
    [
        (["control", "HLA-A-G2", "G2-HLA-A", "G3"], {"separators": "-"}),
        (["neg_ctrl", "HLA-A_G2", "G3_neg_ctrl", "neg_ctrl_G3"], {"control_label": "neg_ctrl"}),
        (["neg_ctrl_neg_ctrl", "HLA-A_G2", "G3_neg_ctrl"], {"control_label": "neg_ctrl_neg_ctrl"}),
        (["neg_ctrl", "HLA-A_G2", "G3_neg_ctrl"], {"control_label": "neg_ctrl", "split_known_only": True}),
        (["control", "HLA-A_G2", "my_G3"], {"aliases": {"my_G3": "G3"}}),
        (["control", "my_G3_G2_HLA-A", "my_G3"], {"aliases": {"my_G3": "control"}}),
    ],
)
def test_known_names_with_the_separator_in_them_stay_whole_in_combinations(
    labels: list[str], mapping: dict[str, Any]
) -> None:
    adata = cells(labels, genes=[*GENES[:7], "HLA-A"])
    ds = read(adata, **{"control_label": "control", "separators": "_", **mapping})
    assert perts(ds) in (["G2+HLA-A", "G3"], ["G2+HLA-A"])
    assert not warned(ds, "read like controls")


@pytest.mark.parametrize(
    ("first", "second"),
    [("pert", "pert_2"), ("gene_1", "gene_2"), ("guide_A", "guide_B"), ("target1_gene", "target2_gene")],
)
def test_a_column_of_second_perturbations_is_named(first: str, second: str) -> None:
    adata = cells(["control", "G1", "G1"], other=["control", "control", "G2"])
    adata.obs = adata.obs.rename(columns={"pert": first, "other": second})
    text = f"obs column {second!r} varies among perturbed rows and is not read"
    assert warned(read(adata, pert_col=first), text)
    assert not warned(read(adata, pert_col=first, covariate_cols=second), text)
    adata.obs[second] = "none"
    assert not warned(read(adata, pert_col=first), text)


def test_two_guides_of_one_gene_have_one_dose() -> None:
    adata = cells(["control", "G1_1+G1_2", "G2_1+G1_1+G1_2"], dose=["", "2+2", "5+2+2"])
    ds = read(adata, dose_col="dose")
    assert list(ds.conditions.index) == ["a|G1+G2||2+5|", "a|G1||2|", "b|G1+G2||2+5|", "b|G1||2|"]
    adata.obs["dose"] = adata.obs["dose"].replace("2+2", "2+3")
    with pytest.raises(
        DatasetError, match=re.escape("'G1_1+G1_2' has guides of one gene at different doses (2+3)")
    ):
        read(adata, dose_col="dose")
    assert "a|G1_1+G1_2||2+3|" in read(adata, dose_col="dose", guides="separate").conditions.index


def test_what_an_alias_table_says_of_no_label_is_named() -> None:
    ds = read(
        cells(["control", "G1_1", "G2"]), alias_modality={"G1": "KO", "G2": "KO"}, aliases={"G1": "P53"}
    )
    assert warned(ds, "modalities of 'G1' match no label and are not used")
    assert not warned(ds, "aliases of")
    assert "a|P53|||" in ds.conditions.index


def test_parts_that_are_bare_numbers_are_named() -> None:
    assert warned(read(cells(["control", "X9_1_G2", "G1"]), separators=("_",)), "parts that are bare numbers")


@pytest.mark.parametrize(
    ("labels", "joint", "separate"),
    [
        (["G1_1", "G1_2_G2_1", "G2_1_G3"], "_", ["G1_1", "G1_2+G2_1", "G2_1+G3"]),
        (["sgG1_1", "sgG1_2_sgG2_1", "sgG2_1_G3"], "_", ["G3+sgG2_1", "sgG1_1", "sgG1_2+sgG2_1"]),
        (["G1_sg1", "G1_sg2_G2_sg1", "G2_sg1_G3"], "_", ["G1_sg1", "G1_sg2+G2_sg1", "G2_sg1+G3"]),
        (["G1_sg_1", "G1_sg_2_G2_sg_1", "G2_sg_1_G3"], "_", ["G1_sg_1", "G1_sg_2+G2_sg_1", "G2_sg_1+G3"]),
        (["G1-1", "G1-2-G2-1", "G2-1-G3"], "-", ["G1-1", "G1-2+G2-1", "G2-1+G3"]),
    ],
)
@pytest.mark.parametrize("known_only", [False, True])
def test_guides_with_the_separator_in_their_names_stay_whole_in_combinations(
    labels: list[str], joint: str, separate: list[str], known_only: bool
) -> None:
    adata = cells(["control", *labels])
    options = {"separators": joint, "split_known_only": known_only}
    ds = read(adata, **options)
    assert perts(ds) == ["G1", "G1+G2", "G2+G3"]
    assert not warned(ds, "bare numbers")
    assert perts(read(adata, **options, guides="separate")) == separate


@pytest.mark.parametrize(
    ("label", "cure"),
    [
        ("G3-1|G4-2", "--separator '|'"),
        ("G3_1_G4_2", "--separator '_'"),
        ("G3_P1_G3_P2_G4", "--aliases, e.g. G3_P1_G3_P2_G4 as G3+G4"),
        ("x7_G3-1/G4-2", "--separator '/'"),
    ],
)
def test_the_separator_that_is_named_parts_genes_not_their_guides(label: str, cure: str) -> None:
    adata = cells(["control", "G1", label])
    ds = read(adata, guides="separate") if "G3_1" in label else read(adata)
    assert warned(ds, f"{label!r} have several genes in their names")
    assert warned(ds, cure)
    if "--separator" in cure:
        joint = cure.split("'")[1]
        assert not warned(read(adata, separators=(joint,)), "several genes in their names")


def test_doses_in_labels_are_named() -> None:
    ds = read(cells(["control", "JQ1_10uM", "JQ1_1uM", "Nutlin 5 nM"]), modality="drug")
    assert warned(ds, "hold a dose in their names")
    assert not warned(ds, "guides")


@pytest.mark.parametrize("measured", [True, False])
def test_a_gene_whose_name_ends_like_a_molar_dose_holds_none(measured: bool) -> None:
    genes = [*GENES[:7], "B2M"] if measured else None
    adata = cells(["control", "G1", "B2M"]) if genes is None else cells(["control", "G1", "B2M"], genes=genes)
    assert not warned(read(adata), "hold a dose")
    assert warned(read(cells(["control", "NaCl 0.1M"]), modality="drug"), "hold a dose")


def test_drugs_and_cytokines_are_no_guides() -> None:
    assert report(read(cells(["control", "IL-2", "IL-6", "G1_1"]), modality="cytokine"))["warnings"] == []


def test_spellings_of_contexts_and_modalities_are_named() -> None:
    adata = cells(["control", "G1", "G2"], how=["", "CRISPRi", "crispri"])
    adata.obs["line"] = ["a", "A"] * 6
    ds = read(adata, modality_col="how", keep_labels=("",))
    assert warned(ds, "values of 'line' 'A', 'a' differ in upper and lower case only")
    assert warned(ds, "modalities 'CRISPRi', 'crispri' differ")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["IFN-g", "IFN\u2013g"], r"'IFN-g', 'IFN\u2013g'"),
        (["drug A", "drug\u00a0A"], r"'drug A', 'drug\xa0A'"),
        (["caf\u00e9", "cafe\u0301"], r"'cafe\u0301', 'caf\xe9'"),
        (["TNF\u00b5", "TNF\u03bc"], r"'TNF\xb5', 'TNF\u03bc'"),
        (["JQ1", "JQ1\u200b"], r"'JQ1', 'JQ1\u200b'"),
        (["MLN-4924", "MLN4924"], r"'MLN-4924', 'MLN4924'"),
        (["TNF-alpha", "TNF alpha"], r"'TNF alpha', 'TNF-alpha'"),
        (["5-FU", "5FU"], r"'5-FU', '5FU'"),
    ],
)
def test_names_that_look_the_same_are_named_by_their_codes(names: list[str], shown: str) -> None:
    ds = read(cells(["control", *names]), modality="drug")
    assert report(ds)["warnings"] == [
        f"perturbations {shown} differ in case, spaces, dashes or forms of letters only; --aliases joins them"
    ]


@pytest.mark.parametrize(
    "name", ["1-Mar", "2-SEP", "Mar-01", "2022-09-02 00:00:00", "2022-09-02", "1/3/2022"]
)
def test_dates_in_place_of_genes_are_named(name: str) -> None:
    ds = read(cells(["control", "G1", name], genes=[*GENES[:7], name]))
    assert warned(ds, f"1 perturbations are called like dates ({name!r})")
    assert warned(ds, f"1 genes are called like dates ({name!r})")


@pytest.mark.parametrize("name", ["MARCH1", "MARCHF1", "SEPT2", "Oct-4", "DEC1", "Sep15", "MAR-1B"])
def test_genes_of_the_months_are_no_dates(name: str) -> None:
    assert not warned(read(cells(["control", "G1", name], genes=[*GENES[:7], name])), "dates")


@pytest.mark.parametrize(("control", "other"), [(True, False), ("NT", "Perturbed"), ("no", "yes")])
def test_states_are_no_perturbations(control: Any, other: Any) -> None:
    ds = read(cells([control, other]), control_label=str(control))
    assert warned(ds, f"'{other}' says whether cells are treated, not with what; --pert-col takes")


def test_contexts_in_the_names_of_perturbations_are_named() -> None:
    adata = cells(["control", "A549_Vorinostat_1.0", "A549_JQ1_0.1", "A5490"])
    adata.obs["line"] = "A549"
    assert warned(
        read(adata, modality="drug"),
        "'A549_JQ1_0.1', 'A549_Vorinostat_1.0' have their context in their names",
    )
    adata.obs["line"] = "A54"
    assert report(read(adata, modality="drug"))["warnings"] == []
    adata = cells(["control", "A549_G1", "G2", "G3"])
    adata.obs["line"] = "A549"
    assert not warned(read(adata), "context in their names")


def test_spike_ins_among_the_genes_are_named() -> None:
    ds = read(cells(["control", "G1"], genes=[*GENES, "ERCC-00002", "ERCC-00171", "ERCC1"]))
    assert warned(ds, "2 genes are spike-ins by their names ('ERCC-00002', 'ERCC-00171')")


def test_many_controls_are_named_by_a_table() -> None:
    guides = [f"non-targeting_{i:05d}" for i in range(9)]
    adata = cells([*guides, "G1"])
    ds = read(adata, control_label=guides[0])
    assert warned(ds, "and 5 more read like controls")
    assert warned(ds, "name them control in the table of --aliases")
    aliases = dict.fromkeys(guides, "control")
    assert read(adata, control_label=guides[0], aliases=aliases).is_control.sum() == 36


def test_the_name_of_the_rows_is_no_column() -> None:
    adata = cells(["control", "G1"])
    adata.obs.index.name = "gene_transcript"
    with pytest.raises(
        DatasetError, match=r"'gene_transcript' \(--pert-col\); its row names are called 'gene_trans"
    ):
        read(adata, pert_col="gene_transcript")


def test_batches_without_controls_are_named() -> None:
    adata = cells(["control", "G1", "G2"], plate=["P0", "P1", "P2"], pool=["P0", "P0", "P1"])
    assert warned(read(adata, batch_col="plate"), "8 of 8 perturbed rows are of batches without control rows")
    assert not warned(read(adata, batch_col="pool"), "batches without")


def test_measured_genes_are_no_controls_whatever_they_are_called() -> None:
    ds = read(cells(["control", "WT1", "CTRL"], genes=[*GENES[:6], "WT1", "CTRL"]))
    assert report(ds)["warnings"] == []


# ---- genes and doses -----------------------------------------------------------------------------------------


AMBIGUOUS = [
    pytest.param([np.nan], [0], id="missing"),
    pytest.param([""], [0], id="empty"),
    pytest.param(["nan"], [0], id="text-that-means-missing"),
    pytest.param([None], [0], id="none"),
    pytest.param(["S7"], [0, 7], id="that-of-another"),
    pytest.param(["S7", None], [0, 1, 7], id="both"),
]


@pytest.mark.parametrize(("names", "by_index"), AMBIGUOUS)
def test_genes_without_a_name_of_their_own_keep_the_index(names: list[object], by_index: list[int]) -> None:
    adata = cells(["control", "S5"])
    symbols = [f"S{i}" for i in range(len(GENES))]
    adata.var["symbol"] = [*names, *symbols[len(names) :]]
    ds = read(adata, gene_col="symbol")
    assert list(ds.genes) == [GENES[i] if i in by_index else symbols[i] for i in range(len(GENES))]
    (warning,) = [w for w in report(ds)["warnings"] if "called by the index of var" in w]
    assert warning.startswith(f"{len(by_index)} of {len(GENES)} genes have no name of their own")


@pytest.mark.parametrize(
    ("index", "names"),
    [
        pytest.param(["S3", *GENES[1:]], [None], id="id-is-the-name-of-another"),
        pytest.param([str(i) for i in range(8)], [None], id="row-numbers"),
        pytest.param(GENES, [None] * 5, id="most"),
    ],
)
def test_genes_without_a_name_are_refused(index: list[str], names: list[object]) -> None:
    adata = cells(["control", "G1"])
    adata.var.index = pd.Index(index)
    adata.var["symbol"] = [*names, *(f"S{i}" for i in range(len(names), 8))]
    with pytest.raises(DatasetError, match=rf"var column 'symbol': {len(names)} of 8 genes have no name"):
        read(adata, gene_col="symbol")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_genes_of_one_name_are_refused_with_the_columns_that_tell_them_apart() -> None:
    adata = cells(["control", "G1"], genes=["G1", "G2", "G2"])
    with pytest.raises(
        DatasetError,
        match=r"1 duplicate gene ids, e.g. \['G2'\]; name .* --gene-col \(none has\), or make",
    ):
        read(adata)
    adata.var["gene_ids"], adata.var["kind"] = ["E1", "E2", "E3"], "gene"
    with pytest.raises(DatasetError, match=r"--gene-col \(gene_ids\)"):
        read(adata)
    assert list(read(adata, gene_col="gene_ids").genes) == ["E1", "E2", "E3"]


def test_features_that_are_no_genes_are_left_out() -> None:
    adata = cells(["control", "G1"], genes=[*GENES[:6], "HTO1", "sgX"])
    adata.var["feature_types"] = ["Gene Expression"] * 6 + ["Antibody Capture", "CRISPR Guide Capture"]
    ds = read(adata)
    assert ds.genes.tolist() == GENES[:6]
    assert report(ds)["features_left_out"] == {"antibody capture": 1, "crispr guide capture": 1}
    assert np.array_equal(ds.values.counts.toarray(), adata.X[:, :6])  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["-666", "-1 uM", "1+-2", "-1+2 uM"])
def test_negative_doses_are_refused(text: str) -> None:
    adata = cells(["control", "G1+G3", "G2"], dose=["-666", text, "1"])
    with pytest.raises(
        DatasetError, match=rf"'dose' \(--dose-col\) has negative doses \('{re.escape(text)}'\), .*row 'r4'"
    ):
        read(adata, dose_col="dose", modality="drug")


@pytest.mark.parametrize("text", ["-666", "-1 h", "24 h & -1 h"])
def test_negative_times_are_refused(text: str) -> None:
    adata = cells(["control", "G1", "G2"], hours=["-666", text, "24"])
    with pytest.raises(
        DatasetError, match=rf"'hours' \(--time-col\) has negative times \('{text}'\), .*row 'r4'"
    ):
        read(adata, time_col="hours")
    assert len(perts(read(cells(["control", "G1"], hours=["-666", "0-24"]), time_col="hours"))) == 1


def test_the_dose_of_a_control_beside_a_drug_is_none() -> None:
    adata = cells(["control", "control+G1", "G1+G2"], dose=["", "0+1", "2+1"])
    ds = read(adata, dose_col="dose", dose_unit="uM", modality="drug")
    assert not warned(ds, "dose 0")
    adata.obs["dose"] = adata.obs["dose"].replace({"2+1": "0+1"})
    assert warned(
        read(adata, dose_col="dose", dose_unit="uM", modality="drug"),
        "4 perturbed rows have dose 0 and stay conditions of their own; are they controls, or these parts none",
    )


@pytest.mark.parametrize("text", ["1E4", "1e4", "1e+4", "10000", "1e4 nM", "1.e4", ".1e5"])
def test_an_exponent_is_no_unit(text: str) -> None:
    adata = cells(["control", "G1", "G2"], dose=["", text, "10000"], unit=["", "nM", "nM"])
    ds = read(adata, dose_col="dose", dose_unit_col="unit")
    assert set(ds.conditions[schema.DOSES].astype(str)) == {"10 uM"}
    adata = cells(["control", "G1", "G2+G3"], dose=["", "1e4", "5+1e4"])
    assert not warned(read(adata, dose_col="dose"), "some doses have a unit")


def test_two_columns_of_times_are_refused() -> None:
    adata = cells(["control", "G1"], time=["early", "late"], hours=["24", "48"])
    with pytest.raises(DatasetError, match="--time-col 'hours' and --covariate-col 'time' would both be"):
        read(adata, time_col="hours", covariate_cols="time")
    assert "time" in read(adata, time_col="time", covariate_cols="time").conditions[schema.COVARIATES].iloc[0]
