"""The data set artifact in both storages, and files that other programs made or broke."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data import artifact
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.simulate import SimulationTruth
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import ConfigError, DatasetError, PerturbFMError, StoreError

Make = Callable[..., PerturbDataset]
STORAGES = ["npz", "zarr"]

OBS: dict[str, list[Any]] = {
    "pert_id": ["DMSO", "B+A", "A"],
    "context_id": ["K562", "K562", "K562"],
    "batch_id": ["b1", "b1", "b2"],
    "is_control": [True, False, False],
}
GENES = ["g1", "g2"]
CONTROL = np.array([[1.0, 2.0], [1.5, 2.0], [1.0, 0.5]], dtype=np.float32)
DELTA = np.array([[0.0, 0.0], [0.5, -1.0], [-1.0, 2.0]], dtype=np.float32)


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an artifact as another program would: the least that is allowed."""

    def write(
        arrays: dict[str, Any], *, obs: Any = None, metadata: Any = None, genes: Any = None, **changed: Any
    ) -> Path:
        path = tmp_path / "foreign"
        path.mkdir()
        meta = {
            "schema_version": 1,
            "obs": OBS if obs is None else obs,
            "var": GENES if genes is None else genes,
            "metadata": {} if metadata is None else metadata,
            **changed,
        }
        kept = {k: v for k, v in meta.items() if v != "absent"}
        (path / "meta.json").write_text(json.dumps(kept))
        np.savez(path / "data.npz", **arrays)
        return path

    return write


def edit_npz(path: Path, **changed: Any) -> None:
    with np.load(path) as archive:
        arrays = dict(archive) | changed
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def matrix(X: Any) -> np.ndarray:
    return X.toarray() if sp.issparse(X) else X


