"""Index of a split folder: one entry per frozen split, readable without opening splits or data."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.config import Frozen, parse, slug
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Level
from perturbfm_core.store.atomic import read_json

INDEX_FILE = "index.json"


class SplitTraits(Frozen):
    """Properties of a split's training data that decide which models are applicable."""

    level: Level = "cell"
    controls: bool = True
    train_contexts: int = 1
    train_combos: int = 0


class IndexEntry(Frozen):
    """One entry of ``splits/index.json``: identity, kind and traits of a split."""

    hash: str
    key: str
    dataset: str
    content_sha256: str
    kind: str
    cv_group: str | None = None
    fold: int | None = None
    ood_axes: tuple[str, ...] = ()
    traits: SplitTraits = SplitTraits()
    supersedes: str | None = None

    @property
    def board(self) -> str:
        """Return the board that the split belongs to: that of its cross-validation, else its own key."""
        if self.cv_group is None:
            return self.key
        return f"{slug(self.dataset)}.{self.kind}.cv-{self.cv_group[:12]}"


class Index(Frozen):
    """The index of a split folder."""

    schema_version: int = schema.SPLIT_SCHEMA_VERSION
    splits: tuple[IndexEntry, ...] = ()


def read_index(split_dir: Path) -> Index:
    """Return the index of a split folder, empty where there is none.

    Raises
    ------
    SplitError, ConfigError
        If the file is damaged.
    """
    path = split_dir / INDEX_FILE
    return parse(Index, read_json(path, SplitError), str(path)) if path.is_file() else Index()
