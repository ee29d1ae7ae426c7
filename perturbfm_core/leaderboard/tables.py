"""Tables of splits and data sets in the leaderboard database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import slug
from perturbfm_core.errors import DatasetError
from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.leaderboard.headline import marks_of
from perturbfm_core.splits.folder import SplitFolder, SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json

DATASET_COLUMNS: Columns = {
    "dataset": "text",
    "data_sha256": "text",
    "level": "text",
    "space": "text",
    "n_obs": "int",
    "n_genes": "int",
    "source": "text",
    "licence": "text",
    "path": "text",
}

SPLIT_COLUMNS: Columns = {
    "split_hash": "text",
    "split_key": "text",
    "dataset": "text",
    "data_sha256": "text",
    "kind": "text",
    "board": "text",
    "cv_group": "text",
    "cv_fold": "int",
    "cv_k": "int",
    "unit": "text",
    "validation": "text",
    "calibration": "text",
    "n_train": "int",
    "n_val": "int",
    "n_calib": "int",
    "n_test": "int",
    "n_unused": "int",
    "no_signal": "bool",
    # Of the headline metric.
    "ceiling_half": "float",
    "ceiling_noise_free": "float",
    "control_mean_floor": "float",
}
# Why a data set cannot be read; not part of the database.
UNREAD = "unread"
# Per metric, for the standings; not part of the database.
BOUND_COLUMNS = ("ceiling", "floor", "condition_bounds")


def split_table(
    store: ArtifactStore,
    stats_of: Callable[[FrozenSplit], SplitStats | None],
    conditions_of: Callable[[FrozenSplit], tuple[Path, ...]] = lambda _split: (),
) -> pd.DataFrame:
    """Return one row per frozen split, with its board, ceiling and floor.

    Parameters
    ----------
    store
        The store of the splits.
    stats_of
        (split) -> its statistics, None if unknown.
    conditions_of
        (split) -> files of its ceilings and floors by condition, none if unknown.
    """
    folder = SplitFolder(store.split_dir)
    rows = []
    for split_hash in folder.hashes():
        loaded = folder.load(split_hash)
        split, stats = loaded.definition, stats_of(loaded)
        counts = stats.counts if stats else {}
        ceiling, floor = (stats.ceiling, stats.floor) if stats else (None, None)
        marks = marks_of(ceiling, floor)
        board = f"{slug(split.dataset.name)}.{split.kind}.cv-{split.cv.group[:12]}" if split.cv else split.key
        rows.append(
            {
                "split_hash": split_hash,
                "split_key": split.key,
                "dataset": split.dataset.name,
                "data_sha256": split.dataset.content_sha256,
                "kind": split.kind,
                "board": board,
                "cv_group": split.cv.group if split.cv else None,
                "cv_fold": split.cv.fold if split.cv else None,
                "cv_k": split.cv.k if split.cv else None,
                "unit": split.unit,
                "validation": split.validation,
                "calibration": split.calibration,
                **{f"n_{f}": counts.get(f, {}).get("conditions", 0) for f in schema.FOLDS},
                "no_signal": stats.no_signal if stats else None,
                "ceiling_half": marks.half,
                "ceiling_noise_free": marks.noise_free,
                "control_mean_floor": marks.control_mean,
                "ceiling": ceiling,
                "floor": floor,
                "condition_bounds": conditions_of(loaded),
            }
        )
    return pd.DataFrame(rows, columns=[*SPLIT_COLUMNS, *BOUND_COLUMNS])


def dataset_table(store: ArtifactStore, runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per data set: those in the store or catalog, and all that a run used.

    Of one that cannot be read there is ``path``, and a further column `UNREAD` that says why.

    Parameters
    ----------
    store
        The store of the data sets.
    runs
        The table of runs (`FoundRuns.table`), with the records of their data sets.
    """
    rows: dict[str, dict[str, Any]] = {}
    for record in runs.get("dataset_record", ()):
        rows[record.content_sha256] = {
            "dataset": record.name,
            "data_sha256": record.content_sha256,
            **{
                name: getattr(record, name)
                for name in DATASET_COLUMNS
                if name not in ("dataset", "data_sha256")
            },
        }
    places = {p.resolve(): p for p in store.datasets()}
    for entry in load_catalog().datasets.values():
        path = store.home / entry.path if entry.path else store.dataset(entry.name)
        if (path / schema.META_FILE).is_file():
            places.setdefault(path.resolve(), path)
    for path in places.values():
        try:
            row = _dataset_row(path)
        except (DatasetError, OSError) as error:
            rows[str(path)] = {"path": str(path), UNREAD: " ".join(str(error).split())}
        else:
            rows[row["data_sha256"]] = row
    return pd.DataFrame(list(rows.values()), columns=[*DATASET_COLUMNS, UNREAD])


def _dataset_row(path: Path) -> dict[str, Any]:
    file = path / schema.META_FILE
    meta = read_json(file, DatasetError)
    try:
        info, obs = meta["metadata"], meta["obs"]
        return {
            "dataset": info["name"],
            "data_sha256": info["content_sha256"],
            "level": info["level"],
            "space": info["space"],
            "n_obs": obs.get("n_obs", len(obs.get(schema.PERT_ID, []))),
            "n_genes": len(meta["var"]),
            "source": info["source"],
            "licence": info["licence"],
            "path": str(path),
        }
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"{file} does not describe a data set ({type(error).__name__}: {error}); remove the folder or import the data set again"
        raise DatasetError(msg) from error