# ---- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip_of_counts(synth: PerturbDataset, tmp_path: Path, storage: str) -> None:
    metadata = write_dataset(synth, tmp_path / "a", storage)
    loaded = load_dataset(str(tmp_path / "a"))
    assert loaded.metadata == metadata
    assert metadata == synth.metadata.model_copy(update={"content_sha256": synth.computed_sha256})
    assert loaded.obs.astype(str).equals(synth.obs.astype(str))
    assert loaded.genes.tolist() == synth.genes.tolist()
    assert (loaded.values.counts != synth.values.counts).nnz == 0
    assert np.array_equal(loaded.controls.roles, synth.controls.roles)
    a, b = condition_table(synth), condition_table(loaded)
    assert np.array_equal(a.delta["reference"], b.delta["reference"])


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip_of_every_column(make_dataset: Make, tmp_path: Path, storage: str) -> None:
    ds = make_dataset(
        np.ones((3, 2), dtype=np.float32),
        ["control", "A+B", "Ä|%"],
        row_ids=["x", "y", "z|ü"],
        context_id=["c 1"] * 3,
        modality=["", "KO", "drug"],
        doses=["", "1+2 uM", "3"],
        covariates=["", '{"sex":"f","time":"6 h"}', ""],
        weight=[1.0, 2.5, 1 / 3],
    )
    write_dataset(ds, tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    assert loaded.obs.astype(str).equals(ds.obs.astype(str))
    assert loaded.obs["weight"].tolist() == [1.0, 2.5, 1 / 3]
    assert loaded.conditions.equals(ds.conditions)
    loaded.verify_content()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
def test_round_trip_of_expression(
    make_dataset: Make, tmp_path: Path, storage: str, form: Callable[..., Any]
) -> None:
    X = np.array([[0.0, 1.5], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    write_dataset(make_dataset(form(X), ["control", "A", "B"]), tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    assert np.array_equal(matrix(loaded.expression), X)
    assert sp.issparse(loaded.expression) == (storage == "zarr" and form is sp.csr_array)


FORMS = {
    "expression-control": ("log1p", {"expression": CONTROL + DELTA, "x_control": CONTROL}),
    "expression-delta": ("log1p", {"expression": CONTROL + DELTA, "delta": DELTA}),
    "delta-control": ("log1p", {"delta": DELTA, "x_control": CONTROL}),
    "all": ("log1p", {"expression": CONTROL + DELTA, "delta": DELTA, "x_control": CONTROL}),
    "delta": ("delta", {"delta": DELTA}),
    "delta-control-declared-delta": ("delta", {"delta": DELTA, "x_control": CONTROL}),
    "all-declared-delta": ("delta", {"expression": CONTROL + DELTA, "delta": DELTA, "x_control": CONTROL}),
    "zscore": ("zscore", {"delta": DELTA}),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("space", "given"), FORMS.values(), ids=FORMS)
def test_round_trip_of_given_controls(
    make_dataset: Make, tmp_path: Path, storage: str, space: str, given: dict[str, np.ndarray]
) -> None:
    ds = make_dataset(
        DELTA, ["A", "B", "C"], values=Values(**given), metadata={"space": space, "control_policy": "file"}
    )
    write_dataset(ds, tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    loaded.verify_content()
    found = {k: X for k, X in vars(loaded.values).items() if X is not None}
    assert set(found) == set(given)
    assert all(np.array_equal(matrix(found[k]), given[k]) for k in given)


def test_npz_holds_the_interchange_form(synth: PerturbDataset, tmp_path: Path) -> None:
    write_dataset(synth, tmp_path / "a", "npz")
    arrays = read_npz(tmp_path / "a" / "data.npz")
    assert set(arrays) == {"X_pert", "X_control", "delta", "obs_idx"}
    assert {k: v.dtype.str for k, v in arrays.items() if k != "obs_idx"} == dict.fromkeys(
        ("X_pert", "X_control", "delta"), "<f4"
    )
    assert arrays["obs_idx"].dtype == np.int64
    assert np.array_equal(arrays["obs_idx"], np.arange(synth.n_obs))
    rows = np.arange(synth.n_obs)
    assert np.array_equal(arrays["X_pert"], synth.expression.toarray())
    assert np.array_equal(arrays["X_control"], synth.x_control(rows))
    assert np.array_equal(arrays["delta"], arrays["X_pert"] - arrays["X_control"])
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    assert set(meta) == {"schema_version", "storage", "obs", "var", "metadata"}
    pair = meta["obs"]["pert_id"].index(next(p for p in meta["obs"]["pert_id"] if "+" in p))
    assert meta["obs"]["pert_genes"][pair] == meta["obs"]["pert_id"][pair].split("+")
    assert meta["obs"]["pert_genes"][meta["obs"]["is_control"].index(True)] == []
    assert meta["metadata"]["content_sha256"] == synth.computed_sha256


def test_zarr_stores_no_dense_matrix(synth: PerturbDataset, tmp_path: Path) -> None:
    import zarr

    write_dataset(synth, tmp_path / "a", "zarr")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["data.zarr", "meta.json"]
    group = zarr.open_group(str(tmp_path / "a" / "data.zarr"), mode="r")
    assert group["X"].attrs["encoding-type"] == "csr_matrix"
    assert group["X/data"].dtype == np.int32
    assert list(group["layers"]) == []


def test_zarr_is_an_anndata_file(synth: PerturbDataset, tmp_path: Path) -> None:
    import anndata

    write_dataset(synth, tmp_path / "a", "zarr")
    data = anndata.read_zarr(tmp_path / "a" / "data.zarr")
    assert data.var_names.tolist() == synth.genes.tolist()
    assert data.obs["pert_id"].tolist() == synth.obs["pert_id"].tolist()
    assert (synth.values.counts != data.X).nnz == 0


def test_zarr_is_read_on_first_use(synth: PerturbDataset, tmp_path: Path) -> None:
    write_dataset(synth, tmp_path / "a", "zarr")
    ds = load_dataset(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "data.zarr" / "X")
    assert ds.n_obs == synth.n_obs
    assert ds.conditions.equals(synth.conditions)
    assert ds.content_sha256 == synth.computed_sha256
    with pytest.raises(DatasetError, match=r"data\.zarr is damaged .*import the data set again"):
        _ = ds.values


def test_truth_lies_beside_the_data(
    synth: PerturbDataset, synth_truth: SimulationTruth, tmp_path: Path
) -> None:
    write_dataset(synth, tmp_path / "a", "zarr", truth=synth_truth.arrays())
    arrays = read_npz(tmp_path / "a" / schema.TRUTH_FILE)
    assert np.array_equal(arrays["log_fold_change"], synth_truth.log_fold_change)
    assert arrays["conditions"].tolist() == synth_truth.conditions


@pytest.mark.parametrize("storage", STORAGES)
def test_existing_artifact_is_kept_unless_overwritten(
    synth: PerturbDataset, tmp_path: Path, storage: str
) -> None:
    path = tmp_path / "data" / "a"
    write_dataset(synth, path, storage)
    before = (path / "meta.json").read_bytes()
    with pytest.raises(StoreError, match="already exists; choose another place, or give --force"):
        write_dataset(synth, path, storage)
    assert (path / "meta.json").read_bytes() == before
    write_dataset(synth, path, "zarr" if storage == "npz" else "npz", overwrite=True)
    load_dataset(path).verify_content()
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_failed_writing_leaves_nothing(
    synth: PerturbDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "_DENSE_LIMIT", 1000)
    with pytest.raises(DatasetError, match=r"too many for the dense data\.npz; give --storage zarr"):
        write_dataset(synth, tmp_path / "data" / "a", "npz")
    assert list((tmp_path / "data").iterdir()) == []


# ---- files of other programs -----------------------------------------------------------------------------


def test_minimal_foreign_file(foreign: Callable[..., Path]) -> None:
    ds = load_dataset(foreign({"X_pert": CONTROL + DELTA, "X_control": CONTROL, "delta": DELTA}))
    assert ds.name == "foreign"
    assert (ds.metadata.space, ds.metadata.control_policy) == ("log1p", "file")
    assert ds.obs["pert_id"].tolist() == ["control", "A+B", "A"]
    assert ds.row_ids.tolist() == ["row0", "row1", "row2"]
    assert ds.genes.tolist() == GENES
    assert ds.conditions.index.tolist() == ["K562|A+B|||", "K562|A|||"]
    rows = np.array([2, 0])
    assert np.array_equal(ds.delta(rows), DELTA[rows])
    assert not ds.has_controls


def test_own_control_is_taken_as_it_is(foreign: Callable[..., Path]) -> None:
    # The file's control is no mean of its control rows, and its delta not even the difference.
    ds = load_dataset(foreign({"X_pert": CONTROL + DELTA, "X_control": CONTROL * 7, "delta": DELTA}))
    rows = np.arange(3)
    for role in ("input", "reference"):
        assert np.array_equal(ds.x_control(rows, role), CONTROL * 7)
        assert np.array_equal(ds.delta(rows, role), DELTA)
    assert np.array_equal(condition_table(ds).control["input"], (CONTROL * 7)[[1, 2]])


@pytest.mark.parametrize(
    ("arrays", "space", "policy"),
    [
        pytest.param({"X_pert": CONTROL + DELTA}, "log1p", "mean", id="expression"),
        pytest.param(
            {"X_pert": CONTROL + DELTA, "X_control": CONTROL}, "log1p", "file", id="expression-control"
        ),
        pytest.param({"X_pert": CONTROL + DELTA, "delta": DELTA}, "log1p", "file", id="expression-delta"),
        pytest.param({"delta": DELTA}, "delta", "file", id="delta"),
        pytest.param({"delta": DELTA, "X_control": CONTROL}, "delta", "file", id="delta-control"),
    ],
)
def test_any_matrix_may_be_absent(
    foreign: Callable[..., Path], arrays: dict[str, np.ndarray], space: str, policy: str
) -> None:
    ds = load_dataset(foreign(arrays))
    assert (ds.metadata.space, ds.metadata.control_policy) == (space, policy)
    expected = DELTA if policy == "file" else (CONTROL + DELTA) - (CONTROL + DELTA)[0]
    assert np.array_equal(ds.delta(np.arange(3)), expected)
    assert len(condition_table(ds)) == 2


def test_float64_and_fortran_order_are_read(foreign: Callable[..., Path]) -> None:
    ds = load_dataset(foreign({"delta": np.asfortranarray(DELTA.astype(np.float64))}))
    assert ds.values.delta.dtype == np.float32
    assert np.array_equal(ds.values.delta, DELTA)


def test_optional_columns_of_a_foreign_file(foreign: Callable[..., Path]) -> None:
    more = {
        "row_id": ["x", "y", "z"],
        "pert_genes": [[], ["B", "A"], ["A"]],
        "pert_doses": [[], ["2", "1"], ["3"]],
        "modality": ["", "drug", "drug"],
        "covariates": [{}, {"time": "6 h"}, {}],
        "weight": [1, 2, 3],
    }
    ds = load_dataset(foreign({"delta": DELTA}, obs={**OBS, **more}))
    assert ds.obs["doses"].tolist() == ["", "1+2", "3"]
    assert ds.conditions.index.tolist() == ['K562|A+B|drug|1+2|{"time":"6 h"}', "K562|A|drug|3|"]
    assert ds.obs["weight"].tolist() == [1.0, 2.0, 3.0]
    assert ds.row_ids.tolist() == ["x", "y", "z"]


def test_obs_idx_says_which_row_is_which(foreign: Callable[..., Path]) -> None:
    obs = {**OBS, "context_id": ["K562", "K562", "other"]}
    ds = load_dataset(foreign({"delta": DELTA[[1, 0]], "obs_idx": np.array([1, 0])}, obs=obs))
    assert ds.row_ids.tolist() == ["row1", "row0"]
    assert ds.conditions.index.tolist() == ["K562|A+B|||"]
    assert ds.contexts == ["K562"]
    assert np.array_equal(ds.delta(np.array([0])), DELTA[[1]])


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        pytest.param(
            {"X_control": CONTROL}, {}, "neither X_pert nor delta .found .'X_control'", id="no-matrix"
        ),
        pytest.param({"delta": DELTA[0]}, {}, r"delta in .* must be a float32 \[rows, genes\]", id="vector"),
        pytest.param({"delta": DELTA > 0}, {}, "must be a float32 .* found bool", id="booleans"),
        pytest.param(
            {"delta": DELTA[:2]}, {}, r"delta .* is \(2, 2\), rows and genes say \(3, 2\)", id="rows"
        ),
        pytest.param({"delta": DELTA}, {"genes": ["g1"]}, r"rows and genes say \(3, 1\)", id="genes"),
        pytest.param({"delta": DELTA}, {"genes": ["g1", "g1"]}, "1 duplicate gene ids", id="twice-a-gene"),
        pytest.param({"delta": DELTA * np.nan}, {}, "delta .* non-finite values, first nan", id="nan"),
        pytest.param(
            {"delta": DELTA, "obs_idx": np.array([0, 1, 3])},
            {},
            r"obs_idx .* row numbers of obs \(0 to 2\)",
            id="obs-idx",
        ),
        pytest.param(
            {"delta": DELTA, "obs_idx": np.array([0, 1, 1])},
            {},
            "1 duplicate row ids, e.g. .'row1'",
            id="obs-idx-twice",
        ),
        pytest.param(
            {"delta": DELTA, "obs_idx": np.array([0.0, 1, 2])},
            {},
            "obs_idx .* row numbers",
            id="obs-idx-float",
        ),
        pytest.param(
            {"delta": DELTA}, {"schema_version": 2}, "schema version 2, this program reads 1", id="version"
        ),
        pytest.param({"delta": DELTA}, {"schema_version": "absent"}, "schema version None", id="no-version"),
        pytest.param({"delta": DELTA}, {"var": "absent"}, "lacks obs, var or metadata", id="no-var"),
        pytest.param({"delta": DELTA}, {"obs": "absent"}, "lacks obs, var or metadata", id="no-obs"),
        pytest.param({"delta": DELTA}, {"metadata": "x"}, "metadata must be a table", id="metadata-no-table"),
        pytest.param({"delta": DELTA}, {"genes": {"g1": 1}}, "var a list of gene ids", id="var-no-list"),
        pytest.param({"delta": DELTA}, {"obs": [1, 2]}, "is not a table of columns", id="obs-no-table"),
        pytest.param(
            {"delta": DELTA},
            {"obs": {k: v for k, v in OBS.items() if k != "batch_id"}},
            r"lacks the columns \['batch_id'\]; found \['context_id', 'is_control', 'pert_id'\]",
            id="no-batch",
        ),
        pytest.param(
            {"delta": DELTA},
            {"obs": {**OBS, "batch_id": ["b"]}},
            "columns of different lengths",
            id="short-column",
        ),
        pytest.param(
            {"delta": DELTA},
            {"obs": {**OBS, "is_control": [True, True, True]}},
            "control rows only",
            id="all-control",
        ),
        pytest.param(
            {"delta": DELTA},
            {"metadata": {"space": "delta", "control_policy": "mean"}},
            "must be 'none' or 'file'",
            id="policy",
        ),
        pytest.param(
            {"X_pert": CONTROL + DELTA},
            {"metadata": {"space": "counts"}},
            "needs counts.npz beside it",
            id="counts",
        ),
        pytest.param(
            {"X_pert": CONTROL},
            {"obs": {**OBS, "context_id": ["a", "b", "b"]}},
            "no control rows in context 'b'",
            id="bare",
        ),
    ],
)
def test_malformed_arrays_are_refused(
    foreign: Callable[..., Path], arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = foreign(arrays, **options)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param(
            {"colour": 1}, r"meta\.json is not a valid DatasetMetadata: colour: Extra", id="unknown-field"
        ),
        pytest.param({"space": "tpm"}, "space: Input should be .* found 'tpm'", id="unknown-space"),
        pytest.param({"control_policy": "median"}, "control_policy: Input should be", id="unknown-policy"),
    ],
)
def test_bad_metadata_are_refused(
    foreign: Callable[..., Path], metadata: dict[str, Any], message: str
) -> None:
    path = foreign({"delta": DELTA}, metadata=metadata)
    with pytest.raises(ConfigError, match=message):
        load_dataset(path)


def _remove(*names: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        for name in names:
            target = path / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return apply


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(content) and None


def _cut(name: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[: len(whole) // 2])

    return apply


@pytest.mark.parametrize(
    ("storage", "damage", "message"),
    [
        pytest.param(
            "npz", _remove("meta.json"), r"is no data set artifact \(meta.json not found\)", id="no-meta"
        ),
        pytest.param("npz", _write("meta.json", b"{"), "meta.json is not valid JSON", id="meta-no-json"),
        pytest.param(
            "npz", _write("meta.json", b"\xff\xfe"), "meta.json is not valid JSON", id="meta-no-text"
        ),
        pytest.param("npz", _write("meta.json", b"[]"), "lacks obs, var or metadata", id="meta-no-table"),
        pytest.param(
            "npz", _write("meta.json", b"[" * 100_000), "meta.json is not valid JSON", id="meta-too-deep"
        ),
        pytest.param("npz", _remove("data.npz"), "neither data.npz nor data.zarr", id="no-npz"),
        pytest.param("npz", _cut("data.npz"), "data.npz is damaged or not an npz file", id="half-an-npz"),
        pytest.param("npz", _write("data.npz", b""), "data.npz is damaged or not an npz", id="empty-npz"),
        pytest.param(
            "npz", _write("data.npz", b"text"), "data.npz is damaged or not an npz file", id="text-npz"
        ),
        pytest.param("npz", _remove("counts.npz"), "needs counts.npz beside it", id="no-counts"),
        pytest.param(
            "npz", _cut("counts.npz"), "counts.npz is damaged or not an npz file", id="half-the-counts"
        ),
        pytest.param("zarr", _remove("data.zarr"), "neither data.npz nor data.zarr", id="no-zarr"),
        pytest.param("zarr", _remove("data.zarr/obs"), r"data\.zarr is damaged", id="zarr-without-obs"),
        pytest.param(
            "zarr", _remove("data.zarr/zarr.json"), r"data\.zarr is damaged", id="zarr-without-root"
        ),
    ],
)
def test_a_damaged_artifact_is_refused(
    synth: PerturbDataset, tmp_path: Path, storage: str, damage: Callable, message: str
) -> None:
    path = tmp_path / "a"
    write_dataset(synth, path, storage)
    damage(path)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("covariates", [[1]], "covariates of row 1 is .* it must be a table of names and values"),
        ("covariates", "age=3", "covariates of row 1 is .* it must be a table of names and values"),
        ("pert_genes", {"A": 1}, "pert_genes of row 1 is .* it must be a list of names"),
        ("pert_doses", "10 uM", "pert_doses of row 1 is .* it must be a list of doses"),
    ],
)
def test_a_cell_of_the_row_table_of_another_type_is_named(
    synth: PerturbDataset, tmp_path: Path, column: str, value: object, message: str
) -> None:
    path = tmp_path / "a"
    write_dataset(synth, path, "npz")
    meta = json.loads((path / "meta.json").read_text())
    cells = meta["obs"].get(column) or [None] * synth.n_obs
    meta["obs"][column] = [cells[0], value, *cells[2:]]
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DatasetError, match=message):
        load_dataset(path)


@pytest.mark.parametrize("change", [lambda a: a[:, 1:], lambda a: a[1:], lambda a: a[0], lambda a: a > 0])
def test_a_derived_matrix_of_another_form_is_named(
    synth: PerturbDataset, tmp_path: Path, change: Callable
) -> None:
    path = tmp_path / "a"
    write_dataset(synth, path, "npz")
    with np.load(path / "data.npz") as file:
        arrays = dict(file)
    np.savez(path / "data.npz", **{**arrays, "X_pert": change(arrays["X_pert"])})
    with pytest.raises(DatasetError, match="X_pert"):
        load_dataset(path)


@pytest.mark.parametrize("chunk", ["X/data/c/0", "X/indptr/c/0", "X/zarr.json"])
def test_damaged_chunk_is_found_on_first_use(synth: PerturbDataset, tmp_path: Path, chunk: str) -> None:
    write_dataset(synth, tmp_path / "a", "zarr")
    _cut(f"data.zarr/{chunk}")(tmp_path / "a")
    ds = load_dataset(tmp_path / "a")
    with pytest.raises(DatasetError, match=r"data\.zarr is damaged .*import the data set again"):
        _ = ds.expression


@pytest.mark.parametrize("key", ["indices", "shape"])
def test_counts_without_a_part(synth: PerturbDataset, tmp_path: Path, key: str) -> None:
    write_dataset(synth, tmp_path / "a", "npz")
    edit_npz(tmp_path / "a" / "counts.npz", **{key: None})
    with pytest.raises(DatasetError, match=f"counts.npz holds no sparse matrix .'{key}'"):
        load_dataset(tmp_path / "a")


def test_a_missing_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere is no data set artifact .* `perturbfm data import`"):
        load_dataset(tmp_path / "nowhere")


def test_pickled_arrays_are_never_loaded(foreign: Callable[..., Path], tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    path = foreign({"delta": np.array([Boom()], dtype=object)})
    with pytest.raises(DatasetError, match=r"data\.npz holds pickled objects, which are never loaded"):
        load_dataset(path)
    assert not (tmp_path / "executed").exists()


def test_missing_npz_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(PerturbFMError, match=r"gone\.npz does not exist"):
        read_npz(tmp_path / "gone.npz")


# ---- edited files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["X_pert", "X_control", "delta"])
@pytest.mark.parametrize("form", ["counts", "log1p"])
def test_edited_matrix_of_a_derived_file(
    synth: PerturbDataset, make_dataset: Make, tmp_path: Path, key: str, form: str
) -> None:
    ds = synth
    if form == "log1p":
        labels = {c: ds.obs[c].array for c in ("pert_id", "context_id", "batch_id")}
        ds = make_dataset(ds.expression, **labels)
    write_dataset(ds, tmp_path / "a", "npz")
    file = tmp_path / "a" / "data.npz"
    edited = read_npz(file)[key]
    edited[-1, 3] += 0.5
    edit_npz(file, **{key: edited})
    with pytest.raises(DatasetError, match=r"differs by up to 0\.5 .*control_policy to 'file'"):
        load_dataset(tmp_path / "a")


def test_edited_counts_of_a_derived_file(synth: PerturbDataset, tmp_path: Path) -> None:
    write_dataset(synth, tmp_path / "a", "npz")
    file = tmp_path / "a" / "counts.npz"
    data = read_npz(file)["data"]
    data[0] += 5
    edit_npz(file, data=data)
    with pytest.raises(DatasetError, match=r"X_pert in data\.npz of data set 'synth' differs"):
        load_dataset(tmp_path / "a")


def test_edited_labels_are_found_by_the_content_hash(synth: PerturbDataset, tmp_path: Path) -> None:
    write_dataset(synth, tmp_path / "a", "npz")
    file = tmp_path / "a" / "meta.json"
    meta = json.loads(file.read_text())
    meta["obs"]["covariates"][-1] = {"time": "6 h"}
    file.write_text(json.dumps(meta))
    with pytest.raises(DatasetError, match="content of data set 'synth' changed"):
        load_dataset(tmp_path / "a").verify_content()


@pytest.mark.parametrize("policy", ["mean", "sampled"])
def test_unedited_derived_file_passes(synth: PerturbDataset, tmp_path: Path, policy: str) -> None:
    metadata = synth.metadata.model_copy(update={"control_policy": policy})
    ds = PerturbDataset(synth.obs, synth.genes, synth.values, metadata)
    write_dataset(ds, tmp_path / "a", "npz")
    loaded = load_dataset(tmp_path / "a")
    rows = np.arange(ds.n_obs)[::7]
    assert np.array_equal(loaded.x_control(rows), read_npz(tmp_path / "a" / "data.npz")["X_control"][rows])
