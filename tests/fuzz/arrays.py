"""Ways to damage files of arrays: npz, h5ad, zarr."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.damage import damage_file, damage_json, put

# ---- arrays ------------------------------------------------------------------------------------------------------


def _first(a: Any, value: Any) -> Any:
    out = a.copy()
    if out.size:
        out.reshape(-1)[0] = value
    return out


def _at_random(a: Any, value: Any, rng: random.Random) -> Any:
    out = np.array(a)
    if out.size:
        out.reshape(-1)[rng.randrange(out.size)] = value
    return out


# Other types and shapes of an array, whatever it holds.
ARRAYS: dict[str, Callable[[Any, random.Random], Any]] = {
    "complex": lambda a, r: np.zeros(a.shape, dtype=complex),
    "text": lambda a, r: np.full(a.shape, "x"),
    "bytes": lambda a, r: np.full(a.shape, b"\xff\xfe"),
    "objects": lambda a, r: np.full(a.shape, None, dtype=object),
    "truth": lambda a, r: np.ones(a.shape, dtype=bool),
    "half": lambda a, r: a.astype(np.float16) if a.dtype.kind in "fiu" else a,
    "extended": lambda a, r: a.astype(np.longdouble) if a.dtype.kind in "fiu" else a,
    "big-endian": lambda a, r: a.astype(a.dtype.newbyteorder(">")),
    "records": lambda a, r: np.zeros(a.shape, dtype=[("a", "i4"), ("b", "f4")]),
    "dates": lambda a, r: np.zeros(a.shape, dtype="M8[s]"),
    "unsigned": lambda a, r: np.full(a.shape, 2**63, dtype=np.uint64),
    "small integers": lambda a, r: np.zeros(a.shape, dtype=np.int8),
    "nan": lambda a, r: _at_random(a, np.nan, r) if a.dtype.kind == "f" else a,
    "infinite": lambda a, r: _at_random(a, -np.inf, r) if a.dtype.kind == "f" else a,
    "huge": lambda a, r: _at_random(a, 3e38, r) if a.dtype.kind == "f" else a,
    "negative": lambda a, r: _at_random(a, -5, r) if a.dtype.kind in "fi" else a,
    "beyond": lambda a, r: _at_random(a, np.iinfo(a.dtype).max, r) if a.dtype.kind in "iu" else a,
    "backwards": lambda a, r: a[::-1] if a.ndim else a,
    "repeated": lambda a, r: np.concatenate([a, a]) if a.ndim else a,
    "one less": lambda a, r: a[:-1] if a.ndim else a,
    "a column less": lambda a, r: a[..., :-1] if a.ndim > 1 else a,
    "transposed": lambda a, r: a.T,
    "flat": lambda a, r: a.reshape(-1),
    "deeper": lambda a, r: a[None],
    "scalar": lambda a, r: a.reshape(-1)[0] if a.size else np.asarray(0),
    "empty": lambda a, r: a[:0] if a.ndim else a,
    "no columns": lambda a, r: a[:, :0] if a.ndim > 1 else a,
    "fortran": lambda a, r: np.asfortranarray(a),
    "of one": lambda a, r: np.full(a.shape, a.reshape(-1)[0]) if a.size else a,
    "many axes": lambda a, r: a.reshape((1,) * 30 + a.shape),
}


# ---- npz ---------------------------------------------------------------------------------------------------------


def _member(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


MEMBERS: dict[str, bytes] = {
    "huge shape": _member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000), }\n"),
    "negative shape": _member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
    "large shape": _member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }\n" % 10**30),
    "more than is there": _member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10,), }\n", b"\0" * 8),
    "less than is there": _member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 8),
    "header of text": _member(b"hello"),
    "deep header": _member(b"[" * 5000),
    "open header": _member(b"{'descr': "),
    "odd type": _member(b"{'descr': '<q9', 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 8),
    "version": b"\x93NUMPY\x09\x00" + b"\0" * 64,
    "version 3": b"\x93NUMPY\x03\x00" + (80).to_bytes(4, "little") + b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }".ljust(79) + b"\n",
    "no array": b"plain text",
    "nothing": b"",
    "pickle": b"\x80\x04N.",
}  # fmt: skip


def damage_npz(path: Path, rng: random.Random) -> str:
    """Damage an npz file in one array, in one member, or as any file; return how."""
    how = rng.random()
    if how < 0.35:
        return damage_file(path, rng)
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    name = rng.choice(sorted(arrays))
    if how < 0.8:
        kind = rng.choice(sorted(ARRAYS))
        changed = ARRAYS[kind](arrays[name], rng)
        buffer = io.BytesIO()
        np.savez(buffer, **{**arrays, name: changed})
        put(path, buffer.getvalue())
        return f"{name}: {kind}"
    if how < 0.85:
        del arrays[name]
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        put(path, buffer.getvalue())
        return f"without {name}"
    with zipfile.ZipFile(path) as archive:
        members = {entry: archive.read(entry) for entry in archive.namelist()}
    kind = rng.choice(["twice", "bomb", *sorted(MEMBERS)])
    path.unlink()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in members.items():
            if entry != f"{name}.npy" or kind == "twice":
                archive.writestr(entry, data)
        if kind == "twice":
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr(f"{name}.npy", members[f"{name}.npy"])
        elif kind == "bomb":
            header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 500), }".ljust(117) + b"\n"
            archive.writestr(f"{name}.npy", _member(header, b"\0" * (4 * 500 * 100_000)))
        else:
            archive.writestr(f"{name}.npy", MEMBERS[kind])
    return f"{name}: {kind}"


# ---- h5ad --------------------------------------------------------------------------------------------------------


def _rewrite(file: Any, key: str, value: Any, dtype: Any = None) -> None:
    attrs = dict(file[key].attrs) if key in file else {}
    if key in file:
        del file[key]
    file.create_dataset(key, data=value, dtype=dtype)
    for name, kept in attrs.items():
        file[key].attrs[name] = kept


def _sparse(part: str, change: Callable[[Any, random.Random], Any]) -> Callable[[Any, random.Random], None]:
    def apply(file: Any, rng: random.Random) -> None:
        _rewrite(file, f"X/{part}", change(file[f"X/{part}"][()], rng))

    return apply


def _dense(change: Callable[[Any, random.Random], Any]) -> Callable[[Any, random.Random], None]:
    def apply(file: Any, rng: random.Random) -> None:
        n = len(file["obs/_index"]), len(file["var/_index"])
        del file["X"]
        file.create_dataset("X", data=change(np.zeros(n, dtype=np.float32), rng))
        file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    return apply


def _set(a: Any, rng: random.Random, value: int) -> Any:
    return _at_random(a, value, rng)


def _swap_rows(a: Any, rng: random.Random) -> Any:
    out = a.copy()
    out[: len(out) // 2] = out[: len(out) // 2][::-1]
    return out


def _attribute(key: str, name: str, value: Any) -> Callable[[Any, random.Random], None]:
    def apply(file: Any, rng: random.Random) -> None:
        if value is None:
            del file[key].attrs[name]
        else:
            file[key].attrs[name] = value

    return apply


def _drop(key: str) -> Callable[[Any, random.Random], None]:
    def apply(file: Any, rng: random.Random) -> None:
        del file[key]

    return apply


def _as(key: str, make: Callable[[Any, str], Any]) -> Callable[[Any, random.Random], None]:
    def apply(file: Any, rng: random.Random) -> None:
        if key in file:
            del file[key]
        make(file, key)

    return apply


def _null(file: Any, key: str) -> None:
    import h5py

    file.create_dataset(key, data=h5py.Empty("f"))
    file[key].attrs.update({"encoding-type": "null", "encoding-version": "0.1.0"})


def _bare_null(file: Any, key: str) -> None:
    import h5py

    file.create_dataset(key, data=h5py.Empty("f"))


def _junk_group(file: Any, key: str) -> None:
    file.create_group(key)["junk"] = np.arange(3)


def _soft_loop(file: Any, key: str) -> None:
    import h5py

    file[key] = h5py.SoftLink(f"/{key}")


def _external(file: Any, key: str) -> None:
    import h5py

    file[key] = h5py.ExternalLink("nowhere.h5", "/X")


def _declared_huge(file: Any, key: str) -> None:
    file.create_dataset(key, shape=(10**7, 10**7), dtype="f4", chunks=(10, 10))


def _huge_column(file: Any, key: str) -> None:
    file.create_dataset(key, shape=(10**12,), dtype="f8", chunks=(1000,))
    file[key].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def _indices(value: int) -> Callable[[Any, random.Random], None]:
    return _sparse("indices", lambda a, r: _set(a, r, value))


def _pointers(value: int) -> Callable[[Any, random.Random], None]:
    return _sparse("indptr", lambda a, r: _set(a, r, value))


H5AD: dict[str, Callable[[Any, random.Random], None]] = {
    "index beyond": _indices(10**6),
    "index just beyond": _indices(12),
    "index negative": _indices(-1),
    "indices unsorted": _sparse("indices", lambda a, r: a[::-1].copy()),
    "indices repeated": _sparse("indices", lambda a, r: np.zeros_like(a)),
    "indices of 64 bits": _sparse("indices", lambda a, r: a.astype(np.int64)),
    "indices unsigned": _sparse("indices", lambda a, r: a.astype(np.uint32)),
    "indices fractional": _sparse("indices", lambda a, r: a + 0.5),
    "indices of text": _sparse("indices", lambda a, r: a.astype("S8")),
    "one index less": _sparse("indices", lambda a, r: a[:-1]),
    "pointer beyond": _pointers(10**9),
    "pointer negative": _pointers(-3),
    "pointers backwards": _sparse("indptr", lambda a, r: a[::-1].copy()),
    "pointers from one": _sparse("indptr", lambda a, r: np.r_[1, a[1:]]),
    "pointers swapped": _sparse("indptr", _swap_rows),
    "pointers unsigned": _sparse("indptr", lambda a, r: _set(a.astype(np.uint64), r, 2**63)),
    "pointers fractional": _sparse("indptr", lambda a, r: a.astype(float)),
    "one pointer less": _sparse("indptr", lambda a, r: a[:-1]),
    "one pointer more": _sparse("indptr", lambda a, r: np.r_[a, a[-1]]),
    "one value less": _sparse("data", lambda a, r: a[:-1]),
    "values complex": _sparse("data", lambda a, r: a.astype(complex)),
    "values of text": _sparse("data", lambda a, r: a.astype("S8")),
    "values true": _sparse("data", lambda a, r: a.astype(bool)),
    "values not finite": _sparse("data", lambda a, r: _set(a.astype(float), r, np.nan)),
    "values of two axes": _sparse("data", lambda a, r: a[None]),
    "no pointers": _drop("X/indptr"),
    "no values": _drop("X/data"),
    "shape larger": _attribute("X", "shape", np.array([24, 10**9])),
    "shape negative": _attribute("X", "shape", np.array([-24, 12])),
    "shape of three": _attribute("X", "shape", np.array([24, 12, 1])),
    "shape of text": _attribute("X", "shape", "24 x 12"),
    "shape missing": _attribute("X", "shape", None),
    "as columns": _attribute("X", "encoding-type", "csc_matrix"),
    "unknown encoding": _attribute("X", "encoding-type", "csr_tensor"),
    "unknown version": _attribute("X", "encoding-version", "99"),
    "no encoding": _attribute("X", "encoding-type", None),
    "encoding of numbers": _attribute("X", "encoding-type", 3),
    "no X": _drop("X"),
    "X empty": _as("X", _null),
    "X empty, bare": _as("X", _bare_null),
    "X of junk": _as("X", _junk_group),
    "X linked to itself": _as("X", _soft_loop),
    "X elsewhere": _as("X", _external),
    "X declared huge": _as("X", _declared_huge),
    "X a number": _as("X", lambda f, k: f.create_dataset(k, data=3.0)),
    "X text": _as("X", lambda f, k: f.create_dataset(k, data="hello")),
    "X complex": _dense(ARRAYS["complex"]),
    "X records": _dense(ARRAYS["records"]),
    "X true": _dense(ARRAYS["truth"]),
    "X bytes": _dense(lambda a, r: a.astype("S4")),
    "X half": _dense(ARRAYS["half"]),
    "X big-endian": _dense(ARRAYS["big-endian"]),
    "X transposed": _dense(ARRAYS["transposed"]),
    "X flat": _dense(ARRAYS["flat"]),
    "X deeper": _dense(ARRAYS["deeper"]),
    "X nan": _dense(ARRAYS["nan"]),
    "no obs": _drop("obs"),
    "no var": _drop("var"),
    "obs a number": _as("obs", lambda f, k: f.create_dataset(k, data=3)),
    "obs of junk": _as("obs", _junk_group),
    "obs linked to itself": _as("obs", _soft_loop),
    "obs without index": _drop("obs/_index"),
    "index not named": _attribute("obs", "_index", None),
    "index named wrongly": _attribute("obs", "_index", "nope"),
    "index a number": _attribute("obs", "_index", 7),
    "columns not named": _attribute("obs", "column-order", None),
    "columns unknown": _attribute("obs", "column-order", ["nope"]),
    "columns of numbers": _attribute("obs", "column-order", np.array([1, 2])),
    "no categories": _drop("obs/pert/categories"),
    "no codes": _drop("obs/pert/codes"),
    "codes beyond": lambda f, r: _rewrite(f, "obs/pert/codes", np.full(24, 77, dtype=np.int8)),
    "codes negative": lambda f, r: _rewrite(f, "obs/pert/codes", np.full(24, -1, dtype=np.int8)),
    "codes fractional": lambda f, r: _rewrite(f, "obs/pert/codes", np.full(24, 0.5)),
    "codes too few": lambda f, r: _rewrite(f, "obs/pert/codes", np.zeros(3, dtype=np.int8)),
    "categories repeated": lambda f, r: _rewrite(f, "obs/pert/categories", np.array([b"A"] * 4)),
    "categories of bytes": lambda f, r: _rewrite(f, "obs/pert/categories", np.array([b"\xff\xfe", b"A", b"B", b"C"])),
    "categories of numbers": lambda f, r: _rewrite(f, "obs/pert/categories", np.arange(4)),
    "column huge": _as("obs/line", _huge_column),
    "column of two axes": lambda f, r: _rewrite(f, "obs/line/codes", np.zeros((24, 2), dtype=np.int8)),
    "genes repeated": lambda f, r: _rewrite(f, "var/_index", np.array([b"g"] * 12)),
    "genes of numbers": lambda f, r: _rewrite(f, "var/_index", np.arange(12)),
    "genes with nul": lambda f, r: _rewrite(f, "var/_index", np.array([b"g\x00%d" % i for i in range(12)], dtype="S8")),
    "genes empty": lambda f, r: _rewrite(f, "var/_index", np.array([b""] + [b"g%d" % i for i in range(11)])),
    "layers a number": _as("layers", lambda f, k: f.create_dataset(k, data=3)),
    "uns of junk": _as("uns", lambda f, k: f.create_dataset(k, data=np.zeros(3, dtype=[("a", "i4")]))),
}  # fmt: skip


def damage_h5ad(path: Path, rng: random.Random) -> str:
    """Damage an h5ad file (24 x 12, sparse) in its structure, or as any file; return how."""
    import h5py

    if rng.random() < 0.3:
        return damage_file(path, rng)
    name = rng.choice(sorted(H5AD))
    with h5py.File(path, "r+") as file:
        H5AD[name](file, rng)
    return name


# ---- zarr --------------------------------------------------------------------------------------------------------


def damage_zarr(path: Path, rng: random.Random) -> str:
    """Damage one file below a zarr folder, or remove or replace a folder; return how."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    how = rng.random()
    if how < 0.1:
        folder = rng.choice(sorted(p for p in path.rglob("*") if p.is_dir()))
        shutil.rmtree(folder)
        if rng.random() < 0.5:
            folder.write_bytes(b"file")
        return f"{folder.relative_to(path)} gone"
    chosen = rng.choice(files)
    where = chosen.relative_to(path)
    if chosen.name == "zarr.json" and how < 0.8:
        return f"{where}: {damage_json(chosen, rng)}"
    return f"{where}: {damage_file(chosen, rng)}"


def zarr_index(path: Path, value: int) -> None:
    """Set an index of the sparse matrix of a zarr folder; its chunks are written anew without compression."""
    meta = json.loads((path / "X/indices/zarr.json").read_text())
    n = meta["shape"][0]
    dtype = np.dtype(meta["data_type"])
    meta["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    (path / "X/indices/zarr.json").write_text(json.dumps(meta))
    # What the root says of its members is as good as what they say.
    root = json.loads((path / "zarr.json").read_text())
    root.pop("consolidated_metadata", None)
    (path / "zarr.json").write_text(json.dumps(root))
    chunk = np.zeros(meta["chunk_grid"]["configuration"]["chunk_shape"][0], dtype=dtype)
    chunk[:n] = value
    (path / "X/indices/c/0").write_bytes(chunk.tobytes())
