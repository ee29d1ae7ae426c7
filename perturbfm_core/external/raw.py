"""Raw output of an external model: means per condition as its worker wrote them, and what it says of them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.prediction_arrays import matrix_of, names_of
from perturbfm_core.errors import PredictionError
from perturbfm_core.parsing import read_json_file
from perturbfm_core.schema import FloatArray, IntArray, StrArray

ARRAYS_FILE: Final = "raw.npz"
META_FILE: Final = "raw.json"
ERROR_FILE: Final = "error.json"
FORMAT: Final = 1
# An earlier form keeps the model's own control in a file of its own.
_OWN_CONTROL_FILE: Final = "model_control.npy"


@dataclass(frozen=True, eq=False)
class Raw:
    """What a worker wrote.

    Attributes
    ----------
    mean
        float32 [R, G], predicted means in the space that `meta` names.
    key
        Condition of each row [R], as the request writes it.
    genes
        Gene of each column [G].
    meta
        What the worker says: ``space, kind, level, control, versions, seconds, skipped, notes``.
    var
        float32 [R, G], predictive variance, or None.
    control
        float32 [R, G], the model's own control of each row, or None.
    n_cells
        int64 [R], predicted cells behind each mean, or None.
    source
        The file or folder, for messages.
    """

    mean: FloatArray
    key: StrArray
    genes: StrArray
    meta: Mapping[str, Any] = field(default_factory=dict)
    var: FloatArray | None = None
    control: FloatArray | None = None
    n_cells: IntArray | None = None
    source: str = "the raw output"

    def __post_init__(self) -> None:
        R, G = len(self.key), len(self.genes)
        found = self.mean.shape
        if found != (R, G):
            turned = "; it is transposed" if found == (G, R) else ""
            msg = f"{self.source}: mean is {list(found)} for {R} keys and {G} genes{turned}; write mean as [keys, genes]"
            raise PredictionError(msg)
        for name, array in (("var", self.var), ("control", self.control)):
            if array is not None and array.shape != found:
                msg = f"{self.source}: {name} is {list(array.shape)}, mean {list(found)}; write a row of {name} for each row of mean"
                raise PredictionError(msg)
        if self.n_cells is not None and self.n_cells.shape != (R,):
            msg = f"{self.source}: n_cells is {list(self.n_cells.shape)} for {R} keys; write one number for each"
            raise PredictionError(msg)


def is_raw(path: Path) -> bool:
    """Return whether a path is a worker's output folder or its arrays, and not a prediction file."""
    if path.is_dir() or path.name == ARRAYS_FILE:
        return True
    if path.suffix.lower() != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "key.npy" in archive.namelist()


def read_raw(path: Path, *, space: str | None = None, kind: str | None = None) -> Raw:
    """Read a worker's output folder, or a ``raw.npz`` with its ``raw.json`` beside it.

    Parameters
    ----------
    path
        The folder or the file.
    space, kind
        What the numbers are, instead of what ``raw.json`` says; with `space` that file may be absent.

    Raises
    ------
    PredictionError
        If a file is absent, damaged, pickled, or does not fit the others.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (not (path / ARRAYS_FILE).exists() or _failed_later(path)):
        raise PredictionError(_why_absent(path))
    file = path / ARRAYS_FILE if path.is_dir() else path
    meta = _meta(folder / META_FILE, stated=space is not None)
    given = {"space": space, "kind": kind}
    meta |= {name: value for name, value in given.items() if value is not None}
    arrays = read_npz(file, PredictionError)
    absent = [name for name in ("mean", "key", "genes") if name not in arrays]
    if absent:
        msg = f"{file} lacks {', '.join(absent)}; a raw output has mean [R, G], key [R] and genes [G]"
        raise PredictionError(msg)
    own_file = folder / _OWN_CONTROL_FILE
    control = arrays.get("control")
    if control is None and own_file.exists():
        control = _array(own_file)
    n_cells = arrays.get("n_cells")
    if n_cells is not None and n_cells.dtype.kind not in "iu":
        msg = f"{file}: n_cells must be whole numbers, found {n_cells.dtype}; save it by .astype(int)"
        raise PredictionError(msg)
    return Raw(
        mean=matrix_of(arrays["mean"], "mean", file),
        key=names_of(arrays["key"], "key", file).reshape(-1),
        genes=names_of(arrays["genes"], "genes", file).reshape(-1),
        meta=meta,
        var=matrix_of(arrays["var"], "var", file) if "var" in arrays else None,
        control=None if control is None else matrix_of(control, "control", file),
        n_cells=n_cells,
        source=str(file),
    )


def _failed_later(folder: Path) -> bool:
    """Return whether a worker failed after it had written its numbers, which may be those of an earlier attempt."""
    error, arrays = folder / ERROR_FILE, folder / ARRAYS_FILE
    return error.exists() and error.stat().st_mtime_ns > arrays.stat().st_mtime_ns


def _why_absent(folder: Path) -> str:
    """Return why a folder has no raw output, in the words of its worker where it left some."""
    if (folder / ERROR_FILE).exists():
        said = read_json_file(folder / ERROR_FILE, PredictionError)
        text = said.get("error") if isinstance(said, dict) else None
        if isinstance(text, str) and text.strip():
            return f"the worker failed: {' '.join(text.split())[:1000]}"
    if (folder / ARRAYS_FILE).exists():
        return f"{folder} has an {ERROR_FILE} that is newer than its {ARRAYS_FILE}; run the worker again, or give the file itself"
    return f"{folder} has no {ARRAYS_FILE}; give the folder that a worker wrote into, or a file"


def _meta(path: Path, *, stated: bool) -> dict[str, Any]:
    if not path.exists():
        if stated:
            return {}
        msg = f"{path} is absent, which says what the numbers are; write it, or give --space"
        raise PredictionError(msg)
    meta = read_json_file(path, PredictionError)
    if not isinstance(meta, dict):
        msg = f"{path} must be a table of names and values, found {type(meta).__name__}"
        raise PredictionError(msg)
    if meta.get("format", FORMAT) != FORMAT:
        msg = f"{path} has format {meta['format']!r}; this version reads format {FORMAT}"
        raise PredictionError(msg)
    for name in ("space", "kind", "level", "control"):
        if meta.get(name) is not None and not isinstance(meta[name], str):
            msg = f"{path}: {name} must be text, found {meta[name]!r}"
            raise PredictionError(msg)
    for name in ("skipped", "notes"):
        if not isinstance(meta.get(name) or [], list):
            msg = f"{path}: {name} must be a list, found {type(meta[name]).__name__}"
            raise PredictionError(msg)
    return meta


def _array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = f"{path} is no plain array ({' '.join(str(error).split())[:120]}); save it by numpy.save, or as `control` in raw.npz"
        raise PredictionError(msg) from error
