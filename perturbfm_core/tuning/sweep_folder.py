"""Files of a sweep: what it is of, one file per scored configuration, and the log of revealed test scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from perturbfm_core.config import check_key
from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import append_line, read_json, write_json
from perturbfm_core.tuning.identity import check_identity
from perturbfm_core.tuning.sweep_grid import SweepCell
from perturbfm_core.tuning.validation import FoldScore, value_of

SWEEP_FILE, LOG_FILE, CELLS = "sweep.json", "reveals.jsonl", "cells"


@dataclass(frozen=True)
class SweepScore:
    """A configuration of a sweep with what validation says of it.

    Attributes
    ----------
    config_hash, entry, values
        The configuration: identity, name, and what the grid gave it.
    scores
        Of each validation fold, empty where it failed or was not scored yet.
    reason
        Why it failed, None otherwise.
    reads
        Digests of the graphs and features that it read (`Validation.reads`).
    """

    config_hash: str
    entry: str
    values: dict[str, Any]
    scores: tuple[FoldScore, ...] = ()
    reason: str | None = None
    reads: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """Return the mean correlation on validation, None where it was not scored."""
        return value_of(list(self.scores)) if self.scores else None

    @property
    def state(self) -> str:
        """Return ``complete``, ``failed`` or ``missing``."""
        return "complete" if self.scores else "missing" if self.reason is None else "failed"


@dataclass(frozen=True)
class Reveal:
    """A line of the log: a configuration whose test scores were revealed.

    Attributes
    ----------
    time, config_hash, entry
        When and what.
    value, rank, complete
        Its value on validation, its place by it, and how many configurations were compared.
    runs
        Ids of its runs; empty if the reveal was interrupted before they were published.
    """

    time: str
    config_hash: str
    entry: str
    value: float
    rank: int
    complete: int
    runs: list[str] = field(default_factory=list)


class SweepFolder:
    """The folder of one sweep.

    Parameters
    ----------
    store
        The store that it lies in.
    name
        Name of the sweep.
    """

    def __init__(self, store: ArtifactStore, name: str) -> None:
        self.name = check_key(name, "sweep name")
        self.path = store.sweeps / name
        self.log_file = self.path / LOG_FILE

    def declare(self, identity: dict[str, Any], cells: Sequence[SweepCell]) -> None:
        """Write what the sweep is of, or check that it is the same as before; its grid may have grown.

        Raises
        ------
        ConfigError
            If the sweep of this name is of other inputs.
        """
        file = self.path / SWEEP_FILE
        old: dict[str, Any] = read_json(file) if file.is_file() else {}
        check_identity(f"sweep {self.name!r}", old.get("identity", identity), identity, "--name")
        known = {c["config_hash"]: c for c in old.get("cells", [])}
        for cell in cells:
            known.setdefault(
                cell.config_hash,
                {"config_hash": cell.config_hash, "entry": cell.entry.name, "values": cell.values},
            )
        content = {"identity": identity, "cells": list(known.values())}
        if content != old:
            write_json(file, content)

    def identity(self) -> dict[str, Any]:
        """Return what the sweep is of.

        Raises
        ------
        StoreError
            If there is no such sweep.
        """
        file = self.path / SWEEP_FILE
        if not file.is_file():
            others = (
                ", ".join(sorted(p.parent.name for p in self.path.parent.glob(f"*/{SWEEP_FILE}"))) or "none"
            )
            msg = f"there is no sweep {self.name!r}; sweeps: {others}"
            raise StoreError(msg)
        identity: dict[str, Any] = read_json(file)["identity"]
        return identity

    def cells(self) -> list[SweepScore]:
        """Return every configuration in the order of the grid, with its scores as far as they are known."""
        self.identity()
        return [
            self.score(c["config_hash"]) or SweepScore(c["config_hash"], c["entry"], c["values"])
            for c in read_json(self.path / SWEEP_FILE)["cells"]
        ]

    def score(self, config_hash: str) -> SweepScore | None:
        """Return what is kept of a configuration, None where nothing is."""
        file = self.path / CELLS / f"{config_hash}.json"
        if not file.is_file():
            return None
        kept = read_json(file)
        scores = tuple(FoldScore.from_json(s) for s in kept["scores"])
        reads = kept.get("reads", {})
        return SweepScore(config_hash, kept["entry"], kept["values"], scores, kept["reason"], reads)

    def keep(self, score: SweepScore) -> None:
        """Write the scores of a configuration."""
        content = {
            "entry": score.entry,
            "values": score.values,
            "scores": [s.to_json() for s in score.scores],
            "reason": score.reason,
            **({"reads": score.reads} if score.reads else {}),
        }
        write_json(self.path / CELLS / f"{score.config_hash}.json", content)

    # ---- the log -------------------------------------------------------------------------------------

    def log(self, event: str, **fields: Any) -> None:
        """Append a line to the log of reveals, which nothing is ever removed from."""
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        append_line(self.log_file, json.dumps({"time": time, "event": event, **fields}, allow_nan=False))

    def reveals(self) -> list[Reveal]:
        """Return the revealed configurations in the order of the log."""
        found: dict[str, Reveal] = {}
        for line in self.log_file.read_text(encoding="utf-8").splitlines() if self.log_file.is_file() else []:
            try:
                said = json.loads(line)
            except ValueError:
                # What a kill left of a line.
                continue
            key = said.get("config_hash")
            if said.get("event") == "reveal" and key not in found:
                names = ("time", "config_hash", "entry", "value", "rank", "complete")
                found[key] = Reveal(**{name: said[name] for name in names})
            elif said.get("event") == "scored" and key in found:
                found[key].runs[:] = said["runs"]
        return list(found.values())


def sweep_names(store: ArtifactStore) -> list[str]:
    """Return the names of all sweeps."""
    return sorted(path.parent.name for path in store.sweeps.glob(f"*/{SWEEP_FILE}"))
