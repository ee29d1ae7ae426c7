"""Labels of a file: missing text, control labels, separators, guides, aliases, bytes; each is decided openly or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.importing import ColumnMapping, from_anndata, import_h5ad
from perturbfm_core.data.imports.aliases import read_aliases
from perturbfm_core.data.imports.control_names import control_like
from perturbfm_core.data.imports.guides import guides_of_genes, guides_of_unmeasured
from perturbfm_core.data.presets.scperturb import scperturb_mapping
from perturbfm_core.errors import DatasetError
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.view import train_view
from tests.support.factories import split_one
from tests.support.labelled import GENES, cells, perts, read, report, warned

Write = Callable[..., Path]


# ---- text that means missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["nan", "NaN", "NA", "na", "N/A", "None", "<NA>", "", "  ", "null"])
def test_text_that_means_missing_is_refused_with_its_row(text: str) -> None:
    with pytest.raises(
        DatasetError, match=r"'pert' \(--pert-col\) has 4 rows .*first in row 'r4'.*--drop-label"
    ):
        read(cells(["control", text, "G1"]))
    kept = read(cells(["control", text, "G1"]), keep_labels=(text.strip(),)) if text.strip() else None
    assert kept is None or perts(kept) == sorted(["G1", text])
    left = read(cells(["control", text, "G1"]), drop_labels=(text,))
    assert perts(left) == ["G1"]
    assert report(left)["labels_dropped"] == {text.strip(): 4}


@pytest.mark.parametrize(
    ("column", "option", "mapping"),
    [
        ("dose", "--dose-col", {"dose_col": "dose"}),
        ("hours", "covariate time", {"time_col": "hours"}),
        ("batch", "--batch-col", {"batch_col": "batch"}),
        ("how", "--modality-col", {"modality_col": "how"}),
        ("sex", "covariate sex", {"covariate_cols": ("sex",)}),
    ],
)
def test_missing_text_is_refused_in_every_column(column: str, option: str, mapping: dict[str, Any]) -> None:
    adata = cells(["control", "G1", "G2"], **{column: ["1", "nan", "2"]})
    with pytest.raises(
        DatasetError, match=rf"'{column}' \({option}\) has 4 rows with text that means a missing"
    ):
        read(adata, **mapping)


def test_missing_perturbations_can_be_left_out() -> None:
    adata = cells(["control", None, "G1"])
    with pytest.raises(DatasetError, match=r"has 4 missing values, first in row 'r4'; .*--drop-label nan"):
        read(adata)
    assert perts(read(adata, drop_labels=("nan",))) == ["G1"]
    adata.obs["pert"] = adata.obs["pert"].astype("category")
    alone = adata[4:].copy()
    with pytest.raises(
        DatasetError, match=r"missing values.*if they are the controls, take --control-label nan"
    ):
        read(alone)
    assert perts(read(alone, control_label="nan")) == ["G1"]
    assert read(alone, control_label="nan").is_control.sum() == 4
    with pytest.raises(DatasetError, match="--drop-label 'G9' does not occur"):
        read(adata, drop_labels=("nan", "G9"))


@pytest.mark.parametrize(
    "label",
    ["unassigned", "Multiplet", "unknown", "*", "multiple", "no_guide", "Not Assigned", "No feature call"],
)
def test_cells_without_a_known_perturbation_are_named(label: str) -> None:
    assert warned(read(cells(["control", label, "G1"])), f"{label!r} read like cells without a known")


@pytest.mark.parametrize("donor", ["doublet", "unassigned", "DBL", "Negative"])
def test_contexts_of_several_donors_are_named(donor: str) -> None:
    adata = cells(["control", "G1", "G2", "G3"])
    adata.obs["donor"] = ["D1", donor] * (adata.n_obs // 2)
    said = f"contexts {donor!r} read like cells of several or of no known ones"
    assert warned(read(adata, context_col="donor"), said)
    assert not warned(read(adata), said)


# ---- controls ------------------------------------------------------------------------------------------------


def test_several_control_labels_are_all_used() -> None:
    adata = cells(["NT", "AAVS1", " safe ", "G1", "G2+NT"])
    ds = read(adata, control_label=("NT", "AAVS1", "safe"))
    assert perts(ds) == ["G1", "G2"]
    assert int(ds.is_control.sum()) == 12
    with pytest.raises(DatasetError, match="control label 'ROSA26' does not occur"):
        read(adata, control_label=("NT", "ROSA26"))


@pytest.mark.parametrize("given", ["ctrl", " ctrl ", "ctrl  "])
@pytest.mark.parametrize("written", ["ctrl", " ctrl", "ctrl\t"])
def test_spaces_around_the_control_label_do_not_matter(given: str, written: str) -> None:
    ds = read(cells([written, "G1", " G1 "]), control_label=given)
    assert perts(ds) == ["G1"]
    assert int(ds.is_control.sum()) == 4
    assert report(ds)["labels_merged"] == [[" G1 ", "G1"]]


def test_the_control_label_in_another_case_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"'Control' does not occur.*case differ; give 'control'"):
        read(cells(["control", "G1"]), control_label="Control")
    adata = cells(["control", "Control", "G1"])
    with pytest.raises(
        DatasetError, match="4 rows 'Control', which differ from the control label in case only"
    ):
        read(adata)
    assert int(read(adata, control_label=("control", "Control")).is_control.sum()) == 8
    assert "Control" in perts(read(adata, keep_labels=("Control",)))
    assert int(read(adata, aliases={"Control": "control"}).is_control.sum()) == 8


def test_rows_called_control_beside_the_control_label_are_named() -> None:
    adata = cells(["control", "ctrl", "G1+ctrl", "G2"])
    with pytest.raises(
        DatasetError, match="4 rows 'control' beside the control label 'ctrl'; add --control-label 'control'"
    ):
        read(adata, control_label="ctrl")
    assert int(read(adata, control_label=("ctrl", "control")).is_control.sum()) == 8
    assert perts(read(adata, control_label="ctrl", aliases={"control": "G3"})) == ["G1", "G2", "G3"]


@pytest.mark.parametrize(
    "label",
    ["NT", "NTC", "non-targeting", "non_targeting_12", "Nontargeting", "AAVS1", "INTERGENIC3", "DMSO", "safe-targeting",
     "negCtrl", "ctrl_2", "unperturbed", "NegCtrl0", "EGFP", "Vehicle", "siCtrl", "shScramble-2", "sgNegCtrl3", "NO_SITE_12",
     "0Safe_safe_ACOC_204.1", "Media", "no treatment", "luc", "siNC", "veh"],
)  # fmt: skip
def test_labels_that_read_like_controls_are_named(label: str) -> None:
    assert control_like([label, "G1"]) == [label]
    assert warned(read(cells(["control", label, "G1"])), "read like controls")


@pytest.mark.parametrize("name", ["NTRK1", "CTRL9P", "NTN1", "WTAP", "NEGR1", "G1", "CTLA4", "BLANKA", "SHNT2A", "NC2B",
                                  "SHC1", "SIRT1", "SAFB", "Medioresinol", "JQ1 (water soluble)", "JQ1_medium"])  # fmt: skip
def test_genes_are_no_controls(name: str) -> None:
    assert control_like([name]) == []


# ---- separators, brackets, plus signs ------------------------------------------------------------------------


DRUGS = ["(+)-JQ1", "flurbiprofen-(+|-)", "2,4-D", "A|B", "50% EtOH"]


def test_drug_names_stay_whole_without_a_separator(tmp_path: Path) -> None:
    ds = read(cells(["control", *DRUGS]), separators="")
    assert sorted({g for p in perts(ds) for g in pert_genes(p)}) == sorted(DRUGS)
    assert report(ds)["combinations"] == 0
    for storage in ("npz", "zarr"):
        write_dataset(ds, tmp_path / storage, storage=storage)  # type: ignore[arg-type]
        assert load_dataset(tmp_path / storage).conditions.equals(ds.conditions)
    split = split_one(ds, "perturbation_ood", {"holdout": ["(+)-JQ1"]})
    assert len(split.definition.folds.table["test"]) == 2  # type: ignore[union-attr]
    view = train_view(ds, split)
    model = new_model("additive")
    model.fit(view, 0)
    # Every train drug is a single that the model knows by its own effect.
    np.testing.assert_allclose(model.predict(view.query()).mean, view.delta, atol=1e-5)


def test_a_name_is_never_parted_inside_its_brackets() -> None:
    with pytest.raises(DatasetError, match=r"'\(\+\)-JQ1' would be parted inside its brackets.*--separator"):
        read(cells(["control", "(+)-JQ1", "G1"]))


@pytest.mark.parametrize("joint", ["_", ";", "--", " AND ", "|", "."])
def test_any_text_can_separate(joint: str) -> None:
    ds = read(cells(["control", "G1", f"G2{joint}G1", f"control{joint}G3"]), separators=(joint,))
    assert perts(ds) == ["G1", "G1+G2", "G3"]


def test_a_long_separator_must_occur() -> None:
    with pytest.raises(DatasetError, match=r"separator '\+_' occurs in no label"):
        read(cells(["control", "G1", "G2+G1"]), separators=("+_",))


def test_combinations_of_known_perturbations_are_not_kept_whole() -> None:
    with pytest.raises(DatasetError, match=r"'G2\+G1' would be one name although its parts are genes"):
        read(cells(["control", "G1", "G2+G1"]), separators=("_",))


def test_odd_combinations_are_named() -> None:
    assert warned(read(cells(["control", "chr1+top", "G1"])), "1 combinations have no part that is a gene")


# ---- guides --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label", ["G1_1", "G1-2", "G1.3", "sgG1", "sgG1_1", "G1_sg2", "G1-g3", "sgG1-12", "G1 2", "gRNA_G1"]
)
def test_a_guide_is_taken_as_its_gene(label: str) -> None:
    assert guides_of_genes([label], GENES) == {label: "G1"}
    ds = read(cells(["control", label, "G2", f"G2+{label}"]))
    assert perts(ds) == ["G1", "G1+G2", "G2"]
    assert warned(ds, "are taken as their gene")
    apart = read(cells(["control", label, "G2"]), guides="separate")
    assert len(perts(apart)) == 2
    assert perts(apart) != ["G1", "G2"]
    assert apart.metadata.notes["guides"] == {label: "G1"}


@pytest.mark.parametrize("label", ["NKX2-1", "HLA-A", "G9_1", "SGK1", "chr1.100_200", "G1A", "drug_10"])
def test_what_names_no_gene_is_no_guide(label: str) -> None:
    assert guides_of_genes([label], [*GENES, "NKX2"] if label == "none" else GENES) == {}


def test_a_gene_whose_name_ends_in_a_number_is_itself() -> None:
    assert guides_of_genes(["NKX2-1"], ["NKX2", "NKX2-1"]) == {}


@pytest.mark.parametrize("joint", ["-", "."])
def test_a_guide_called_like_the_copy_of_a_gene_is_a_guide(joint: str) -> None:
    """`var_names_make_unique` makes a gene TP53-1, in the file of a screen whose guides are called TP53-1, TP53-2."""
    genes = [*GENES[:6], f"G1{joint}1", "NKX2-1"]
    adata = cells(["control", f"G1{joint}1", f"G1{joint}2", "NKX2-1"], genes=genes)
    assert perts(read(adata)) == ["G1", "NKX2-1"]


def test_possible_guides_of_unmeasured_genes_are_named() -> None:
    assert guides_of_unmeasured(["X_1", "X_2", "Y_1", "G1"], GENES) == {"X_1": "X", "X_2": "X"}
    assert warned(read(cells(["control", "X_1", "X_2"])), "may be guides of one gene")


def test_a_guide_column() -> None:
    adata = cells(["control", "G1", "G1", "G2"], guide=["nt", "g1a", "g1b", "g2a"])
    merged = read(adata, guide_col="guide")
    assert perts(merged) == ["G1", "G2"]
    assert report(merged)["guides"] == "3 guides of 2 genes"
    apart = read(adata, guide_col="guide", guides="separate")
    assert perts(apart) == ["g1a", "g1b", "g2a"]
    assert apart.metadata.notes["guides"] == {"g1a": "G1", "g1b": "G1", "g2a": "G2"}


def test_guides_that_are_numbered_within_their_genes_are_named_with_these() -> None:
    adata = cells(["control", "G1", "G1", "G2", "G2"], guide=["nt", "sg1", "sg2", "sg1", "own"])
    apart = read(adata, guide_col="guide", guides="separate")
    assert perts(apart) == ["G1_sg1", "G2_sg1", "own", "sg2"]
    assert apart.metadata.notes["guides"] == {"G1_sg1": "G1", "G2_sg1": "G2", "own": "G2", "sg2": "G1"}
    merged = read(adata, guide_col="guide")
    assert report(merged)["guides"] == "4 guides of 2 genes"
    assert warned(merged, "('own of G2', 'sg1 of G1', 'sg1 of G2' and 1 more)")
    adata.obs["guide"] = adata.obs["guide"].replace({"own": "G1_sg1"})
    with pytest.raises(DatasetError, match="several guides would be called 'G1_sg1', by gene and guide"):
        read(adata, guide_col="guide", guides="separate")


def test_a_declared_guide_is_parted_only_in_a_combination() -> None:
    labels = ["control", "G1", "G1+control", "G1+G2", "G1+G3"]
    adata = cells(labels, guide=["nt", "G1_+_12", "G1_-_34", "a+b", "pair7"])
    ds = read(adata, guide_col="guide", guides="separate")
    assert perts(ds) == ["G1_%2B_12", "G1_-_34", "a+b", "pair7"]
    assert ds.metadata.notes["guides"] == {
        "G1_+_12": "G1",
        "G1_-_34": "G1",
        "a": "G1",
        "b": "G2",
        "pair7": "G1+G3",
    }
    adata.obs["guide"] = adata.obs["guide"].replace({"a+b": "G1_+_12+G2_+_1"})
    with pytest.raises(DatasetError, match=r"guide 'G1_\+_12\+G2_\+_1' of 'G1\+G2' has 4 parts for 2 genes"):
        read(adata, guide_col="guide", guides="separate")


def test_guides_of_a_combination_belong_to_the_genes_that_they_name() -> None:
    adata = cells(["control", "G1+G2", "G2+G1", "G2"], guide=["nt", "G2_1+G1_1", "G2_1+G1_1", "G2_1"])
    ds = read(adata, guide_col="guide", guides="separate")
    assert perts(ds) == ["G1_1+G2_1", "G2_1"]
    assert ds.metadata.notes["guides"] == {"G1_1": "G1", "G2_1": "G2"}
    assert not warned(ds, "no part that is a gene")


def test_scperturb_parts_only_what_it_knows(tmp_path: Path) -> None:
    adata = cells(["control", "G1_1", "G1_2", "chr1.10_top_two", "G2_G3", "G3"])
    adata.obs = adata.obs.rename(columns={"pert": "perturbation", "line": "cell_line"})
    adata.write_h5ad(tmp_path / "f.h5ad")
    mapping = scperturb_mapping(tmp_path / "f.h5ad")
    ds = import_h5ad(tmp_path / "f.h5ad", mapping, name="x")
    assert perts(ds) == ["G1", "G2+G3", "G3", "chr1.10_top_two"]
    assert warned(ds, "kept whole")
    all_parted = mapping.model_copy(update={"split_known_only": False})
    assert "chr1.10+top+two" in perts(import_h5ad(tmp_path / "f.h5ad", all_parted, name="x"))


# ---- aliases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "label,perturbation,genes,modality\nd1,(+)-JQ1,,drug\ns7,,G1;G2,CRISPRi\n",
        "\ufefflabel;perturbation;genes;modality\r\nd1;(+)-JQ1;;drug\r\ns7;;G1+G2;CRISPRi\r\n",
        "Label\tPerturbation\tGenes\tModality\nd1\t(+)-JQ1\t\tdrug\ns7\t\tG2+G1\tCRISPRi\n",
        "label,perturbation,genes,modality\rd1,(+)-JQ1,,drug\rs7,,G1;G2,CRISPRi\r",
    ],
    ids=["csv", "excel", "tabs", "carriage returns"],
)
def test_an_alias_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, newline="")
    table = read_aliases(tmp_path / "a.csv")
    ds = read(cells(["control", "d1", "s7", "G3"]), aliases=table.perturbation, alias_modality=table.modality)
    rows = set(
        ds.conditions[[schema.PERT_ID, schema.MODALITY]].astype(str).itertuples(index=False, name=None)
    )
    assert rows == {("(%2B)-JQ1", "drug"), ("G1+G2", "CRISPRi"), ("G3", "")}


@pytest.mark.parametrize(
    ("aliases", "labels", "expected"),
    [
        ({"G1": "G2", "G2": "G1"}, ["G1", "G2"], ["G2", "G1"]),
        ({"x": "G1", "G1": "G2"}, ["x", "G1"], ["G1", "G2"]),
        ({"G1": "G2", "G2": "G3"}, ["G1+G2"], ["G2+G3"]),
        ({"pair": "G5+G6"}, ["pair", "pair+G3", "G3"], ["G5+G6", "G3+G5+G6", "G3"]),
        ({"x": "(%2B)-JQ1"}, ["x", "x+G3"], ["(%2B)-JQ1", "(%2B)-JQ1+G3"]),
    ],
    ids=["swap", "chain", "parts", "two genes", "a plus sign"],
)
def test_an_alias_applies_once(aliases: dict[str, str], labels: list[str], expected: list[str]) -> None:
    ds = read(cells(["control", *labels]), aliases=aliases)
    assert ds.obs[schema.PERT_ID].astype(str).tolist() == [
        x for x in ["control", *expected] for _ in range(4)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the columns label and one of"),
        ("name,perturbation\na,b\n", "needs the columns label and one of .*found: name,perturbation"),
        (
            "label;genes\npair;A;B\n",
            r"line 2 has more cells than there are columns \('B' is left over\); put names with ';' in",
        ),
        (
            "label,perturbation\na,b,,\n1,2-DCA,DCA\n",
            r"line 3 has more cells .*'DCA' is left over.*names with ',' in quotes",
        ),
        ("label,perturbation\na,b\na,c\n", "line 3 gives label 'a' a second time"),
    ],
)
def test_a_wrong_alias_table(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_aliases(tmp_path / "a.csv")


# ---- bytes ---------------------------------------------------------------------------------------------------


def test_bytes_are_text_wherever_they_are() -> None:
    adata = cells([b"control", b"G1", "G\u00e9".encode()], batch=[b"x", b"x", b"y"])
    adata.obs["line"] = pd.Categorical(np.asarray([b"a", b"b"], dtype=object)[np.arange(12) % 2])
    adata.var.index = pd.Index([g.encode() for g in GENES], dtype=object)
    adata.obs.index = pd.Index([f"r{i}".encode() for i in range(12)], dtype=object)
    ds = read(adata, batch_col="batch")
    assert perts(ds) == ["G1", "G\u00e9"]
    assert (ds.genes.tolist(), ds.contexts, str(ds.row_ids[0])) == (GENES, ["a", "b"], "r0")
    assert sorted(set(ds.obs["batch_id"])) == ["x", "y"]
    adata.var.index = pd.Index([b"\xff", *GENES[1:]], dtype=object)
    with pytest.raises(DatasetError, match="gene names has bytes that are not UTF-8"):
        read(adata)


def test_dates_and_durations_are_text_that_can_be_read() -> None:
    adata = cells(["control", "G1", "G2"])
    adata.obs["day"] = pd.to_datetime(["2021-01-01", "2021-01-01", "2021-01-02"] * 4)
    adata.obs["after"] = pd.to_timedelta([1, 1.5] * 6, unit="D")
    adata.obs["known"] = adata.obs["after"].astype("category")
    ds = read(adata, batch_col="day", time_col="after", covariate_cols="known")
    assert sorted(set(ds.obs["batch_id"])) == ["2021-01-01", "2021-01-02"]
    assert set(ds.conditions[schema.COVARIATES]) == {
        f'{{"known":"{t}","time":"{t}"}}' for t in ("24 h", "36 h")
    }


def test_labels_that_are_lists_are_refused() -> None:
    adata = cells(["control", "G1"])
    adata.obs["pert"] = pd.Series([[x] for x in adata.obs["pert"]], index=adata.obs_names)
    with pytest.raises(
        DatasetError, match=r"'pert' \(--pert-col\) holds lists, e\.g\. \['control'\]; write each as one text"
    ):
        read(adata)


def test_what_was_imported_is_read_again_from_its_own_anndata() -> None:
    ds = read(cells(["control", "(+)-JQ1", "G1"]), separators="")
    assert perts(from_anndata(ds.to_anndata())) == perts(ds)


def test_mapping_takes_one_control_label_or_several() -> None:
    assert ColumnMapping(pert_col="p", control_label="a").control_label == ("a",)
    assert ColumnMapping(pert_col="p", control_label=["a", "a ", "b"]).control_label == ("a", "b")


@pytest.mark.parametrize("field", ["control_label", "covariate_cols", "keep_labels", "drop_labels", "accept"])
@pytest.mark.parametrize(
    ("given", "texts"),
    [("G1", ("G1",)), (np.array(["G1", "b"]), ("G1", "b")), (0, ("0",)), ([1.0, "b"], ("1", "b")), (True, ("True",))],
    ids=["text", "array", "number", "list", "truth"],
)  # fmt: skip
def test_a_list_takes_one_text_or_number_too(field: str, given: Any, texts: tuple[str, ...]) -> None:
    assert getattr(ColumnMapping(pert_col="p", **{field: given}), field) == texts


def test_labels_that_are_numbers() -> None:
    assert perts(read(cells([0, 1, 2]), control_label=0, drop_labels=2)) == ["1"]


def test_numbers_among_objects_are_those_of_a_column_of_numbers() -> None:
    adata = cells([0.0, 1, "1"], dose=[None, 10.0, "10"])
    adata.obs = adata.obs.astype({"pert": object, "dose": object})
    ds = read(adata, control_label=0, dose_col="dose", dose_unit="uM", batch_col="pert", space="counts")
    assert list(ds.conditions.index) == ["a|1||10 uM|", "b|1||10 uM|"]
    assert sorted(set(ds.obs[schema.BATCH_ID])) == ["0", "1"]
