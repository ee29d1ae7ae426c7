"""Runs: their configuration and identity, and what their files say of themselves."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.config import Frozen, ModelEntry, Tuned, content_hash, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.models import new_model
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store import ArtifactStore, read_json
from perturbfm_core.uncertainty import UncertaintyConfig


@dataclass(frozen=True)
class Stage:
    """An immutable object that a stage made or found.

    Attributes
    ----------
    key, path
        Its identity and directory under ``runs/.objects``.
    reused
        Whether it was there already.
    """

    key: str
    path: Path
    reused: bool


class RunConfig(Frozen):
    """What decides a fit beside data, split and code: its hash names the run.

    `tuned` is not part of it: it says where the parameters come from.
    """

    entry: str
    model: str
    params: dict[str, Any]
    seed: int
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    tuned: Tuned | None = Field(default=None, exclude=True)

    @property
    def config_hash(self) -> str:
        """Return the hash with the seed."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def entry_hash(self) -> str:
        """Return the hash without the seed: all seeds of one configuration share it."""
        return content_hash(self.model_dump(mode="json", exclude={"seed"}))


def run_configs(entry: ModelEntry) -> list[RunConfig]:
    """Return one resolved configuration per seed of a catalog entry."""
    params = new_model(entry.model, entry.params).params.model_dump(mode="json")
    asked = parse(UncertaintyConfig, entry.uncertainty, f"uncertainty of entry {entry.name!r}")
    return [
        RunConfig(
            entry=entry.name,
            model=entry.model,
            params=params,
            seed=seed,
            uncertainty=asked,
            tuned=entry.tuned,
        )
        for seed in entry.seeds
    ]


def parent_run(store: ArtifactStore, frozen: FrozenSplit, config: RunConfig, scores_key: str) -> str | None:
    """Return the newest run of the same configuration whose scores were others, if any."""
    tail = f"_{frozen.hash[:7]}_{config.entry}_{config.config_hash[:8]}"
    for path in reversed(store.run_dirs()):
        if tail in path.name:
            old = read_json(path / schema.CONFIG_FILE)
            if old.get("objects", {}).get("scores") != scores_key:
                return str(old["run_id"])
            return None
    return None


def run_meta(
    ds: PerturbDataset, frozen: FrozenSplit, comparison: Comparison, stats: SplitStats
) -> dict[str, Any]:
    """Return what ``config.json`` says of data, split, flags and alignment."""
    split = frozen.split
    return {
        "schema_version": schema.RUN_SCHEMA_VERSION,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "dataset": {"name": ds.name, "content_sha256": ds.content_sha256},
        "split": {
            "hash": frozen.hash,
            "key": split.key,
            "kind": split.kind,
            "cv": split.cv.model_dump(mode="json") if split.cv else None,
        },
        "graph_hash": None,
        "flags": {
            "no_signal": stats.no_signal,
            "shared_control": bool(comparison.shared_control.any()),
        },
        "generator": comparison.cells.generator.model_dump(mode="json") if comparison.cells else None,
        "alignment": comparison.alignment,
        "var_filled": comparison.var_filled,
        "notes": comparison.notes,
    }


def named_scores(table: pd.DataFrame, meta: dict[str, Any]) -> pd.DataFrame:
    """Return scores with the columns that name their run, in the order of the schema."""
    out = table.assign(
        run_id=meta["run_id"],
        dataset=meta["dataset"]["name"],
        split_hash=meta["split"]["hash"],
        split_kind=meta["split"]["kind"],
        entry=meta["entry"],
        config_hash=meta["config_hash"],
        seed=meta["seed"],
    )
    return out[list(schema.SCORE_COLUMNS)]


def cores() -> int:
    """Return how many cores this process may use; `OMP_NUM_THREADS` asks for fewer."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(own, int(asked)) if asked.isdigit() and int(asked) > 0 else own


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as the content of a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
