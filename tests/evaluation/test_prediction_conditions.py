"""Conditions of predictions in other notations: doses, times, further covariates, names with plus signs."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.importing import from_anndata, import_h5ad
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.prediction_conditions import CONTROL_ROW, UNKNOWN, ConditionFinder
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.comparison import compare
from perturbfm_core.pipeline.submission import read_submission
from tests.support.factories import screen, split_one

VALUES = np.asarray([[0.5, -0.5, 0.1, 0, 0, 0], [-0.25, 0.25, 0, 0.3, 0, 0]])


def deltas(ds, split, **labels):
    """Return {condition key: first predicted delta} of a file with two rows."""
    table = pd.DataFrame(VALUES, columns=list(ds.genes))
    for name in reversed(labels):
        table.insert(0, name, labels[name])
    table.to_csv("f.csv", index=False)
    c = compare(ds, split, read_submission(ds, split, Path("f.csv")).prediction)
    return dict(zip(c.conditions.index, c.predicted[:, 0].round(4).tolist(), strict=True))


def drugs(*treatments):
    """Return a screen of treatments of A (columns), each beside one of B."""
    rows = [("control", "x", {}) for _ in range(120)]
    rows += [(p, "x", t) for p in ("A", "B") for t in treatments for _ in range(4)]
    ds = screen(rows, seed=1)
    return ds, split_one(ds, "perturbation_ood", {"holdout": ["A"]})


@pytest.mark.parametrize(
    "doses",
    [
        ["1 uM", "10 uM"],
        ["1uM", "10uM"],
        ["1 µM", "10 μM"],
        ["1000 nM", "1e4 nM"],
        ["0.001 mM", "1e-2mM"],
        ["1.0 UM", "10.0 uM"],
    ],
)
def test_doses_in_any_notation(doses):
    ds, split = drugs({"doses": "1 uM"}, {"doses": "10 uM"})
    wanted = {"x|A||1 uM|": 0.5, "x|A||10 uM|": -0.25}
    assert deltas(ds, split, perturbation=["A", "A"], dose=doses) == wanted
    assert deltas(ds, split, condition=[f"x|A||{d}|" for d in doses]) == wanted
    assert deltas(ds, split, perturbation=["A", "A"], concentration=doses) == wanted


def test_doses_of_another_unit_or_none_are_unknown():
    ds, split = drugs({"doses": "1 uM"}, {"doses": "10 uM"})
    for doses in (["1", "10"], ["1 nM", "10 nM"], ["1 ug/ml", "10 ug/ml"]):
        with pytest.raises(
            PredictionError, match=r"has none of the 2 test conditions.*unknown to the data set"
        ):
            deltas(ds, split, perturbation=["A", "A"], dose=doses)


def test_doses_that_differ_in_notation_alone_have_their_own_keys():
    ds, split = drugs({"doses": "10 uM"}, {"doses": "10000 nM"})
    wanted = {"x|A||10 uM|": 0.5, "x|A||10000 nM|": -0.25}
    assert deltas(ds, split, perturbation=["A", "A"], dose=["10 uM", "10000 nM"]) == wanted
    with pytest.raises(PredictionError, match="fits 2 conditions"):
        deltas(ds, split, perturbation=["A", "A"], dose=["10uM", "10000 nM"])


@pytest.mark.parametrize(
    ("column", "times"),
    [
        ("time", ["24h", "2 days"]),
        ("time", ["1 d", "48 hours"]),
        ("timepoint", ["1440 min", "48 h"]),
        ("covariates", ['{"time": "24h"}', '{"time":"2d"}']),
    ],
)
def test_times_tell_conditions_apart(column, times):
    ds, split = drugs(*({"covariates": f'{{"time":"{t} h"}}'} for t in (24, 48)))
    wanted = {'x|A|||{"time":"24 h"}': 0.5, 'x|A|||{"time":"48 h"}': -0.25}
    assert deltas(ds, split, perturbation=["A", "A"], **{column: times}) == wanted
    with pytest.raises(PredictionError, match="has none of the 2 test conditions"):
        deltas(ds, split, perturbation=["A", "A"], time=["72 h", "96 h"])


@pytest.mark.parametrize(
    ("treatments", "match"),
    [
        (
            [{"doses": "1 uM"}, {"doses": "10 uM"}],
            r"that differ in doses \('1 uM', '10 uM'\); add a column 'doses'",
        ),
        (
            [{"covariates": '{"time":"24 h"}'}, {"covariates": '{"time":"48 h"}'}],
            r"differ in time \('24 h', '48 h'\); add a column 'time'",
        ),
        (
            [{"covariates": '{"sex":"F"}'}, {"covariates": '{"sex":"M"}'}],
            r"differ in sex \('F', 'M'\); add a column 'sex'",
        ),
        (
            [{"modality": "KO"}, {"modality": "OE"}],
            r"differ in modality \('KO', 'OE'\); add a column 'modality'",
        ),
    ],
    ids=["dose", "time", "sex", "modality"],
)
def test_the_field_that_is_lacking_is_named(treatments, match):
    ds, split = drugs(*treatments)
    with pytest.raises(PredictionError, match=match):
        deltas(ds, split, perturbation=["A", "A"])


def test_further_covariates_are_read():
    ds, split = drugs({"covariates": '{"donor":"1","sex":"F"}'}, {"covariates": '{"donor":"2","sex":"F"}'})
    assert deltas(ds, split, perturbation=["A", "A"], donor=["2", "1"], sex="F") == {
        'x|A|||{"donor":"1","sex":"F"}': -0.25,
        'x|A|||{"donor":"2","sex":"F"}': 0.5,
    }
    with pytest.raises(PredictionError, match="has none of the 2 test conditions"):
        deltas(ds, split, perturbation=["A", "A"], donor=["2", "1"], sex="M")


def test_columns_copied_from_the_imported_file():
    """Numbers whose units the import was given, or that are in a column of their own."""
    n = 40
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"drug": ["DMSO"] * 80 + [d for d in ("J", "K") for _ in range(n)], "conc": 0.0, "u": "nM", "t": 24}
    )
    obs.loc[obs["drug"] != "DMSO", "conc"] = [1000.0, 10000.0] * n
    obs["drug"] = obs["drug"].replace({"J": "(+)-JQ1"})
    obs["line"] = "x"
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"G{i}" for i in range(6)])
    anndata.AnnData(rng.poisson(5, (len(obs), 6)).astype("f4"), obs=obs, var=var).write_h5ad("in.h5ad")
    mapping = ColumnMapping(
        pert_col="drug", context_col="line", control_label="DMSO", space="counts", dose_col="conc",
        dose_unit_col="u", time_col="t", time_unit="h", separators=[], modality="drug",
    )  # fmt: skip
    ds = import_h5ad(Path("in.h5ad"), mapping, name="in")
    split = split_one(ds, "perturbation_ood", {"holdout": ["(+)-JQ1"]})
    wanted = {
        'x|(%2B)-JQ1|drug|1 uM|{"time":"24 h"}': 0.5,
        'x|(%2B)-JQ1|drug|10 uM|{"time":"24 h"}': -0.25,
    }
    assert deltas(ds, split, drug="(+)-JQ1", conc=[1000, 10000], u="nM", t=24) == wanted
    assert deltas(ds, split, drug="(+)-JQ1", conc=["1 uM", "10 uM"], t="1 d") == wanted
    with pytest.raises(PredictionError, match="has none of the 2"):
        deltas(ds, split, drug="(+)-JQ1", conc=[1000, 10000], u="nM", t=48)


@pytest.mark.parametrize(
    ("names", "combination"),
    [
        (["(+)-JQ1", "(+)-JQ1+B"], "(%2B)-JQ1+B"),
        (["(%2B)-JQ1", "B+(+)-JQ1"], "(%2B)-JQ1+B"),
        (["(+)-JQ1+ctrl", "B+(%2B)-JQ1"], "(%2B)-JQ1+B"),
    ],
)
def test_names_with_plus_signs(names, combination):
    rows = [("control", "x")] * 120 + [(p, "x") for p in ("(%2B)-JQ1", combination, "B") for _ in range(4)]
    ds = screen(rows)
    split = split_one(ds, "perturbation_ood", {"holdout": ["(+)-JQ1"]})
    wanted = {"x|(%2B)-JQ1|||": 0.5, f"x|{combination}|||": -0.25}
    assert deltas(ds, split, perturbation=names) == wanted
    assert deltas(ds, split, condition=[f"x|{n}|||" for n in names]) == wanted


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("FOO+ctrl", UNKNOWN),
        ("ctrl+FOO", UNKNOWN),
        ("FOO", UNKNOWN),
        ("A+ctrl", 0),
        ("ctrl+ctrl", CONTROL_ROW),
        ("NTC+ctrl", CONTROL_ROW),
        ("Non-Targeting+1", CONTROL_ROW),
    ],
)
def test_a_gene_that_the_data_lack_is_no_control_beside_one(name, position):
    ds, _ = drugs({})
    finder = ConditionFinder(ds.conditions, {}, None, ("pert_id",), Path("f.csv"))
    assert finder.position([name]) == position


def test_doses_of_combinations_follow_their_parts():
    rows = [("control", "x")] * 120
    rows += [
        (p, "x", {"doses": d})
        for p, d in (("A+B", "1 uM+2 uM"), ("A+B", "2 uM+1 uM"), ("B", "1 uM"))
        for _ in range(4)
    ]
    ds = screen(rows)
    split = split_one(ds, "perturbation_ood", {"holdout": ["A"]})
    wanted = {"x|A+B||1 uM+2 uM|": 0.5, "x|A+B||2 uM+1 uM|": -0.25}
    for names, doses in (
        (["A+B", "A+B"], ["1+2 uM", "2000nM+1uM"]),
        (["B+A", "B+A"], ["2uM+1uM", "1 µM+2 µM"]),
    ):
        assert deltas(ds, split, perturbation=names, dose=doses) == wanted


def test_guides_that_the_import_merged_are_their_gene():
    n, perts = 20, ["NT", "G1_1", "G1_2", "G2_1+G3", "G4", "G5"]
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"guide": [p for p in perts for _ in range(n)], "line": "x"})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"G{i}" for i in range(6)])
    anndata.AnnData(rng.poisson(5, (len(obs), 6)).astype("f4"), obs=obs, var=var).write_h5ad("in.h5ad")
    mapping = ColumnMapping(pert_col="guide", context_col="line", control_label="NT", space="counts")
    ds = import_h5ad(Path("in.h5ad"), mapping, name="in")
    split = split_one(ds, "perturbation_ood", {"holdout": ["G1"]})
    assert deltas(ds, split, guide=["G1_1", "G1_2"]) == {"x|G1|||": 0.125}
    assert deltas(ds, split, condition=["x|G1_1|||", "x|G1_2|||"]) == {"x|G1|||": 0.125}
    read = read_submission(ds, split, Path("f.csv"))
    assert read.notes["guides_as_genes"] == 2
    assert any("2 labels of the file name guides" in w and "'G1_1' as 'G1'" in w for w in read.warnings)
    assert deltas(ds, split, guide=["G1", "G3+G2_1"]) == {"x|G1|||": 0.5}
    assert read_submission(ds, split, Path("f.csv")).notes["guides_as_genes"] == 1
    # The same guide twice is still one condition twice, and another guide is unknown.
    with pytest.raises(PredictionError, match="has a row per condition but repeats 1 of them"):
        deltas(ds, split, guide=["G1_1", "G1_1"])
    with pytest.raises(PredictionError, match=r"unknown to the data set, e\.g\. \['G1_3'"):
        deltas(ds, split, guide=["G1_3", "G4"])


@pytest.mark.parametrize(
    ("labels", "mapping"),
    [
        (["NT", "HLA-A-G2", "G3", "G4"], {"separators": "-"}),
        (["neg_ctrl", "HLA-A_neg_ctrl", "HLA-A_G2", "G4"], {"control_label": "neg_ctrl", "separators": "_"}),
        (["N0_N0", "HLA-A_N0", "G2_HLA-A", "G4_N0"], {"control_label": "N0_N0", "separators": "_"}),
        (["NT", "T-1-G2", "G3", "G4"], {"separators": "-", "aliases": {"T-1": "HLA-A"}}),
        (["NT", "HLA-A-(+)-J", "G3", "G4"], {"separators": "-"}),
    ],
)
def test_labels_are_parted_as_the_import_parted_them(labels, mapping):
    n = 30
    obs = pd.DataFrame({"pert": [p for p in labels for _ in range(n)], "line": "x"})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=["G1", "G2", "G3", "G4", "HLA-A", "(+)-J"])
    X = np.random.default_rng(0).poisson(5, (len(obs), 6)).astype("f4")
    adata = anndata.AnnData(X, obs=obs, var=var)
    ds = from_anndata(
        adata,
        **{"pert_col": "pert", "context_col": "line", "control_label": "NT", "space": "counts", **mapping},
    )
    finder = ConditionFinder(
        ds.conditions, ds.metadata.notes["columns"], None, ("pert_id", "context_id"), Path("f.csv")
    )
    keys = ds.obs["pert_id"].astype(str)[::n].tolist()
    assert "HLA-A" in keys[1].split("+")
    found = [finder.position([label, "x"]) for label in labels]
    assert found == [CONTROL_ROW, *(list(ds.conditions["pert_id"]).index(p) for p in keys[1:])]
