"""Labels of a file: missing text, control labels, guides, brackets, aliases; each is decided openly or refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import ColumnMapping, from_anndata, import_h5ad
from perturbfm_core.data.imports.aliases import read_aliases
from perturbfm_core.data.imports.control_names import control_like
from perturbfm_core.data.imports.guides import guides_of_genes, guides_of_unmeasured
from perturbfm_core.data.presets.scperturb import scperturb_mapping
from perturbfm_core.errors import DatasetError
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.view import train_view
from tests.support.factories import split_one

Write = Callable[..., Path]
GENES = [f"G{i}" for i in range(8)]


def cells(labels: Sequence[Any], genes: Sequence[str] = tuple(GENES), **obs: Any) -> anndata.AnnData:
    """Return four cells per label, in two cell lines."""
    each = [x for x in labels for _ in range(4)]
    rng = np.random.default_rng(0)
    table = {"pert": each, "line": ["a", "a", "b", "b"] * len(labels)}
    table |= {k: [x for x in v for _ in range(4)] for k, v in obs.items()}
    X = rng.poisson(3.0, (len(each), len(genes))).astype(np.float32)
    names = [f"r{i}" for i in range(len(each))]
    return anndata.AnnData(X, pd.DataFrame(table, index=names), pd.DataFrame(index=list(genes)))


def read(adata: anndata.AnnData, **mapping: Any) -> PerturbDataset:
    given = {
        "pert_col": "pert",
        "context_col": "line",
        "control_label": "control",
        "space": "counts",
        **mapping,
    }
    return from_anndata(adata, **given)


def perts(ds: PerturbDataset) -> list[str]:
    return sorted(set(ds.conditions[schema.PERT_ID].astype(str)))


def report(ds: PerturbDataset) -> dict[str, Any]:
    return ds.metadata.notes["import_report"]


def warned(ds: PerturbDataset, text: str) -> bool:
    return any(text in w for w in report(ds)["warnings"])


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


@pytest.mark.parametrize("label", ["unassigned", "Multiplet", "unknown"])
def test_cells_without_a_known_perturbation_are_named(label: str) -> None:
    assert warned(read(cells(["control", label, "G1"])), f"{label!r} read like cells without a known")


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


@pytest.mark.parametrize(
    "label",
    ["NT", "NTC", "non-targeting", "non_targeting_12", "Nontargeting", "AAVS1", "INTERGENIC3", "DMSO", "safe-targeting",
     "negCtrl", "ctrl_2", "unperturbed", "NegCtrl0", "EGFP", "Vehicle"],
)  # fmt: skip
def test_labels_that_read_like_controls_are_named(label: str) -> None:
    assert control_like([label, "G1"]) == [label]
    assert warned(read(cells(["control", label, "G1"])), "read like controls")


@pytest.mark.parametrize("name", ["NTRK1", "CTRL9P", "NTN1", "WTAP", "NEGR1", "G1", "CTLA4", "BLANKA"])
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
    ],
    ids=["csv", "excel", "tabs"],
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


def test_parts_that_are_bare_numbers_are_named() -> None:
    assert warned(
        read(cells(["control", "G1_1_G2_2", "G1"]), separators=("_",)), "parts that are bare numbers"
    )


def test_doses_in_labels_are_named() -> None:
    ds = read(cells(["control", "JQ1_10uM", "JQ1_1uM", "Nutlin 5 nM"]), modality="drug")
    assert warned(ds, "hold a dose in their names")
    assert not warned(ds, "guides")


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


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix], ids=["dense", "csr", "csc"])
@pytest.mark.parametrize("space", ["counts", "log1p"])
def test_rows_and_matrices_of_zeros(space: str, form: Any) -> None:
    adata = cells(["control", "G1", "G2"])
    X = adata.X.copy() if space == "counts" else np.log1p(adata.X)
    X[3] = 0
    adata.X = form(X)
    assert warned(read(adata, space=space), "1 of 12 rows are zero in every gene")
    adata.X = form(X * 0)
    with pytest.raises(
        DatasetError, match="X of the AnnData object has no value other than zero in its 12 rows"
    ):
        read(adata, space=space)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_counts_near_the_end_of_their_type_are_named(kind: Any, form: Any) -> None:
    adata = cells(["control", "G1", "G2"])
    X, most = adata.X.astype(np.int64), int(np.iinfo(kind).max)
    X[2, 3] = most // 2
    adata.X = form(X.astype(kind))
    assert report(read(adata))["warnings"] == []
    X[2, 3] = most - 5
    adata.X = form(X.astype(kind))
    assert warned(read(adata), f"counts up to {most - 5:.6g} in a type that ends at {most}")
    adata.X = form(X.astype(np.float32))
    assert report(read(adata))["warnings"] == []


@pytest.mark.parametrize("kept", ["f2", "f4"], ids=["half", "written again"])
def test_counts_that_half_precision_rounded_are_named(kept: str) -> None:
    adata = cells(["control", "G1", "G2"])
    X = adata.X + 2000.0
    adata.X = X.astype("f2").astype(kept)
    # Up to 2,048 nothing is lost.
    assert report(read(adata))["warnings"] == []
    X = X + np.arange(X.size).reshape(X.shape)
    adata.X = X.astype("f2").astype(kept)
    assert warned(
        read(adata), "counts above 2,048, and all are numbers that half precision (float16) can hold"
    )
    adata.X = sp.csr_matrix(X.astype("f4"))
    assert report(read(adata))["warnings"] == []


def test_counts_that_became_negative_are_explained() -> None:
    adata = cells(["control", "G1", "G2"])
    X = adata.X.astype(np.int64)
    X[2, 3] = 200
    adata.X = X.astype(np.int8)
    with pytest.raises(DatasetError, match=r"minimum -56\) in a type that ends at 127.* as int32 or float32"):
        read(adata)


@pytest.mark.parametrize("space", ["delta", "zscore"])
def test_differences_that_are_not_finite_are_refused_with_row_and_gene(space: str) -> None:
    adata = cells(["control", "G1", "G2"])
    adata.X = adata.X - 3
    adata.X[2, 3] = np.inf
    with pytest.raises(DatasetError, match=r"first inf at row 'r2', gene 'G3'; remove or correct them$"):
        read(adata, space=space)


def test_doses_of_zero_and_without_units_are_named() -> None:
    ds = read(cells(["control", "G1", "G2"], dose=["", "0", "1 uM"]), dose_col="dose", modality="drug")
    assert warned(ds, "4 perturbed rows have dose 0")
    assert warned(ds, "some doses have a unit and some have none")


def test_pooled_controls_of_several_times_are_named() -> None:
    adata = cells(["control", "G1", "G2"])
    adata.obs["time"] = ["24 h", "72 h"] * 6
    assert warned(read(adata, time_col="time"), "controls with different time ('24 h', '72 h') are pooled")
    assert not warned(read(cells(["control", "G1"], time=["24 h", "72 h"]), time_col="time"), "pooled")
    # One tissue per context: nothing is pooled.
    adata.obs["tissue"] = adata.obs["line"].map({"a": "lung", "b": "liver"})
    assert not warned(read(adata, covariate_cols=("tissue",)), "pooled")
    adata.obs.loc[adata.obs["line"] == "a", "tissue"] = ["lung", "skin"] * 3
    assert warned(
        read(adata, covariate_cols=("tissue",)), "controls with different tissue ('lung', 'skin') are pooled"
    )


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        (["Gene Expression"] * 6 + ["Peaks"] * 2, 6),
        (["Peaks"] * 8, 8),
        (["Peaks"] * 6 + ["Antibody Capture"] * 2, 6),
    ],
)
def test_peaks_are_features_only_where_no_gene_is(kinds: list[str], left: int) -> None:
    adata = cells(["control", "G1", "G2"])
    adata.var["feature_types"] = kinds
    ds = read(adata)
    assert ds.n_genes == left
    assert warned(ds, "2 peaks") == ("Gene Expression" in kinds)


@pytest.mark.parametrize(
    "modality", ["small_molecule", "Compounds", "cytokines", "trt_cp", "Small-Molecule inhibitors"]
)
def test_a_drug_named_like_a_guide_keeps_its_name(modality: str) -> None:
    adata = cells(["control", "G1-42", "other"], kind=["none", modality, modality])
    assert (
        perts(read(adata, modality_col="kind")) == perts(read(adata, modality=modality)) == ["G1-42", "other"]
    )
    assert perts(read(adata, modality="CRISPRi")) == ["G1", "other"]


def test_ids_of_genes_that_are_numbers_have_no_decimal_point() -> None:
    adata = cells(["control", "7157", "2"])
    adata.var["entrez"] = [7157.0, 2.0, *map(float, range(10, 16))]
    assert list(read(adata, gene_col="entrez").genes[:3]) == ["7157", "2", "10"]
    adata.var["entrez"] = [7157.0, np.nan, *map(float, range(10, 16))]
    with pytest.raises(DatasetError, match="1 of 8 genes have no name"):
        read(adata, gene_col="entrez")


@pytest.mark.parametrize(
    ("label", "cure"),
    [
        ("G1_G2", "import with --separator '_'"),
        ("G1_G2__G1_G2", "name them by --aliases, e.g. G1_G2__G1_G2 as G1+G2"),
        ("G1_G2_G1", "name them by --aliases, e.g. G1_G2_G1 as G1+G2"),
    ],
)
def test_what_is_said_of_a_combination_that_is_one_name_cures_it(label: str, cure: str) -> None:
    adata = cells(["control", "G3", label])
    assert warned(read(adata), cure)
    cured = {"separators": ["_"]} if "separator" in cure else {"aliases": {label: "G1+G2"}}
    assert perts(read(adata, **cured)) == ["G1+G2", "G3"]


@pytest.mark.parametrize("column", [None, "guide"])
def test_guides_of_measured_genes_that_are_kept_apart_are_no_drugs(column: str | None) -> None:
    labels = ["control", "G1_1", "G1_2", "G2_1"]
    adata = cells(["control", "G1", "G1", "G2"] if column else labels, guide=labels)
    ds = read(adata, guides="separate", guide_col=column)
    assert perts(ds) == labels[1:]
    assert not warned(ds, "--modality drug")


# ---- options that contradict each other, or that nothing is there for ----------------------------------------------


def test_two_modalities_are_refused() -> None:
    adata = cells(["control", "G1"], kind=["", "KO"])
    with pytest.raises(
        DatasetError, match="--modality 'drug' and --modality-col 'kind' both say what the modality is"
    ):
        read(adata, modality="drug", modality_col="kind")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dose_unit": "nM"}, "--dose-unit 'nM' is not used: no column of doses is read (--dose-col)"),
        ({"dose_unit_col": "line"}, "--dose-unit-col 'line' is not used: no column of doses"),
        ({"time_unit": "h"}, "--time-unit 'h' is not used: no column of times is read (--time-col)"),
        ({"time_unit": "h", "covariate_cols": "time"}, None),
        (
            {"space": "normalized", "target_sum": 5000},
            "--target-sum 5000 is not used: normalized values keep",
        ),
        ({"target_sum": 5000}, None),
    ],
)
def test_options_of_no_use_are_named(given: dict[str, Any], said: str | None) -> None:
    adata = cells(["control", "G1"], time=[24, 24])
    if given.get("space") == "normalized":
        adata.X = adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4
    ds = read(adata, **given)
    if said is None:
        assert not warned(ds, "is not used")
    else:
        assert warned(ds, said)
