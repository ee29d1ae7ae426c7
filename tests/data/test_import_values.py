"""Values and options of an import that contradict each other or themselves; each is named or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.errors import DatasetError
from tests.support.labelled import cells, perts, read, report, warned

Write = Callable[..., Path]


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
@pytest.mark.parametrize("layer", ["logFC", "log2FoldChange", "lfc", "logfoldchanges"])
def test_fold_changes_to_base_2_become_natural_ones(layer: str, form: Any) -> None:
    adata = cells(["G1", "G2", "G3"])
    changes = np.random.default_rng(0).normal(size=adata.shape).astype(np.float32)
    adata.layers[layer] = form(changes)
    adata.layers["half_c"] = changes
    doubt = f"layer {layer!r} of the AnnData object reads like log fold changes"
    options = {"control_label": ()}
    assert warned(read(adata, layer=layer, space="delta", **options), doubt)
    assert not warned(read(adata, layer="half_c", space="delta", **options), "fold changes")
    ds = read(adata, layer=layer, space="log2fc", **options)
    assert report(ds)["scale"] == "log2fc, stored as delta"
    assert (ds.metadata.space, ds.metadata.control_policy) == ("delta", "none")
    assert not warned(ds, "fold changes")
    assert np.allclose(ds.values.delta, changes * np.log(2), rtol=1e-6)
    with pytest.raises(DatasetError, match=r"has no negative value .* which log2fc data have"):
        read(adata, space="log2fc", **options)


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
    for dose, said in (("2 uM+1", True), ("2+1 uM", False), ("2 nM+1 uM", False)):
        both = read(cells(["control", "G1+G2"], dose=["", dose]), dose_col="dose", modality="drug")
        assert warned(both, "some doses have a unit and some have none") == said


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


@pytest.mark.parametrize(
    ("what", "column", "unit"),
    [
        ("dose", "dose_uM", "uM"),
        ("dose", "conc (nM)", "nM"),
        ("dose", "dose", None),
        ("dose", "dose_m", None),
        ("time", "timepoint_hr", "hr"),
        ("time", "days", "days"),
        ("time", "time_h", "h"),
        ("time", "t", None),
    ],
)
def test_a_unit_in_the_name_of_a_column_is_named(what: str, column: str, unit: str | None) -> None:
    adata = cells(["control", "G1", "G2"], **{column: [0.0, 1.0, 2.5]})
    said = f"{what}s have no unit, and obs column {column!r} is called as if they were in {unit}: give --{what}-unit {unit}"
    ds = read(adata, **{f"{what}_col": column})
    assert warned(ds, said) if unit else not warned(ds, "have no unit")
    assert not warned(read(adata, **{f"{what}_col": column, f"{what}_unit": unit or "h"}), "have no unit")
    adata.obs[column] = [f"{x} h" for x in adata.obs[column]]
    assert not warned(read(adata, **{f"{what}_col": column}), "have no unit")
