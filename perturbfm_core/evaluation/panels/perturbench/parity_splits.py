"""Parity check with PerturBench's splitters: the fold of every cell in every run of a case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core.errors import MetricError, SplitError
from perturbfm_core.evaluation.parity import Record, register_case
from perturbfm_core.splits.perturbench.saved import read_split_csv
from perturbfm_core.splits.perturbench.splitters import NO_SPLIT, SPLITS, Options, perturbench_split

_CODES = {"unused": 0.0, **{name: float(i) for i, name in enumerate((NO_SPLIT, *SPLITS))}}


def _expected(folder: Path) -> dict[str, Any] | None:
    path = folder / "expected.json"
    if not path.is_file() or not (folder / "obs.csv").is_file():
        return None
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    runs = loaded.get("runs") if isinstance(loaded, dict) else None
    return loaded if isinstance(runs, dict) and "perturbation_key" in loaded else None


@register_case("perturbench_splits", lambda folder: _expected(folder) is not None)
def compare(folder: Path) -> Iterator[Record]:
    """Yield one record per cell and run (0 none, 1 train, 2 val, 3 test), metric = name of the run.

    A run that PerturBench refuses is one record: 1 if it is refused here too.

    Raises
    ------
    MetricError
        If the folder lacks the runs, or a saved split does not have the rows of ``obs.csv``.
    """
    expected = _expected(folder)
    if expected is None:
        msg = f"{folder} has no expected.json with runs of splitters beside obs.csv"
        raise MetricError(msg)
    # Names such as "NA" are names, not missing values.
    obs = pd.read_csv(folder / "obs.csv", index_col=0, dtype=str, keep_default_na=False)
    if str(expected.get("obs_dtype", "")).startswith("category"):
        obs = obs.astype("category")
    obs.index = obs.index.astype(str)
    for name, run in expected["runs"].items():
        yield from _run(folder, expected, obs, name, run)


def _hash_seed(expected: dict[str, Any]) -> str | None:
    """Return the hash seed of the peer's process, None where it is not known."""
    seed = str(expected.get("PYTHONHASHSEED", ""))
    return seed if seed.isdigit() else None


def _run(
    folder: Path, expected: dict[str, Any], obs: pd.DataFrame, name: str, run: dict[str, Any]
) -> Iterator[Record]:
    try:
        got = perturbench_split(
            obs,
            run["method"],
            Options.of(run.get("kwargs", {})),
            perturbation_key=expected["perturbation_key"],
            covariate_keys=run.get("covariate_keys"),
            control=expected.get("control", "control"),
            delimiter=expected.get("delimiter", "+"),
            labels=run.get("stratify_labels_sorted"),
            hash_seed=_hash_seed(expected),
            refuse_empty="error" in run,
        )
    except SplitError:
        yield Record(name, "refused", float("error" in run), 1.0)
        return
    if "error" in run:
        yield Record(name, "refused", 1.0, 0.0)
        return
    saved = read_split_csv(folder / f"split_{name}.csv")
    if list(saved.fold_of) != list(obs.index):
        msg = f"split_{name}.csv of {folder.name} does not have the rows of obs.csv in their order"
        raise MetricError(msg)
    for (row, theirs), ours in zip(saved.fold_of.items(), got.tolist(), strict=True):
        yield Record(name, str(row), _CODES[theirs], _CODES[ours])
