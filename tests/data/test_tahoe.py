"""Parquet shards of Tahoe-100M import by their preset, some cells at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perturbfm_core.data import tahoe_shards
from perturbfm_core.data.importing import read_h5ad
from perturbfm_core.errors import DatasetError
from tests.support.command import attempt

G = 12
# Tokens are neither in the order of the genes nor without gaps; 1 is that of the marker.
TOKENS = np.random.default_rng(5).permutation(np.arange(3, 3 + 2 * G, 2))
SAMPLES = {
    "s0": ("DMSO_TF", 0.0, "uM"),
    "s1": ("Dasatinib (hydrate)", 0.05, "uM"),
    "s2": ("Dasatinib (hydrate)", 5.0, "uM"),
    "s3": ("8-Hydroxy+quinoline", 5.0, "uM"),
}
LINES = {"CVCL_0023": "A549", "CVCL_0480": "PANC-1"}


class Screen:
    """Counts of cells [N, G], and the folder with their shards and tables."""

    def __init__(self, folder: Path, *, marker: bool = True, row_group: int = 9, twice: bool = False) -> None:
        rng = np.random.default_rng(1)
        n, self.folder = 96, folder
        self.counts = rng.poisson(2.0, (n, G)) * (rng.random((n, G)) < 0.8)
        # A cell without any count is a list without a value.
        self.sample = np.resize(list(SAMPLES), n)
        self.line = np.repeat(list(LINES), n // 2)
        self.plate = np.resize(["plate1", "plate1", "plate1", "plate1", "plate2"], n)
        self.name = [f"cell{i % 48 if twice else i}" for i in range(n)]
        (folder / "data").mkdir(parents=True)
        (folder / "metadata").mkdir()
        for k, rows in enumerate(np.array_split(np.arange(n), 3)):
            self.write(f"train-{k:05d}-of-00003.parquet", rows, marker, row_group)
        self.table(
            "gene", token_id=TOKENS, ensembl_id=[f"ENSG{i:03d}" for i in range(G)], gene_symbol=self.genes
        )
        self.table("sample", sample=list(SAMPLES), drugname_drugconc=[str([t]) for t in SAMPLES.values()])
        self.table("cell_line", Cell_ID_Cellosaur=list(LINES), cell_name=list(LINES.values()))

    genes = tuple(f"GENE{i}" for i in range(G))

    def table(self, what: str, **columns: Any) -> None:
        pd.DataFrame(columns).to_parquet(self.folder / "metadata" / f"{what}_metadata.parquet")

    def write(self, name: str, rows: Any, marker: bool, row_group: int, **changed: Any) -> None:
        genes, values = [], []
        for i in rows:
            there = np.random.default_rng(i).permutation(np.flatnonzero(self.counts[i]))
            genes.append([*([1] if marker else []), *TOKENS[there].tolist()])
            values.append([*([-2.0] if marker else []), *self.counts[i, there].astype(float).tolist()])
        columns = {
            "genes": pa.array(genes, pa.list_(pa.int64())),
            "expressions": pa.array(values, pa.list_(pa.float32())),
            "drug": [SAMPLES[s][0] for s in self.sample[rows]],
            "sample": self.sample[rows].tolist(),
            "BARCODE_SUB_LIB_ID": [self.name[i] for i in rows],
            "cell_line_id": self.line[rows].tolist(),
            "moa-fine": ["unclear"] * len(rows),
            "plate": self.plate[rows].tolist(),
        }
        table = pa.table({k: v for k, v in {**columns, **changed}.items() if v is not None})
        pq.write_table(table, self.folder / "data" / name, row_group_size=row_group)


@pytest.mark.parametrize(
    ("marker", "cells", "row_group"), [(True, 7, 9), (False, 2048, 9), (True, 5, 1000), (True, 1, 4)]
)
def test_cells_are_those_of_the_shards(tmp_path: Path, monkeypatch, marker, cells, row_group) -> None:
    monkeypatch.setattr(tahoe_shards, "_CELLS", cells)
    screen = Screen(tmp_path / "tahoe", marker=marker, row_group=row_group)
    ds = read_h5ad(screen.folder, preset="tahoe", name="t")
    place = {r: i for i, r in enumerate(ds.row_ids)}
    rows = [place[n] for n in screen.name]
    order = np.argsort(TOKENS)
    assert list(ds.genes) == [screen.genes[i] for i in order]
    np.testing.assert_array_equal(ds.values.counts[rows].toarray(), screen.counts[:, order])
    obs = ds.obs.iloc[rows].astype(str)
    assert obs["context_id"].tolist() == [LINES[c] for c in screen.line]
    assert obs["batch_id"].tolist() == screen.plate.tolist()
    # The name of a drug is never parted.
    drugs = [SAMPLES[s][0].replace("+", "%2B") for s in screen.sample]
    wanted = ["control" if drug == "DMSO_TF" else drug for drug in drugs]
    assert obs["pert_id"].tolist() == wanted
    assert set(obs["doses"][obs["pert_id"] != "control"]) == {"0.05 uM", "5 uM"}
    assert (ds.metadata.space, ds.metadata.level) == ("counts", "cell")
    assert set(ds.conditions["modality"].astype(str)) == {"drug"}


def test_a_shard_alone_finds_the_tables_of_its_repository(tmp_path: Path) -> None:
    screen = Screen(tmp_path)
    ds = read_h5ad(screen.folder / "data/train-00001-of-00003.parquet", preset="tahoe")
    assert sorted(ds.row_ids) == sorted(screen.name[32:64])
    assert ds.metadata.source == "train-00001-of-00003.parquet"


def test_what_is_not_unique_or_not_there_has_another_name(tmp_path: Path) -> None:
    screen = Screen(tmp_path, twice=True)
    screen.table("gene", token_id=TOKENS, ensembl_id=[f"E{i}" for i in range(G)], gene_symbol=["same"] * G)
    (tmp_path / "metadata/cell_line_metadata.parquet").unlink()
    screen.plate = np.repeat(["plate1", "plate2"], 48)
    for k, rows in enumerate(np.array_split(np.arange(96), 3)):
        screen.write(f"train-{k:05d}-of-00003.parquet", rows, True, 9)
    ds = read_h5ad(tmp_path, preset="tahoe")
    assert set(ds.genes) == {f"E{i}" for i in range(G)}
    assert set(ds.contexts) == set(LINES)
    assert {"cell0@plate1", "cell0@plate2"} <= set(ds.row_ids)


def test_the_verb_leaves_nothing_but_the_data_set(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Screen(tmp_path / "tahoe")
    done = attempt("data", "import-tahoe", "--dataset", "tahoe", "--out", "D/made", "--json")
    assert done.code == 0, done.err
    assert done.json["n_obs"] == 96
    assert sorted(p.name for p in Path("D").iterdir()) == ["made"]
    again = attempt("data", "import-tahoe", "--dataset", "tahoe", "--out", "D/made")
    assert again.code == 2
    assert "--force" in again.err


FIRST = "train-00000-of-00003.parquet"


def _spoil(screen: Screen, what: str) -> None:
    shard, rows = screen.folder / "data" / FIRST, np.arange(32)
    if what == "damaged":
        shard.write_bytes(shard.read_bytes()[:-200])
    elif what == "another table":
        pd.DataFrame({"a": [1]}).to_parquet(shard)
    elif what == "unknown token":
        screen.table("gene", token_id=TOKENS[1:], ensembl_id=["E"] * (G - 1), gene_symbol=["g"] * (G - 1))
    elif what == "token twice":
        screen.table("gene", token_id=[3] * G, ensembl_id=["E"] * G, gene_symbol=["g"] * G)
    elif what == "unknown sample":
        screen.table("sample", sample=["s0"], drugname_drugconc=[str([SAMPLES["s0"]])])
    elif what == "two drugs":
        both = str([SAMPLES["s1"], SAMPLES["s3"]])
        screen.table("sample", sample=list(SAMPLES), drugname_drugconc=[both] * len(SAMPLES))
    elif what in ("gene", "sample"):
        (screen.folder / f"metadata/{what}_metadata.parquet").unlink()
    elif what == "lengths":
        short = pa.array([[1]] * 32, pa.list_(pa.int64()))
        screen.write(FIRST, rows, True, 9, genes=short)
    elif what == "gene twice":
        token, value = int(TOKENS[0]), pa.list_(pa.float32())
        screen.write(
            FIRST,
            rows,
            False,
            9,
            genes=pa.array([[token, token]] * 32, pa.list_(pa.int64())),
            expressions=pa.array([[1.0, 2.0]] * 32, value),
        )
    elif what == "no list":
        screen.write(FIRST, rows, True, 9, genes=list(range(32)))
    elif what == "no shard":
        for path in (screen.folder / "data").iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("damaged", "cannot be read as Parquet"),
        ("another table", "is no shard of Tahoe-100M: it lacks genes, expressions"),
        ("unknown token", "is not in gene_metadata.parquet"),
        ("token twice", "token_id 3 stands for several genes"),
        ("unknown sample", r"3 samples are not in sample_metadata.parquet, e.g. \['s1'"),
        ("two drugs", "is not one drug with dose and unit"),
        ("gene", "gene_metadata.parquet is not beside"),
        ("sample", "sample_metadata.parquet is not beside"),
        ("lengths", "not of the same length"),
        ("gene twice", "a cell has a gene twice"),
        ("no list", "genes must be a list of numbers in every row"),
        ("no shard", "is no Parquet shard and no folder of some"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, what: str, says: str) -> None:
    screen = Screen(tmp_path)
    _spoil(screen, what)
    with pytest.raises(DatasetError, match=says) as caught:
        read_h5ad(tmp_path, preset="tahoe")
    assert "\n" not in str(caught.value)


def test_an_h5ad_file_is_read_by_another_verb(tmp_path: Path) -> None:
    path = tmp_path / "plate1.h5ad"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(
        DatasetError,
        match=r"is HDF5, not Parquet; read an h5ad file by `perturbfm data import`, .*--dose-col drugname_drugconc --context-col",
    ):
        read_h5ad(path, preset="tahoe")
