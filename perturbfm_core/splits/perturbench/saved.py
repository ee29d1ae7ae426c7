"""Import of splits saved by other tools: PerturBench CSV files and JSON lists of rows.

A saved split identifies rows by the names in the source file (``obs_names``) or by their positions in it,
from 0. It becomes an `explicit` split by row. The rows are matched to the rows of a data set by name,
independent of the order there. Control rows are in no fold here: their folds in the file are dropped and
counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.errors import SplitError
from perturbfm_core.parsing import read_json_file
from perturbfm_core.schema import Fold, IntArray
from perturbfm_core.splits.carving import RULE
from perturbfm_core.splits.condition_lists import FOLD_NAMES, check_folds, read_lines
from perturbfm_core.splits.inner_folds import inner_folds
from perturbfm_core.splits.kinds.explicit import axes_of
from perturbfm_core.splits.perturbench.stray_rows import lacking_rows
from perturbfm_core.splits.split import (
    Axis,
    DatasetRef,
    FrozenSplit,
    Policy,
    RowFolds,
    Split,
    codes_digest,
    inner_unit_of_axes,
)

# Seed of the inner folds.
_SEED = 0
# What names of files say beside a fold and a seed, without meaning.
_LIST_WORDS = frozenset({"idx", "index", "indices", "ids", "obs", "cells"})


@dataclass(frozen=True)
class SavedSplit:
    """A split as read from a file.

    Attributes
    ----------
    name
        Name of the file, folder or column.
    fold_of
        {row name or position: fold}; rows that are not listed are unused.
    complete
        Whether every row must be listed (in a CSV file, but not in lists of rows).
    """

    name: str
    fold_of: Mapping[str | int, Fold]
    complete: bool


@dataclass(frozen=True)
class ImportedSplit:
    """A saved split, frozen on a data set.

    Attributes
    ----------
    name
        Name of the file, folder or column.
    split
        The split.
    controls
        Number of control rows whose fold in the file was dropped.
    lacking
        Names of rows in a fold of the saved split that the data set does not have.
    """

    name: str
    split: FrozenSplit
    controls: int
    lacking: tuple[str, ...] = ()


def read_split_csv(path: Path) -> SavedSplit:
    """Read a CSV file of ``row name,split``, with or without a header line; an empty split means unused.

    Raises
    ------
    SplitError
        If the file has other columns, an unknown fold, or a row twice.
    """
    lines = read_lines(path, 2)
    if not lines or any(len(line) != 2 for line in lines):
        widths = sorted({len(line) for line in lines})
        msg = (
            f"{path} must have two columns, row name and split, found {widths or 'no lines'}; drop the others"
        )
        raise SplitError(msg)
    # Header lines are accepted although PerturBench's saved splits have none: it writes one that it cannot
    # read.
    if lines[0][1].strip().lower() not in FOLD_NAMES:
        lines = lines[1:]
    check_folds({line[1] for line in lines}, str(path))
    fold_of: dict[str | int, Fold] = {}
    for number, (name, split) in enumerate(lines, start=1):
        if name in fold_of:
            msg = f"{path} names row {name!r} twice; name each row once"
            raise SplitError(msg)
        fold_of[name] = _fold(split, f"{path}, row {number}")
    return SavedSplit(path.stem, fold_of, complete=True)


def read_split_json(path: Path) -> SavedSplit:
    """Read a JSON file ``{fold: [positions or row names]}``.

    Raises
    ------
    SplitError
        If the file has another form, an unknown fold, or a row twice.
    """
    loaded = _json(path)
    if not isinstance(loaded, dict) or not loaded:
        msg = f"{path} must hold {{fold: [row positions or names]}}, found {type(loaded).__name__}"
        raise SplitError(msg)
    return _saved(path.stem, {str(k): v for k, v in loaded.items()}, str(path))


def read_split_dir(path: Path) -> list[SavedSplit]:
    """Read all saved splits of a folder.

    Each CSV or JSON file is one split; JSON lists of rows in files named after folds (``train.json``, ``val_idx.json``)
    are one split together, and several seeds or folds of a cross-validation several: by what else the names say
    (``train_seed1.json``, ``fold0-test.json``), or, where the folder itself has none, by the
    subfolder that they lie in.

    Raises
    ------
    SplitError
        If there is no split, or one cannot be read.
    """
    if not path.is_dir():
        msg = f"{path} is not a folder; give --csv for one file"
        raise SplitError(msg)
    out = _splits_in(path)
    if not out:
        folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        out = [split for inner in folders for split in _splits_in(inner)]
    if not out:
        found = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        msg = f"{path} has no CSV or JSON split, found {found}; give the folder of saved splits"
        raise SplitError(msg)
    return out


def _splits_in(path: Path) -> list[SavedSplit]:
    """Return the splits of one folder: whole ones, then those of lists, then those of CSV files."""
    lists: dict[str, dict[str, Path]] = {}
    out = []
    for file in _files(path, ".json"):
        named = _fold_of_file(file)
        if named is None or isinstance(_json(file), dict):
            out.append(read_split_json(file))
            continue
        fold, which = named
        earlier = lists.setdefault(which, {}).setdefault(fold, file)
        if earlier is not file:
            msg = f"{path}: {earlier.name} and {file.name} both list fold {fold!r} of one split; keep one of them"
            raise SplitError(msg)
    for which, files in lists.items():
        name = f"{path.name}_{which}" if which else path.name
        out.append(_saved(name, {fold: _json(file) for fold, file in files.items()}, str(path)))
    return out + [read_split_csv(file) for file in _files(path, ".csv", ".tsv")]


def _files(path: Path, *suffixes: str) -> list[Path]:
    """Return the files of a folder with one of the suffixes, in small or capital letters."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())


