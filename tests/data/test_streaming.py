"""Data that stay in their file: imported, hashed, written and summed block by block, bit for bit as in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data import stored_rows
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.data.matrix import Values, is_stored
from perturbfm_core.data.table import condition_table
from perturbfm_core.data.table_file import read_table, table_digest, write_table
from perturbfm_core.data.table_shards import merged_table, read_shard, table_shard, write_shard
from perturbfm_core.errors import DatasetError
from tests.support.command import attempt, perturbfm

MAPPING: dict[str, Any] = {
    "pert_col": "pert",
    "context_col": "cell",
    "batch_col": "batch",
    "control_label": "ctrl",
}
ROWS, GENES = 700, 23


def cells(space: str, seed: int = 0) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    counts = np.where(rng.random((ROWS, GENES)) < 0.3, rng.integers(1, 9, (ROWS, GENES)), 0)
    X = counts if space == "counts" else np.log1p(counts * rng.gamma(2.0, 1.0, counts.shape))
    perts = np.asarray(["ctrl", "ctrl", "A", "B", "A+B", "D", "E", "drop"])
    obs = pd.DataFrame(
        {
            "pert": perts[rng.integers(0, len(perts), ROWS)],
            "cell": rng.choice(["x", "y"], ROWS),
            "batch": rng.choice(["1", "2", "3"], ROWS),
            "weight": rng.random(ROWS) + 0.5,
        },
        index=[f"c{i}" for i in range(ROWS)],
    )
    var = pd.DataFrame(
        {"feature_types": ["Gene Expression"] * (GENES - 2) + ["Antibody Capture"] * 2},
        index=[f"G{i}" for i in range(GENES)],
    )
    return anndata.AnnData(X=X.astype(np.float32), obs=obs, var=var)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file be large, and every block small."""
    monkeypatch.setattr(stored_rows, "STREAM_FROM", 1)
    monkeypatch.setattr(stored_rows, "_BLOCK", 500)


@pytest.fixture
def streamed(tmp_path: Path, small_blocks: None) -> Callable[..., tuple[PerturbDataset, PerturbDataset]]:
    """Return a function that imports cells in memory and as a stream."""

    def make(
        space: str = "counts", form: Callable[..., Any] = sp.csr_matrix, **changed: Any
    ) -> tuple[PerturbDataset, PerturbDataset]:
        data = cells(space)
        data.X = form(data.X)
        data.write_h5ad(tmp_path / "file.h5ad", compression="gzip")
        mapping = ColumnMapping(**{**MAPPING, "space": space, **changed})
        one, two = (
            import_h5ad(tmp_path / "file.h5ad", mapping, name="d", stream=stream) for stream in (False, True)
        )
        return one, two

    return make


def unsorted(X: Any) -> sp.csr_matrix:
    """Return CSR whose columns run backwards, with zeros that are stored."""
    csr = sp.csr_matrix(X)
    for i in range(csr.shape[0]):
        row = slice(csr.indptr[i], csr.indptr[i + 1])
        csr.indices[row], csr.data[row] = csr.indices[row][::-1].copy(), csr.data[row][::-1].copy()
    csr.has_sorted_indices = False
    return csr


@pytest.mark.parametrize("form", [sp.csr_matrix, np.asarray, unsorted], ids=["csr", "dense", "unsorted"])
@pytest.mark.parametrize("space", ["counts", "log1p", "log2p1"])
def test_a_streamed_import_is_that_of_memory(
    streamed: Callable[..., Any], tmp_path: Path, space: str, form: Callable[..., Any]
) -> None:
    one, two = streamed(space, form, drop_labels=("drop",))
    main = two.streamed.counts if space == "counts" else two.streamed.expression
    assert is_stored(main)
    assert two.computed_sha256 == one.computed_sha256
    assert two.metadata == one.metadata
    assert table_digest(condition_table(two)) == table_digest(condition_table(one))
    write_dataset(one, tmp_path / "one")
    write_dataset(two, tmp_path / "two")
    loaded = load_dataset(tmp_path / "two")
    assert is_stored(loaded.streamed_expression)
    loaded.verify_content()
    for ds in (loaded, load_dataset(tmp_path / "one")):
        assert table_digest(condition_table(ds)) == table_digest(condition_table(one))
    rows = np.array([5, 3, 3, ds.n_obs - 1])
    picked = loaded.streamed_expression[rows]
    assert np.array_equal(sp.csr_array(picked).toarray(), sp.csr_array(one.expression[rows]).toarray())
    assert np.array_equal(sp.csr_array(loaded.expression).toarray(), sp.csr_array(one.expression).toarray())
    assert loaded.streamed is loaded.values


