"""Files that cannot be imported are refused in one line, and nothing is left behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from tests.support.command import perturbfm
from tests.support.refusals import refuse

IMPORT = ("--pert-col", "pert", "--context-col", "line", "--control-label", "ctrl", "--out", "NEW")


# ---- imports -----------------------------------------------------------------------------------------------------


def screen(X=None, genes=None, rows=None, path="in.h5ad", **obs) -> Path:
    """Write a small h5ad file of log1p values, changed as asked."""
    n = 24
    table = {
        "pert": ["ctrl", "A", "B", "A+B"] * 6,
        "line": ["K562"] * 12 + ["RPE1"] * 12,
        "dose": ["1"] * n,
        "weight": np.ones(n),
        **obs,
    }
    X = np.full((n, 6), 0.5, dtype=np.float32) if X is None else X
    index = [f"c{i}" for i in range(n)] if rows is None else rows
    var = pd.DataFrame(index=[f"g{i}" for i in range(6)] if genes is None else genes)
    with warnings.catch_warnings():
        # anndata says itself that names are not unique.
        warnings.simplefilter("ignore", UserWarning)
        anndata.AnnData(X=X, obs=pd.DataFrame(table, index=index), var=var).write_h5ad(path)
    return Path(path)


def with_value(value: float, row: int = 5, column: int = 2) -> np.ndarray:
    """Return log1p values with one replaced."""
    X = np.full((24, 6), 0.5, dtype=np.float32)
    X[row, column] = value
    return X


def truncated() -> Path:
    path = screen()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text_file() -> Path:
    path = Path("in.h5ad")
    path.write_text("gene,cell\n1,2\n")
    return path


def other_hdf5() -> Path:
    with h5py.File("in.h5ad", "w") as file:
        file["numbers"] = np.arange(3)
    return Path("in.h5ad")


def no_controls_in_rpe1() -> Path:
    return screen(pert=["ctrl", "A", "B", "A+B"] * 3 + ["A", "A", "B", "A+B"] * 3)


def missing_label() -> Path:
    return screen(pert=pd.Categorical(["ctrl", "A", "B", None] * 6))


def option(name: str, value: object) -> tuple[object, ...]:
    """Return the import options with one replaced."""
    given = list(IMPORT)
    if name in given:
        given[given.index(name) + 1] = value
        return tuple(given)
    return (*given, name, value)


IMPORTS: dict[str, tuple[Callable[[], Path], tuple[object, ...], str]] = {
    "no perturbation column": (screen, option("--pert-col", "nope"), r"no obs column 'nope' \(--pert-col\); columns: pert, line"),
    "no context column": (screen, option("--context-col", "nope"), r"no obs column 'nope' \(--context-col\)"),
    "no batch column": (screen, option("--batch-col", "nope"), r"no obs column 'nope' \(--batch-col\)"),
    "no dose column": (screen, option("--dose-col", "nope"), r"no obs column 'nope' \(--dose-col\)"),
    "no covariate column": (screen, option("--covariate-col", "nope"), "no obs column 'nope'"),
    "no gene column": (screen, option("--gene-col", "nope"), "var has no column 'nope'"),
    "no such layer": (screen, option("--layer", "raw"), "no layers/raw; layers: none"),
    "missing labels": (missing_label, IMPORT, "'pert' .* has 6 missing values, first in row 'c3'"),
    "unknown control label": (screen, option("--control-label", "NT"), "control label 'NT' does not occur in 'pert'; found e.g. 'ctrl', 'A'"),
    "no control label": (screen, tuple(x for x in IMPORT if x not in ("--control-label", "ctrl")), "--control-label is needed"),
    "no controls in a context": (no_controls_in_rpe1, IMPORT, "no control rows in context 'RPE1'"),
    "controls only": (lambda: screen(pert=["ctrl"] * 24), IMPORT, "control rows only"),
    "negative": (lambda: screen(with_value(-0.5)), IMPORT, r"negative values \(minimum -0.5\)"),
    "not a number": (lambda: screen(with_value(np.nan)), IMPORT, "non-finite values, first nan at row 'c5', gene 'g2'"),
    "infinite": (lambda: screen(with_value(np.inf)), IMPORT, "non-finite values, first inf at row 'c5', gene 'g2'"),
    "counts called log1p": (lambda: screen(with_value(40.0)), IMPORT, "values up to 40, which no log1p value is"),
    "log1p called counts": (screen, option("--space", "counts"), "has fractions, counts have none"),
    "log1p called differences": (screen, option("--space", "delta"), "has no negative value"),
    "negative counts": (lambda: screen(with_value(-3.0).round()), option("--space", "counts"), "has negative values"),
    "missing counts": (lambda: screen(with_value(np.nan).round()), option("--space", "counts"), "non-finite values"),
    "unknown space": (screen, option("--space", "cpm"), "space: Input should be 'log1p', 'counts'"),
    "duplicate genes": (lambda: screen(genes=["g0", "g1", "g1", "g3", "g4", "g5"]), IMPORT, r"1 duplicate gene ids, e.g. \['g1'\]"),
    "duplicate rows": (lambda: screen(rows=["c0", "c0", *(f"c{i}" for i in range(2, 24))]), IMPORT, r"1 duplicate row ids, e.g. \['c0'\]"),
    "repeated part": (lambda: screen(pert=["ctrl", "A", "B", "A+A"] * 6), IMPORT, r"'A\+A' has an empty or repeated part"),
    "wrong number of doses": (lambda: screen(dose=["1+2"] * 24), option("--dose-col", "dose"), "1 parts but 2 doses"),
    "weight of zero": (lambda: screen(weight=np.zeros(24)), option("--weight-col", "weight"), "weights that are not positive"),
    "weight in words": (lambda: screen(weight=["many"] * 24), option("--weight-col", "weight"), "weights that are not positive"),
    "truncated": (truncated, IMPORT, "in.h5ad cannot be read as h5ad, it is truncated or not HDF5"),
    "not HDF5": (text_file, IMPORT, "in.h5ad cannot be read as h5ad, it is text such as CSV, not HDF5"),
    "HDF5 but no h5ad": (other_hdf5, IMPORT, r"HDF5 but no h5ad file \(obs, var not found\)"),
    "no such file": (lambda: Path("gone.h5ad"), IMPORT, "gone.h5ad does not exist"),
    "unknown storage": (screen, option("--storage", "csv"), "unknown storage 'csv'; known: npz, zarr"),
    "no such option": (screen, option("--perturbation", "x"), "No such option"),
    "existing out": (screen, option("--out", "D"), "D already exists; choose another --out, or give --force"),
    "registered under no key": (screen, (*IMPORT, "--register", "--name", "My Screen"), "data set name 'My Screen' cannot be a key"),
    "registered under a taken name": (screen, (*IMPORT, "--register", "--name", "demo"), "the catalog already has a data set 'demo'"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(IMPORTS))
def test_bad_imports(work, case):
    make, options, message = IMPORTS[case]
    path = make()
    refuse(["data", "import", path, *options], message, work.path)


def test_the_good_file_of_the_bad_imports_is_good(work):
    assert perturbfm("data", "import", screen(), *IMPORT, warns=True).values["n_obs"] == "24"