def _fold_of_file(path: Path) -> tuple[str, str] | None:
    """Return (the fold, the rest of the name) of a file that is named after a fold, None if it holds a whole split."""
    words = [w for w in re.split(r"[_.\- ]+", path.stem.lower()) if w and w not in _LIST_WORDS]
    folds = [w for w in words if w in FOLD_NAMES]
    if len(folds) != 1:
        return None
    return folds[0], "_".join(w for w in words if w != folds[0])


def _json(path: Path) -> Any:
    return read_json_file(path, SplitError)


def _saved(name: str, lists: Mapping[str, Any], where: str) -> SavedSplit:
    check_folds((key for key, rows in lists.items() if rows), where)
    fold_of: dict[str | int, Fold] = {}
    for key, rows in lists.items():
        fold = _fold(key, where)
        plain = isinstance(rows, list) and all(
            isinstance(r, str | int) and not isinstance(r, bool) for r in rows
        )
        if not plain:
            msg = f"{where}: {key!r} must be a list of row positions or row names"
            raise SplitError(msg)
        for row in rows:
            if row in fold_of:
                msg = f"{where} lists row {row!r} in {fold_of[row]!r} and {fold!r}; list each row once"
                raise SplitError(msg)
            fold_of[row] = fold
    return SavedSplit(name, fold_of, complete=False)


def _fold(text: str, where: str) -> Fold:
    fold = FOLD_NAMES.get(text.strip().lower())
    if fold is None:
        msg = f"{where}: unknown split {text!r}; use one of {', '.join(k for k in FOLD_NAMES if k)}"
        raise SplitError(msg)
    return fold


# ---- freezing --------------------------------------------------------------------------------------------


def row_codes(ds: PerturbDataset, saved: SavedSplit, names: Sequence[str]) -> tuple[IntArray, int]:
    """Return (int8 [N] fold code of every row of `ds`, number of control rows that had a fold in the file).

    Parameters
    ----------
    ds
        The data set.
    saved
        The saved split.
    names
        Row names of the file that the split was made on, in its order.

    Raises
    ------
    SplitError
        If the rows of data set, file and split do not match.
    """
    known = {name: i for i, name in enumerate(names)}
    numbered = all(name.isdecimal() for name in names)
    if numbered and not saved.complete and any(isinstance(row, int) for row in saved.fold_of):
        # Names written as numbers would be taken as positions of other rows.
        place = next((i for i, name in enumerate(names) if int(name) != i), None)
        if place is not None:
            msg = (
                f"split {saved.name!r} lists rows as numbers, but the rows of the file are named by numbers as well, which "
                f"are not their positions (row {place} is called {names[place]!r}); give row names as text, e.g. "
                f'["{names[place]}"]'
            )
            raise SplitError(msg)
    file_codes = np.full(len(names), -1, dtype=np.int8)
    for row, fold in saved.fold_of.items():
        place = row if isinstance(row, int) else known.get(row, -1)
        if not 0 <= place < len(names):
            msg = f"split {saved.name!r} has row {row!r}, which the file of {len(names)} rows has not; give the file it was made on"
            raise SplitError(msg)
        if file_codes[place] >= 0:
            msg = f"split {saved.name!r} has row {names[place]!r} by name and by position; use one of them"
            raise SplitError(msg)
        file_codes[place] = schema.FOLDS.index(fold)
    if saved.complete and (file_codes < 0).any():
        lost = names[int(np.flatnonzero(file_codes < 0)[0])]
        msg = f"split {saved.name!r} lacks {int((file_codes < 0).sum())} rows of the file, e.g. {lost!r}; give the file it was made on"
        raise SplitError(msg)
    file_codes[file_codes < 0] = schema.FOLDS.index("unused")
    places = np.asarray([known.get(str(row), -1) for row in ds.row_ids], dtype=np.int64)
    if (places < 0).any():
        lost = str(ds.row_ids[int(np.flatnonzero(places < 0)[0])])
        msg = (
            f"{int((places < 0).sum())} rows of data set {ds.name!r} are not in the file, e.g. {lost!r}; "
            "import the data set from this file"
        )
        raise SplitError(msg)
    codes = file_codes[places]
    if (codes == schema.FOLDS.index("unused")).all():
        msg = f"split {saved.name!r} has none of the {ds.n_obs} rows of data set {ds.name!r} in a fold; give the split made on them"
        raise SplitError(msg)
    control = ds.condition_codes < 0
    dropped = int((control & (codes != schema.FOLDS.index("unused"))).sum())
    codes[control] = -1
    return codes, dropped


