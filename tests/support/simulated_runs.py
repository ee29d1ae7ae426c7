"""Run directories of full size that were never fitted: every metric of every panel, by condition and by groups of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from perturbfm_core import schema
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import run_config

# Of one run: scores by these groups, as those of a screen of 48 perturbations in 2 contexts.
GROUPS = {"global": 1, "context": 2, "stratum": 8, "perturbation": 48, "condition": 96}


@dataclass(frozen=True)
class Grid:
    """Cells of a benchmark.

    Attributes
    ----------
    entries, seeds
        How many of each.
    boards
        Number of folds of each board.
    """

    entries: int
    seeds: int
    boards: Sequence[int]

    @property
    def splits(self) -> pd.DataFrame:
        """Return the table of splits."""
        rows = []
        for b, k in enumerate(self.boards):
            for fold in range(k):
                rows.append(
                    {
                        "split_hash": f"{b:03x}{fold:04x}" + "a" * 57,
                        "board": f"sim.perturbation_ood.{b}",
                        "cv_k": k if k > 1 else None,
                        "unit": "perturbation",
                        "ceiling": None,
                        "floor": None,
                    }
                )
        return pd.DataFrame(rows)

    @property
    def cells(self) -> list[tuple[str, int, str]]:
        """Return (entry, seed, split) of every cell."""
        names = [f"entry{i:02d}" for i in range(self.entries)]
        return list(product(names, range(self.seeds), self.splits["split_hash"]))


class Simulator:
    """Writer of run directories.

    Parameters
    ----------
    store
        Where they are written.
    n_metrics
        How many of all metrics, all by default.
    """

    def __init__(self, store: ArtifactStore, n_metrics: int | None = None) -> None:
        self._store = store
        metrics = [m for _, m in METRICS.items()][:n_metrics]
        perts = [f"P{i:02d}" for i in range(GROUPS["perturbation"])]
        keys = {
            "global": ["all"],
            "context": ["c0", "c1"],
            "stratum": [f"s{i}" for i in range(GROUPS["stratum"])],
            "perturbation": perts,
            "condition": [f"c{c}|{p}|CRISPRi||" for p in perts for c in range(2)],
        }
        rows = [(m, scope, key) for m in metrics for scope, names in keys.items() for key in names]
        self._columns = {
            "panel": _texts([m.panel for m, _, _ in rows]),
            "metric": _texts([m.name for m, _, _ in rows]),
            "metric_version": _texts([m.version for m, _, _ in rows]),
            "scope": _texts([s for _, s, _ in rows]),
            "key": _texts([k for _, _, k in rows]),
            "n": pa.array([96 // len(keys[s]) for _, s, _ in rows], pa.int64()),
            "direction": _texts([m.direction for m, _, _ in rows]),
        }
        self.n_rows = self._size = len(rows)

    def write(self, entry: str, seed: int, split: str, *, created: int = 0, **config: Any) -> str:
        """Write a run and return its id.

        Parameters
        ----------
        entry, seed, split
            The cell.
        created
            Seconds after the first run.
        config
            Further arguments of `run_config`.
        """
        family = "baseline" if entry[-2:] < "08" else "learned"
        stamp = pd.Timestamp("2024-01-01") + pd.Timedelta(seconds=created)
        known = run_config(
            entry,
            split=split,
            seed=seed,
            family=family,
            created=stamp.strftime("%Y-%m-%dT%H:%M:%S.%f"),
            **config,
        )
        folder = self._store.run(known["run_id"])
        folder.mkdir(parents=True)
        for name in schema.RUN_FILES:
            (folder / name).write_text("")
        (folder / schema.CONFIG_FILE).write_text(json.dumps(known))
        pq.write_table(self._scores(known), folder / schema.SCORES_FILE)
        return str(known["run_id"])

    def _scores(self, known: Mapping[str, Any]) -> pa.Table:
        rng = np.random.default_rng(zlib.crc32(known["run_id"].encode()))
        values = rng.normal(0.5, 0.2, self._size)
        missing = rng.random(self._size) < 0.05
        same = {
            "run_id": known["run_id"],
            "dataset": known["dataset"]["name"],
            "split_hash": known["split"]["hash"],
            "split_kind": known["split"]["kind"],
            "entry": known["entry"],
            "config_hash": known["config_hash"],
        }
        columns: dict[str, Any] = {name: _same(value, self._size) for name, value in same.items()}
        columns |= self._columns
        columns["seed"] = pa.array(np.full(self._size, known["seed"]), pa.int64())
        columns["value"] = pa.array(values, mask=missing)
        columns["status"] = pa.DictionaryArray.from_arrays(
            pa.array(missing.astype(np.int32)), pa.array(["ok", "undefined"])
        )
        why = np.zeros(self._size, dtype=np.int32)
        columns["reason"] = pa.DictionaryArray.from_arrays(
            pa.array(why, mask=~missing), pa.array(["a side is constant over the genes"])
        )
        return pa.table({name: columns[name] for name in schema.SCORE_COLUMNS})


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def _same(value: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int32)), pa.array([value]))