def test_small_files_are_read_at_once(tmp_path: Path) -> None:
    data = cells("counts")
    data.X = sp.csr_matrix(data.X)
    data.write_h5ad(tmp_path / "file.h5ad")
    ds = import_h5ad(tmp_path / "file.h5ad", ColumnMapping(**MAPPING, space="counts"), name="d", stream=True)
    assert not ds.streamed.stored


@pytest.mark.parametrize("subset", [slice(None), slice(0, 300), slice(1, None, 3)])
def test_tables_of_some_rows(streamed: Callable[..., Any], subset: slice) -> None:
    one, two = streamed()
    rows = np.arange(one.n_obs)[subset]
    assert table_digest(condition_table(two, rows)) == table_digest(condition_table(one, rows))
    # The second time the control pools are known.
    assert table_digest(condition_table(two, rows)) == table_digest(condition_table(one, rows))


def test_damage_in_a_late_block_is_named(streamed: Callable[..., Any], tmp_path: Path) -> None:
    import h5py

    _, two = streamed()
    with h5py.File(tmp_path / "file.h5ad", "r+") as file:
        file["X/indices"][-1] = 10_000
    with pytest.raises(DatasetError, match="index 10000 is outside 0 to 22"):
        _ = two.computed_sha256
    with h5py.File(tmp_path / "file.h5ad", "r+") as file:
        file["X/indices"][-1] = 3
        file["X/data"][-1] = np.nan
    with pytest.raises(DatasetError, match=rf"non-finite values, first nan at row 'c{ROWS - 1}', gene 'G3'"):
        import_h5ad(tmp_path / "file.h5ad", ColumnMapping(**MAPPING, space="counts"), name="d", stream=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_shards_merge_to_the_table_whatever_they_are(
    streamed: Callable[..., Any], tmp_path: Path, seed: int, weighted: bool
) -> None:
    one, two = streamed(**({"weight_col": "weight"} if weighted else {}))
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, one.n_obs), size=rng.integers(1, 9), replace=False))
    bounds = [0, *cuts.tolist(), one.n_obs]
    ranges = list(pairwise(bounds))
    paths = []
    for i in rng.permutation(len(ranges)):
        paths.append(tmp_path / f"part{i}.npz")
        write_shard(paths[-1], table_shard((one, two)[i % 2], *ranges[i]))
    merged = merged_table(one, paths)
    assert table_digest(merged) == table_digest(condition_table(one))
    write_table(tmp_path / "table.npz", merged, one.genes, one.content_sha256)
    assert table_digest(read_table(tmp_path / "table.npz")) == table_digest(merged)


def test_differences_have_shards_too(tmp_path: Path, make_dataset: Callable[..., PerturbDataset]) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4, 5)).astype(np.float32)
    ds = make_dataset(
        X,
        ["A", "B", "A", "C"],
        values=Values(delta=X),
        metadata={"space": "delta", "control_policy": "none", "level": "condition"},
    )
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path, rows in zip(paths, ((0, 1), (1, 4)), strict=True):
        write_shard(path, table_shard(ds, *rows))
    assert table_digest(merged_table(ds, paths)) == table_digest(condition_table(ds))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("permuted", "its order of rows is"),
        ("scaled", "its content is"),
        ("sampled", "its content is"),
    ],
)
def test_shards_of_another_import_of_the_same_cells_are_refused(
    streamed: Callable[..., Any], tmp_path: Path, other: str, what: str
) -> None:
    one, _ = streamed()
    file, options, policy = tmp_path / "file.h5ad", {}, "mean"
    if other == "permuted":
        cells = anndata.read_h5ad(file)
        cells[np.random.default_rng(0).permutation(len(cells))].copy().write_h5ad(file)
    elif other == "scaled":
        options = {"target_sum": 1e6}
    else:
        policy = "sampled"
    two = import_h5ad(
        file, ColumnMapping(**MAPPING, space="counts", **options), name="o", control_policy=policy
    )
    assert (two.content_sha256 == one.content_sha256) == (other == "permuted")
    write_shard(tmp_path / "a", table_shard(one, 0, 300))
    write_shard(tmp_path / "b", table_shard(two, 300, one.n_obs))
    with pytest.raises(DatasetError, match=f"is of another import: {what}"):
        merged_table(one, [tmp_path / "a", tmp_path / "b"])


