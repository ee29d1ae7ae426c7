"""Data sets on disk that are damaged, edited or of another form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import ConfigError, DatasetError, PerturbFMError
from tests.support.foreign_artifact import CONTROL, DELTA, OBS, edit_npz

Make = Callable[..., PerturbDataset]


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