def freeze_rows(
    ds: PerturbDataset,
    codes: IntArray,
    params: Mapping[str, Any],
    *,
    rule: int = RULE,
) -> FrozenSplit:
    """Return the by-row `explicit` split with given fold codes.

    The split is i.i.d. if any test condition is also in train or validation; otherwise its axis (what is
    unseen in test) follows from the conditions. Validation and calibration use the folds in `codes`, or inner
    folds where `codes` has no such fold.

    Parameters
    ----------
    ds
        The data set.
    codes
        int8 [N], positions in `schema.FOLDS`, -1 for control rows.
    params
        Parameters to record in the split.
    rule
        One of `EARLIER_RULES`, to make a split as it was made then.

    Raises
    ------
    SplitError
        If train or test has no perturbed row.
    """
    rows = {fold: np.flatnonzero(codes == i) for i, fold in enumerate(schema.FOLDS)}
    for fold in ("train", "test"):
        if not len(rows[fold]):
            msg = f"the split has no perturbed row in {fold}; give one with rows in train and test"
            raise SplitError(msg)
    present = {fold: np.unique(ds.condition_codes[r]) for fold, r in rows.items()}
    fitted = np.union1d(present["train"], present["val"])
    axes: tuple[Axis, ...] = ()
    if not np.isin(present["test"], fitted).any():
        axes = axes_of(ds.conditions.iloc[present["test"]], ds.conditions.iloc[fitted], rule)
    rng = np.random.default_rng([_SEED, 1])
    inner = inner_folds(ds.conditions.iloc[present["train"]], inner_unit_of_axes(axes), rng)
    fallback: Policy = "none" if inner is None else "inner_cv"
    split = Split(
        dataset=DatasetRef(name=ds.name, content_sha256=ds.content_sha256, genes_sha256=ds.genes_sha256),
        kind="explicit",
        params=dict(params),
        seed=_SEED,
        folds=RowFolds(n_obs=ds.n_obs, rows_sha256=rows_digest(ds.row_ids), codes_sha256=codes_digest(codes)),
        validation="fold" if len(rows["val"]) else fallback,
        calibration="fold" if len(rows["calib"]) else fallback,
        inner=inner,
        ood_axes=axes,
    )
    return FrozenSplit(split, codes)


def import_saved(
    ds: PerturbDataset,
    saved: SavedSplit,
    names: Sequence[str],
    freeze: Callable[..., FrozenSplit] = freeze_rows,
) -> ImportedSplit:
    """Freeze a saved split on a data set (see `row_codes` and `freeze_rows`).

    Parameters
    ----------
    ds
        The data set.
    saved
        The saved split.
    names
        Row names of the file that the split was made on, in its order.
    freeze
        As `freeze_rows`, which does not look for an earlier split.
    """
    codes, controls = row_codes(ds, saved, names)
    split = freeze(ds, codes, {"source": "perturbench"})
    return ImportedSplit(saved.name, split, controls, lacking_rows(ds, saved, names))


def saved_in_columns(columns: Mapping[str, Sequence[Any]]) -> list[SavedSplit]:
    """Return the splits stored in obs columns of a file: ``split`` and ``..._split_seed<n>``.

    Parameters
    ----------
    columns
        {obs column: value of each row of the file}.
    """
    out = []
    for name, values in columns.items():
        if name == "split" or re.fullmatch(r".*_split_seed\d+", name):
            # A value that differs from itself is NaN.
            texts = ["" if value is None or value != value else str(value) for value in values]
            check_folds(set(texts), f"obs column {name}")
            fold_of: dict[str | int, Fold] = {i: _fold(t, f"obs column {name}") for i, t in enumerate(texts)}
            out.append(SavedSplit(name, fold_of, complete=True))
    return out
