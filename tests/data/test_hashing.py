"""The content hash: the same for the same cells, another for any other content."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from perturbfm_core.catalog.loading import load_catalog, packaged_folder
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import genes_digest, row_rank_hash, rows_digest
from perturbfm_core.data.importing import from_anndata
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import DatasetError

PACKAGED = load_catalog([packaged_folder()]).datasets

X = np.array([[0.0, 1.5, 0.0], [2.0, 0.0, 0.25], [0.0, 0.0, 1.0], [0.5, 0.0, 0.0]], dtype=np.float32)
COLUMNS: dict[str, list[Any]] = {
    "pert_id": ["control", "A", "A+B", "B"],
    "context_id": ["c1", "c1", "c1", "c1"],
    "batch_id": ["b1", "b1", "b2", "b2"],
    "modality": ["", "KO", "KO", "KO"],
    "doses": ["", "1", "1+2", "2"],
    "covariates": ["", "", '{"time":"6 h"}', ""],
}

Make = Callable[..., PerturbDataset]


@pytest.fixture
def made(make_dataset: Make) -> PerturbDataset:
    return make_dataset(X, **COLUMNS)


def shuffled(ds: PerturbDataset, order: np.ndarray) -> PerturbDataset:
    obs = ds.obs.iloc[order]
    picked = {k: None if M is None else M[order] for k, M in vars(ds.values).items()}
    columns = {c: obs[c].array for c in obs.columns}
    return PerturbDataset(make_obs(columns, list(obs.index)), ds.genes, Values(**picked), ds.metadata)


# ---- what must not change it -----------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["npz", "zarr"])
def test_same_in_either_storage(synth: PerturbDataset, tmp_path: Path, storage: str) -> None:
    metadata = write_dataset(synth, tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    assert metadata.content_sha256 == loaded.computed_sha256 == synth.computed_sha256
    assert len(metadata.content_sha256) == 64
    loaded.verify_content()


@pytest.mark.parametrize("storage", ["npz", "zarr"])
def test_same_for_expression_in_either_storage(made: PerturbDataset, tmp_path: Path, storage: str) -> None:
    write_dataset(made, tmp_path / "a", storage)
    assert load_dataset(tmp_path / "a").computed_sha256 == made.computed_sha256


def test_same_with_rows_shuffled(synth: PerturbDataset, rng: np.random.Generator) -> None:
    other = shuffled(synth, rng.permutation(synth.n_obs))
    assert other.obs.index[0] != synth.obs.index[0]
    assert other.computed_sha256 == synth.computed_sha256


def _explicit_zeros(M: np.ndarray) -> Any:
    rows, columns = np.indices(M.shape).reshape(2, -1)
    return sp.csr_array((M.reshape(-1), (rows, columns)), shape=M.shape)


def _unsorted(M: np.ndarray) -> Any:
    csr = sp.csr_array(M)
    for lo, hi in zip(csr.indptr[:-1], csr.indptr[1:], strict=True):
        csr.indices[lo:hi] = csr.indices[lo:hi][::-1].copy()
        csr.data[lo:hi] = csr.data[lo:hi][::-1].copy()
    return sp.csr_array((csr.data, csr.indices, csr.indptr), shape=M.shape)


def _halves(M: np.ndarray) -> Any:
    csr = sp.csr_array(M)
    return sp.csr_array(
        (np.repeat(csr.data / 2, 2), np.repeat(csr.indices, 2), csr.indptr * 2), shape=M.shape
    )


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(sp.csr_array, id="csr"),
        pytest.param(_explicit_zeros, id="explicit-zeros"),
        pytest.param(_unsorted, id="unsorted-indices"),
        pytest.param(_halves, id="duplicates-summed"),
        pytest.param(lambda M: np.where(M == 0, np.float32(-0.0), M), id="negative-zeros"),
        pytest.param(np.asfortranarray, id="fortran-order"),
    ],
)
def test_same_in_every_form_of_the_matrix(
    made: PerturbDataset, make_dataset: Make, form: Callable[[np.ndarray], Any]
) -> None:
    assert make_dataset(form(X), **COLUMNS).computed_sha256 == made.computed_sha256


def test_same_for_stored_zeros_of_counts(make_dataset: Make) -> None:
    counts = np.array([[0, 3], [1, 0]], dtype=np.int32)
    labels = {"pert_id": ["control", "A"], "metadata": {"space": "counts"}}
    forms = [sp.csr_array(counts), _explicit_zeros(counts), sp.csr_array(counts.astype(np.int64))]
    assert forms[1].nnz == 4
    hashes = {make_dataset(counts, values=Values(counts=M), **labels).computed_sha256 for M in forms}
    assert len(hashes) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_demo_hash_with_blas_threads(tmp_path: Path, threads: int) -> None:
    assert _hash_of_demo(tmp_path, OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads) == (
        PACKAGED["demo"].content_sha256
    )


def test_demo_hash_without_wide_vector_instructions(tmp_path: Path) -> None:
    core = np._core._multiarray_umath
    wide = [f for f in core.__cpu_dispatch__ if core.__cpu_features__.get(f)]
    if not wide:
        pytest.skip("this processor has nothing beyond numpy's baseline to switch off")
    assert _hash_of_demo(tmp_path, NPY_DISABLE_CPU_FEATURES=" ".join(wide)) == PACKAGED["demo"].content_sha256


def _hash_of_demo(folder: Path, **environment: Any) -> str:
    code = (
        "from perturbfm_core.data.simulate import SimulationConfig, simulate\n"
        f"print(simulate(SimulationConfig(name='demo', **{PACKAGED['demo'].synth!r}))[0].computed_sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **{k: str(v) for k, v in environment.items()}},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", sorted(n for n, e in PACKAGED.items() if e.source == "synth"))
def test_catalog_simulations_reproduce(name: str) -> None:
    entry = PACKAGED[name]
    ds, _ = simulate(SimulationConfig(name=name, **entry.synth))
    assert ds.computed_sha256 == entry.content_sha256


def test_name_and_source_do_not_count(make_dataset: Make, made: PerturbDataset) -> None:
    other = make_dataset(X, **COLUMNS, metadata={"name": "other", "source": "elsewhere"})
    assert other.computed_sha256 == made.computed_sha256


# ---- what must change it ---------------------------------------------------------------------------------


def _replace(column: str, row: int, value: str) -> dict[str, list[Any]]:
    changed = {k: list(v) for k, v in COLUMNS.items()}
    changed[column][row] = value
    return changed


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        pytest.param("pert_id", 1, "C", id="perturbation"),
        pytest.param("pert_id", 1, "control", id="control-label"),
        pytest.param("batch_id", 3, "b1", id="batch"),
        pytest.param("modality", 1, "CRISPRi", id="modality"),
        pytest.param("doses", 3, "3", id="dose"),
        pytest.param("covariates", 1, '{"time":"6 h"}', id="covariate"),
    ],
)
def test_changes_with_a_label(
    made: PerturbDataset, make_dataset: Make, column: str, row: int, value: str
) -> None:
    assert make_dataset(X, **_replace(column, row, value)).computed_sha256 != made.computed_sha256


def test_changes_with_the_context(made: PerturbDataset, make_dataset: Make) -> None:
    columns = {**COLUMNS, "context_id": ["c2"] * 4}
    assert make_dataset(X, **columns).computed_sha256 != made.computed_sha256


def test_changes_with_one_value(made: PerturbDataset, make_dataset: Make) -> None:
    other = X.copy()
    other[1, 2] = np.nextafter(np.float32(0.25), np.float32(1))
    assert make_dataset(other, **COLUMNS).computed_sha256 != made.computed_sha256


def test_changes_when_a_value_moves_to_the_next_gene(made: PerturbDataset, make_dataset: Make) -> None:
    other = X.copy()
    other[2] = [0.0, 1.0, 0.0]
    assert make_dataset(other, **COLUMNS).computed_sha256 != made.computed_sha256


def test_changes_when_two_rows_exchange_values(made: PerturbDataset, make_dataset: Make) -> None:
    assert make_dataset(X[[0, 2, 1, 3]], **COLUMNS).computed_sha256 != made.computed_sha256


@pytest.mark.parametrize(
    "option",
    [
        pytest.param({"row_ids": ["r0", "r1", "r2", "other"]}, id="row-id"),
        pytest.param({"genes": ["g0", "g1", "other"]}, id="gene"),
        pytest.param({"genes": ["g0", "g2", "g1"]}, id="genes-exchanged"),
        pytest.param({"weight": [1.0, 1.0, 1.0, 1.0]}, id="weights-given"),
        pytest.param({"values": Values(expression=X, x_control=X)}, id="control-given"),
        pytest.param({"values": Values(expression=X, delta=X)}, id="delta-given"),
    ],
)
def test_the_hash_changes_with_every_option(
    made: PerturbDataset, make_dataset: Make, option: dict[str, Any]
) -> None:
    assert make_dataset(X, **COLUMNS, **option).computed_sha256 != made.computed_sha256


@pytest.mark.parametrize(
    ("perts", "space", "usual"),
    [
        pytest.param(["control", "A", "A", "B"], "log1p", "cell", id="cells"),
        pytest.param(["control", "A", "B", "C"], "log1p", "condition", id="means"),
        pytest.param(["control", "A", "A", "B"], "delta", "condition", id="differences"),
    ],
)
def test_a_level_that_an_import_would_not_take_changes_it(perts: list[str], space: str, usual: str) -> None:
    values = X - np.float32(0.5) if space == "delta" else X
    adata = AnnData(values, obs=pd.DataFrame({"pert": perts}, index=[f"r{i}" for i in range(4)]))
    mapping = {"pert_col": "pert", "control_label": "control", "space": space}
    levels = ("cell", "condition")
    found = {level: from_anndata(adata, **mapping, level=level).computed_sha256 for level in levels}
    assert from_anndata(adata, **mapping).computed_sha256 == found[usual]
    assert len(set(found.values())) == 2


def test_changes_with_one_weight(make_dataset: Make) -> None:
    a = make_dataset(X, **COLUMNS, weight=[1.0, 1.0, 1.0, 1.0])
    b = make_dataset(X, **COLUMNS, weight=[1.0, 1.0, 1.0, 2.0])
    assert a.computed_sha256 != b.computed_sha256


def test_changes_with_the_space(make_dataset: Make) -> None:
    deltas = {"values": Values(delta=X), "pert_id": ["A", "B", "C", "D"]}
    a = make_dataset(X, **deltas, metadata={"space": "delta", "control_policy": "none"})
    b = make_dataset(X, **deltas, metadata={"space": "zscore", "control_policy": "none"})
    assert a.computed_sha256 != b.computed_sha256


def test_counts_at_another_depth_and_other_controls_are_other_data(make_dataset: Make) -> None:
    counts = sp.csr_array(np.arange(12).reshape(4, 3).astype(np.int32))

    def of(**metadata: Any) -> str:
        given = {"space": "counts", "normalization": {"target_sum": 1e4}, **metadata}
        return make_dataset(X, **COLUMNS, values=Values(counts=counts), metadata=given).computed_sha256

    usual = of()
    changed = [
        of(normalization={"target_sum": 1e6}),
        of(normalization={"target_sum": 5e3}),
        of(control_policy="sampled"),
        of(control_seed=1),
    ]
    assert len({usual, *changed}) == 5
    assert of(normalization={"target_sum": 10_000}) == usual


def test_changed_content_is_found_by_verification(made: PerturbDataset, make_dataset: Make) -> None:
    other = make_dataset(X * 2, **COLUMNS, metadata={"content_sha256": made.computed_sha256})
    assert other.content_sha256 == made.computed_sha256
    with pytest.raises(DatasetError, match=f"recorded {made.computed_sha256[:12]}.*import it again"):
        other.verify_content()


# ---- the smaller digests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [genes_digest, rows_digest])
def test_digest_depends_on_names_and_their_order(digest: Callable[[Any], str]) -> None:
    names = [np.array(n) for n in (["a", "b"], ["b", "a"], ["a", "c"], ["ab"])]
    assert len({digest(n) for n in names}) == 4
    assert digest(names[0]) == digest(np.array(["a", "b"], dtype="<U20"))


def test_rank_hash_is_fixed_and_seeded() -> None:
    ids = np.array(["a", "b", "c"])
    assert row_rank_hash(ids, 0).tolist() == row_rank_hash(ids[::-1], 0)[::-1].tolist()
    assert not set(row_rank_hash(ids, 0)) & set(row_rank_hash(ids, 1))
