"""A store with two boards of made-up runs, for the leaderboard page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.leaderboard import database
from perturbfm_core.pipeline.leaderboard_page import write_page
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config, score_rows, split_table, write_run

# A board of two folds, and one of two of which one is there.
WHOLE, PART = ("a" * 64, "b" * 64), ("c" * 64, "d" * 64)
HOSTILE = '<img src=x onerror="document.title=1">'
ENTRIES = {
    "ridge": ("baseline", 0.50),
    "additive": ("baseline", 0.40),
    "network": ("learned", 0.61),
    "lab": ("external", 0.45),
    HOSTILE: ("learned", 0.30),
}
METRICS = {
    "pearson_centered": ("delta", "max", 1.0),
    "rmse": ("delta", "min", -0.4),
    "coverage_0.9": ("uncertainty", "target", 0.0),
    "conformal_coverage_0.9": ("uncertainty", "target", 0.0),
}
# CPU seconds of a fit and of a prediction, and bytes; one entry was handed in, and has none.
COSTS = {
    "ridge": (0.5, 0.25, 2e8),
    "additive": (0.05, 0.05, 1e8),
    "network": (80.0, 20.0, 9e8),
    HOSTILE: (3.0, 1.0, 4e8),
}
# One more board, of other data and another kind.
OTHER, OTHER_BOARD = "e" * 64, "other.context_ood.eeee"
CONDITIONS = [f"C{c}|G{g}|||" for g in range(8) for c in range(2)]


def made_store(root: Path, *, other: bool = False) -> ArtifactStore:
    """Return a store with runs of five entries, its leaderboard and its page.

    Parameters
    ----------
    root
        Folder of the store.
    other
        Whether there is a board of other data and another kind as well.
    """
    store = ArtifactStore(root / "home", root / "splits")
    for split in (*WHOLE, PART[0]):
        for entry in ENTRIES:
            _write(store, split, entry)
    splits = pd.concat(
        [
            split_table(*WHOLE, board="screen.combo_ood.cv-aaaa").assign(cv_fold=[0, 1]),
            split_table(*PART, board="screen.perturbation_ood.cv-cccc").assign(cv_fold=[0, 1]),
        ],
        ignore_index=True,
    )
    bounds = {
        "ceiling": {"pearson_centered": {"half": 0.55, "noise_free": 0.8}},
        "floor": {"control_mean": {"pearson_centered": 0.05}, "train_mean": {"pearson_centered": None}},
    }
    splits = splits.assign(
        **{name: [value] * len(splits) for name, value in bounds.items()}, dataset="screen", kind="combo_ood"
    )
    data = {"dataset": ["screen"], "data_sha256": ["d" * 64]}
    if other:
        for entry in ENTRIES:
            _write(store, OTHER, entry)
        more = split_table(OTHER, board=OTHER_BOARD).assign(dataset="other", kind="context_ood")
        splits = pd.concat([splits, more], ignore_index=True)
        data = {"dataset": ["screen", "other"], "data_sha256": ["d" * 64, "0" * 64]}
    database.rebuild(store, lambda: splits, lambda runs: pd.DataFrame(data))
    write_page(store)
    return store


def _write(store: ArtifactStore, split: str, entry: str) -> None:
    family, level = ENTRIES[entry]
    name = "hostile" if entry == HOSTILE else entry
    config: dict[str, Any] = run_config(name, split=split, family=family) | {"entry": entry}
    if split == OTHER:
        config |= {"data_hash": "0" * 64, "dataset": {"name": "other", "content_sha256": "0" * 64}}
        config["split"] = {"hash": split, "key": OTHER_BOARD, "kind": "context_ood"}
    if entry in COSTS:
        fit, predict, peak = COSTS[entry]
        config["cost"] = {"fit_cpu_s": fit, "predict_cpu_s": predict, "fit_peak_bytes": peak}
    rng = np.random.default_rng([len(entry), ord(split[0])])
    parts = []
    # Folds test different conditions, as those of a cross-validation do.
    own = CONDITIONS[::2] if split in (WHOLE[0], PART[0]) else CONDITIONS[1::2]
    for metric, (panel, direction, factor) in METRICS.items():
        centre = 0.85 if panel == "uncertainty" else 0.5 + factor * (level - 0.5)
        values = dict(zip(own, centre + rng.normal(0, 0.05, len(own)), strict=True))
        if entry == "lab" and metric == "pearson_centered":
            values[own[0]] = float("nan")
        parts.append(score_rows(config, values, metric=metric, panel=panel, direction=direction))
    folder = write_run(store, config, pd.concat(parts))
    (folder / "report.html").write_text(f"<!doctype html><title>{name}</title><h1>report of {name}</h1>")