def test_a_shard_with_groups_of_another_form_is_refused(streamed: Callable[..., Any], tmp_path: Path) -> None:
    one, _ = streamed()
    shard = table_shard(one, 0, one.n_obs)
    for groups in (
        shard.groups - shard.groups[1],
        np.where(shard.groups == shard.groups[1], shard.groups[0], shard.groups),
    ):
        write_shard(tmp_path / "a", replace(shard, groups=groups))
        with pytest.raises(DatasetError, match="does not fit the conditions and genes"):
            merged_table(one, [tmp_path / "a"])


def test_data_that_state_their_controls_have_no_shards(make_dataset: Callable[..., PerturbDataset]) -> None:
    X = np.random.default_rng(0).random(size=(4, 5)).astype(np.float32)
    stated = {"space": "delta", "control_policy": "none", "level": "condition"}
    for values in (Values(delta=X, x_control=X), Values(delta=X, expression=X)):
        ds = make_dataset(X, ["A", "B", "A", "C"], values=values, metadata=stated)
        with pytest.raises(DatasetError, match="made at once, without shards"):
            table_shard(ds, 0, 2)


def test_what_merging_refuses(streamed: Callable[..., Any], tmp_path: Path) -> None:
    one, _ = streamed()
    other = import_h5ad(
        tmp_path / "file.h5ad", ColumnMapping(**{**MAPPING, "batch_col": None}, space="counts"), name="o"
    )
    n = one.n_obs
    for name, ds, rows in (
        ("a", one, (0, 300)),
        ("b", one, (300, n)),
        ("twice", one, (200, 400)),
        ("late", one, (350, n)),
        ("other", other, (300, n)),
    ):
        write_shard(tmp_path / name, table_shard(ds, *rows))
    np.savez(tmp_path / "none.npz", a=np.zeros(3))

    def refused(*names: str) -> str:
        with pytest.raises(DatasetError) as error:
            merged_table(one, [tmp_path / x for x in names])
        return str(error.value)

    assert "rows 300:700 are in no shard" in refused("a")
    assert "rows 300:350 are in no shard" in refused("a", "late")
    assert "rows 0:300 are in no shard" in refused("b")
    assert "rows 200:300 are in two shards" in refused("a", "twice")
    assert "is of another import: its content is" in refused("a", "other")
    assert "holds no shard" in refused("a", "none.npz")
    assert read_shard(tmp_path / "a").start == 0
    with pytest.raises(DatasetError, match="no range of the 700 rows"):
        table_shard(one, 5, 701)


def test_the_verbs(streamed: Callable[..., Any], tmp_path: Path) -> None:
    columns = [
        "--pert-col",
        "pert",
        "--context-col",
        "cell",
        "--batch-col",
        "batch",
        "--control-label",
        "ctrl",
    ]
    one, _ = streamed()
    made = perturbfm(
        "data", "import", "file.h5ad", *columns, "--space", "counts", "--out", "D", "--json", warns=True
    ).json
    assert made["content_sha256"] == one.computed_sha256
    whole = perturbfm("data", "table", "D", "--out", "whole.npz", "--json").json
    assert whole["table_sha256"] == table_digest(condition_table(one))
    perturbfm("data", "table", "D", "--rows", ":100", "--out", "p0.npz")
    perturbfm("data", "table", "D", "--rows", "100:", "--out", "p1.npz")
    merged = perturbfm("data", "merge-tables", "D", "p0.npz", "p1.npz", "--out", "m.npz", "--json").json
    assert merged["table_sha256"] == whole["table_sha256"]
    for i in (1, 2, 3):
        perturbfm("data", "table", "D", "--shard", f"{i}/3", "--out", f"s{i}.npz")
    merged = perturbfm(
        "data", "merge-tables", "D", *[f"s{i}.npz" for i in (3, 1, 2)], "--out", "m.npz", "--json"
    ).json
    assert merged["table_sha256"] == whole["table_sha256"]
    for option, value in (("--rows", "1-5"), ("--rows", "a:b"), ("--shard", "0/3"), ("--shard", "4/3")):
        answer = attempt("data", "table", "D", option, value, "--out", "x.npz")
        assert answer.code == 2
        assert option in answer.err
    assert not Path("x.npz").exists()
    # A table or shard is made again in its place, nothing else is written over.
    perturbfm("data", "table", "D", "--rows", ":100", "--out", "m.npz")
    perturbfm("data", "table", "D", "--out", "m.npz")
    for other in (Path("file.h5ad"), Path("D/meta.json")):
        before = other.read_bytes()
        for verb in (("table", "D"), ("merge-tables", "D", "p0.npz", "p1.npz")):
            answer = attempt("data", *verb, "--out", other)
            assert (answer.code, other.read_bytes()) == (2, before)
            assert "is no table or shard of an earlier call; choose another --out" in answer.err
