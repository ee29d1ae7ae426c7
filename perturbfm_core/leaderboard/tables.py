"""The tables of splits and data sets beside the scores."""

from __future__ import annotations

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.catalog import load_catalog
from perturbfm_core.config import slug
from perturbfm_core.errors import DatasetError
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store import ArtifactStore, read_json

HEADLINE_SQL = (
    "SELECT board, rank, entry, value AS pearson, ci_low, ci_high, diff_best_baseline, ceiling, null_floor, no_signal "
    "FROM leaderboard WHERE panel = 'delta' AND metric = 'pearson' ORDER BY board, rank NULLS LAST, entry"
)

_SPLIT_COLUMNS = [
    "split_hash",
    "split_key",
    "dataset",
    "data_sha256",
    "kind",
    "board",
    "cv_group",
    "cv_fold",
    "cv_k",
    "unit",
    "validation",
    "calibration",
    "n_train",
    "n_val",
    "n_calib",
    "n_test",
    "n_unused",
    "no_signal",
    "ceiling_pearson",
    "null_pearson",
    "ceiling",
    "floor",
]


def split_table(store: ArtifactStore) -> pd.DataFrame:
    """Return one row per frozen split, with its board, ceiling and floor."""
    folder = SplitFolder(store.split_dir)
    rows = []
    for split_hash in folder.hashes():
        split = folder.load(split_hash).split
        stats = folder.stats(split_hash)
        counts = stats.counts if stats else {}
        ceiling, floor = (stats.ceiling, stats.floor) if stats else (None, None)
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
                "ceiling_pearson": ((ceiling or {}).get("pearson") or {}).get("half"),
                "null_pearson": ((floor or {}).get("null") or {}).get("pearson"),
                "ceiling": ceiling,
                "floor": floor,
            }
        )
    return pd.DataFrame(rows, columns=_SPLIT_COLUMNS)


def dataset_table(store: ArtifactStore) -> pd.DataFrame:
    """Return one row per data set artifact at hand."""
    rows = []
    places = {p.resolve(): p for p in store.datasets()}
    for entry in load_catalog().datasets.values():
        path = store.home / entry.path if entry.path else store.dataset(entry.name)
        if (path / schema.META_FILE).is_file():
            places.setdefault(path.resolve(), path)
    for path in places.values():
        meta = read_json(path / schema.META_FILE, DatasetError)
        info = meta["metadata"]
        obs = meta["obs"]
        rows.append(
            {
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
        )
    columns = ["dataset", "data_sha256", "level", "space", "n_obs", "n_genes", "source", "licence", "path"]
    return pd.DataFrame(rows, columns=columns)
