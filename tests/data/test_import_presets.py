"""Import by presets of the forms that data sets are published in, and of real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.data.presets.perturbench import perturbench_mapping
from perturbfm_core.data.presets.scperturb import scperturb_mapping
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import DatasetError
from tests.support.small_files import COUNTS, LOG1P

Write = Callable[..., Path]


# ---- presets ---------------------------------------------------------------------------------------------

PERTURBENCH = {
    "condition": ["control", "B+A", "A", "control"],
    "cell_type": ["K562", "K562", "K562", "K562"],
    "perturbation_type": ["CRISPRa"] * 4,
    "treatment": ["none"] * 4,
    "ncounts": [1, 2, 3, 4],
}
SCPERTURB = {
    "perturbation": ["control", "B_A", "A", "control"],
    "cell_line": ["K562", "K562", "K562", "K562"],
    "perturbation_type": ["drug"] * 4,
    "dose_value": [0.0, 10.0, 10.0, 0.0],
    "dose_unit": ["nM"] * 4,
    "time": [24, 24, 24, 24],
    "gemgroup": [1, 1, 2, 2],
}


def test_perturbench(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, PERTURBENCH)
    ds = import_h5ad(path, perturbench_mapping(path), name="x")
    assert ds.metadata.space == "log1p"
    assert ds.conditions.index.tolist() == ["K562|A+B|CRISPRa||", "K562|A|CRISPRa||"]


def test_perturbench_with_treatments(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, {**PERTURBENCH, "treatment": ["none", "none", "drug", "drug"]})
    ds = import_h5ad(path, perturbench_mapping(path), name="x")
    assert ds.conditions["covariates"].tolist() == ['{"treatment":"none"}', '{"treatment":"drug"}']


@pytest.mark.parametrize(
    ("column", "names"),
    [("condition", "condition, perturbation"), ("cell_type", "cell_type, cell_line, celltype")],
)
def test_perturbench_without(write_h5ad: Write, column: str, names: str) -> None:
    path = write_h5ad(LOG1P, {k: v for k, v in PERTURBENCH.items() if k != column})
    with pytest.raises(
        DatasetError,
        match=rf"column as PerturBench files have it \({names}\); columns with values: .*ncounts",
    ):
        perturbench_mapping(path)


def test_scperturb(write_h5ad: Write) -> None:
    path = write_h5ad(COUNTS, SCPERTURB)
    ds = import_h5ad(path, scperturb_mapping(path), name="x")
    assert ds.metadata.space == "counts"
    assert ds.conditions.index.tolist() == [
        'K562|A+B|drug|0.01 uM+0.01 uM|{"time":"24"}',
        'K562|A|drug|0.01 uM|{"time":"24"}',
    ]
    assert ds.obs["batch_id"].tolist() == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("changed", "mapping"),
    [
        pytest.param(
            {"dose_value": [np.nan, 1.0, 1.0, np.nan], "dose_unit": [None, "nM", "nM", None]},
            {"dose_col": "dose_value", "dose_unit_col": "dose_unit"},
            id="controls-without-dose",
        ),
        pytest.param({"dose_value": [0.0, np.nan, np.nan, 0.0]}, {"dose_col": None}, id="no-doses"),
        pytest.param({"batch": ["a"] * 4}, {"batch_col": "batch"}, id="batch-before-gemgroup"),
        pytest.param({"batch": [np.nan] * 4}, {"batch_col": "gemgroup"}, id="batch-without-values"),
        pytest.param(
            {"cell_line": [np.nan] * 4, "celltype": ["T"] * 4}, {"context_col": "celltype"}, id="next-context"
        ),
    ],
)
def test_scperturb_takes_columns_with_values(
    write_h5ad: Write, changed: dict[str, Any], mapping: dict[str, Any]
) -> None:
    found = scperturb_mapping(write_h5ad(COUNTS, {**SCPERTURB, **changed}))
    assert {k: getattr(found, k) for k in mapping} == mapping


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"dose_unit": ["nM", None, "nM", "nM"]}, r"'dose_unit' \(--dose-unit-col\)", id="some-units"
        ),
        pytest.param(
            {"dose_value": [0.0, np.nan, 1.0, 0.0]}, r"'dose_value' \(--dose-col\)", id="some-doses"
        ),
        pytest.param({"time": [1, 2, np.nan, 3]}, r"'time' \(covariate time\)", id="some-times"),
    ],
)
def test_scperturb_does_not_merge_treatments(
    write_h5ad: Write, changed: dict[str, Any], message: str
) -> None:
    path = write_h5ad(COUNTS, {**SCPERTURB, **changed})
    with pytest.raises(DatasetError, match=f"{message} has 1 missing values, first in row 'r[12]'"):
        import_h5ad(path, scperturb_mapping(path), name="x")


def test_controls_need_no_dose(write_h5ad: Write) -> None:
    path = write_h5ad(COUNTS, {**SCPERTURB, "dose_value": [np.nan, 10.0, 10.0, np.nan]})
    ds = import_h5ad(path, scperturb_mapping(path), name="x")
    assert ds.conditions["doses"].astype(str).tolist() == ["0.01 uM+0.01 uM", "0.01 uM"]


def test_scperturb_without_a_context(write_h5ad: Write) -> None:
    path = write_h5ad(COUNTS, {k: v for k, v in SCPERTURB.items() if k != "cell_line"})
    with pytest.raises(DatasetError, match="no context column as scPerturb files have it"):
        scperturb_mapping(path)


# ---- real files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kang(shared_dir: Path) -> PerturbDataset:
    mapping = ColumnMapping(
        pert_col="condition",
        context_col="context",
        batch_col="donor",
        control_label="control",
        space="counts",
    )
    return import_h5ad(shared_dir / "data" / "sc_kang_ifnb_5celltypes.h5ad", mapping, name="kang")


@pytest.fixture(scope="module")
def l1000(shared_dir: Path) -> PerturbDataset:
    mapping = ColumnMapping(
        pert_col="compound",
        context_col="context",
        dose_col="dose_um",
        dose_unit="uM",
        time_col="time",
        weight_col="n_replicates",
        modality="drug",
        space="zscore",
    )
    return import_h5ad(shared_dir / "data" / "pb_l1000_3drugs_65lines_doses.h5ad", mapping, name="l1000")


def test_kang(kang: PerturbDataset) -> None:
    assert (kang.n_obs, kang.n_genes) == (1556, 1267)
    assert int(kang.is_control.sum()) == 750
    assert kang.conditions["pert_id"].tolist() == ["IFNB"] * 5
    assert kang.values.counts.dtype == np.int32
    table = condition_table(kang)
    assert table.delta["input"].shape == (5, 1267)
    assert table.fallback_rows == 0
    assert table.n.sum() == 806


def test_kang_shares_controls_where_they_are_few(kang: PerturbDataset) -> None:
    shared = dict(zip(kang.controls.contexts, kang.controls.shared.tolist(), strict=True))
    n = kang.obs[kang.is_control].groupby("context_id", observed=False).size()
    assert shared == (n < 100).to_dict()
    assert shared["B cells"] is False
    assert shared["CD8 T cells"] is True
    for context, is_shared in shared.items():
        roles = set(kang.controls.roles[(kang.obs["context_id"] == context).to_numpy() & kang.is_control])
        assert roles == ({0} if is_shared else {1, 2})
    table = condition_table(kang)
    same = [np.array_equal(a, b) for a, b in zip(table.delta["input"], table.delta["reference"], strict=True)]
    assert same == table.shared_control.tolist() == [shared[c] for c in table.conditions["context_id"]]


def test_kang_response_is_that_of_interferon(kang: PerturbDataset) -> None:
    genes = kang.genes.tolist()
    for delta in condition_table(kang).delta["reference"]:
        assert {"ISG15", "IFI6"} <= {genes[j] for j in np.argsort(-delta)[:20]}


@pytest.mark.parametrize("storage", ["npz", "zarr"])
def test_kang_survives_storage(kang: PerturbDataset, tmp_path: Path, storage: str) -> None:
    write_dataset(kang, tmp_path / "kang", storage)
    assert load_dataset(tmp_path / "kang").computed_sha256 == kang.computed_sha256


def test_four_contexts(shared_dir: Path) -> None:
    path = shared_dir / "data" / "sc_norman_mcfaline_4contexts.h5ad"
    mapping = perturbench_mapping(path)
    ds = import_h5ad(path, mapping, name="norman-mcfaline")
    assert (ds.n_obs, ds.n_genes) == (5961, 500)
    assert ds.contexts == ["A172", "T98G", "U87MG", "k562"]
    assert not ds.controls.shared.any()
    assert [int(ds.controls.has_role(r).sum()) for r in ("input", "reference")] == [200, 200]
    perts = ds.conditions["pert_id"]
    assert perts.nunique() == 33
    assert perts[perts.str.contains("+", regex=False)].nunique() == 15
    modality = ds.conditions.groupby("context_id")["modality"].unique().map(list).to_dict()
    assert modality == {"A172": ["CRISPRi"], "T98G": ["CRISPRi"], "U87MG": ["CRISPRi"], "k562": ["CRISPRa"]}
    assert condition_table(ds).delta["input"].shape == (len(ds.conditions), 500)
    dosed = import_h5ad(path, mapping.model_copy(update={"dose_col": "dose"}), name="dosed")
    assert set(dosed.conditions["doses"]) == {"1", "1+1"}
    with pytest.raises(DatasetError, match="looks like counts"):
        import_h5ad(path, mapping.model_copy(update={"layer": "counts"}), name="wrong")


def test_norman_deltas(shared_dir: Path) -> None:
    mapping = ColumnMapping(
        pert_col="condition", context_col="context", modality_col="perturbation_type", space="delta"
    )
    ds = import_h5ad(shared_dir / "data" / "pb_norman_k562_singles_doubles.h5ad", mapping, name="norman")
    assert (ds.n_obs, ds.n_genes, len(ds.conditions)) == (234, 2000, 234)
    assert not ds.is_control.any()
    assert ds.conditions["pert_id"].str.contains("+", regex=False).sum() == 130
    table = condition_table(ds)
    assert table.s2_source == "unknown"
    assert table.shared_control.all()
    first = ds.condition_codes[17]
    assert np.array_equal(table.delta["input"][first], ds.values.delta[17])


def test_l1000_replicates(l1000: PerturbDataset) -> None:
    assert (l1000.n_obs, l1000.n_genes) == (272, 978)
    times = {json.loads(c)["time"] for c in l1000.conditions["covariates"]}
    assert times == {"6 h", "24 h", "6 h & 4 h", "24 h & 4 h"}
    assert set(l1000.conditions["doses"]) == {"0.1 uM", "0.5 uM", "1 uM", "3 uM", "10 uM"}
    columns = [l1000.obs[c].astype(str) for c in ("pert_id", "context_id", "doses", "covariates")]
    sizes = pd.concat(columns, axis=1).value_counts()
    table = condition_table(l1000)
    assert len(table) == len(sizes) < 272
    assert sorted(table.n) == sorted(sizes)
    assert table.s2_source == "replicates"
    assert (table.s2_pert > 0).mean() > 0.99


def test_l1000_replicates_are_weighted(l1000: PerturbDataset) -> None:
    table = condition_table(l1000)
    weight = l1000.obs["weight"].to_numpy()
    uneven = 0
    for i in np.flatnonzero(table.n > 1):
        rows = np.flatnonzero(l1000.conditions.index[l1000.condition_codes] == table.conditions.index[i])
        expected = np.average(l1000.values.delta[rows], axis=0, weights=weight[rows])
        np.testing.assert_allclose(table.delta["input"][i], expected, rtol=1e-4, atol=1e-5)
        uneven += len(set(weight[rows])) > 1
    assert uneven
