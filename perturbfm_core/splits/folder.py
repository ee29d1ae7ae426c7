"""Folder of frozen splits: writing, look-up by hash prefix, index and verification."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.config import Frozen, content_hash, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.hashing import rows_digest
from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import ConfigError, DatasetError, SplitError
from perturbfm_core.parsing import open_regular
from perturbfm_core.splits.index import INDEX_FILE, Index, IndexEntry, SplitTraits, read_index
from perturbfm_core.splits.split import FrozenSplit, RowFolds, Split
from perturbfm_core.store.atomic import read_json, write_atomic, write_json
from perturbfm_core.store.locks import file_lock

MIN_PREFIX = 7
# Key of the statistics' own hash in their file.
_LOCK = "sha256"


class SplitStats(Frozen):
    """Statistics of a split on its data: locked by a hash of their own, and reproducible at any time.

    Attributes
    ----------
    counts
        {fold: {"conditions": n, "rows": n}}.
    traits
        Properties of the training data that decide which models are applicable.
    row_digests
        {fold: SHA-256 of the fold's sorted row ids}.
    strata
        {stratum: {test condition: value}}, e.g. how many parts of a combination train has as single
        perturbations.
    audit
        Findings of the leakage audit.
    ceiling, floor
        Per metric: split-half ceiling, and floors of null, train-mean and control-mean predictions (None
        before scoring).
    no_signal
        Whether the ceiling is too low for any ranking of models.
    halves
        SHA-256 of the given halves of the data that ceilings and floors are of, "" where none were given.
    dropped_perturbations
        Perturbations of the unused conditions, for a split that holds out contexts.
    supersedes
        Hash of the split that this one replaces.
    """

    counts: dict[str, dict[str, int]]
    traits: SplitTraits = SplitTraits()
    row_digests: dict[str, str]
    strata: dict[str, dict[str, str]] = Field(default_factory=dict)
    audit: tuple[dict[str, Any], ...] = ()
    ceiling: dict[str, Any] | None = None
    floor: dict[str, Any] | None = None
    no_signal: bool | None = None
    halves: str = ""
    dropped_perturbations: tuple[str, ...] = ()
    supersedes: str | None = None


@dataclass(frozen=True)
class Verification:
    """Outcome of verifying one split.

    Attributes
    ----------
    hash
        Hash of the split.
    with_data
        Whether the split was compared with its data.
    problems
        Description of each problem, empty if there is none.
    """

    hash: str
    with_data: bool
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Return whether there are no problems."""
        return not self.problems


class SplitFolder:
    """Frozen splits in one folder.

    Parameters
    ----------
    path
        The folder (``splits/`` unless ``PERTURBFM_SPLIT_DIR`` names another).
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # ---- look-up ----------------------------------------------------------------------------------

    def hashes(self) -> list[str]:
        """Return the hashes of all splits in the folder, sorted."""
        return sorted(p.stem for p in self.path.glob("*.json") if _is_hash(p.stem))

    def resolve(self, prefix: str) -> str:
        """Return the full hash for a hash, a unique prefix of at least 7 characters, or a partition key.

        Raises
        ------
        SplitError
            If the prefix is too short or matches no split or several splits, or no split has the key.
        """
        text = prefix.strip().lower()
        if _is_hash(text) and (self.path / f"{text}.json").is_file():
            return text
        known = self.hashes()
        if "." in text:
            # A key is looked for as it is written first: the name of a kind may have capital letters.
            by_key = {entry.key: entry.hash for entry in self.index().splits}
            for key in (prefix.strip(), text):
                if key in by_key:
                    return by_key[key]
            msg = f"no split has the key {prefix!r} in {self.path}; see `perturbfm splits list`"
            raise SplitError(msg)
        if len(text) < MIN_PREFIX:
            msg = f"split {prefix!r} is too short a prefix; give at least {MIN_PREFIX} characters"
            raise SplitError(msg)
        hits = [h for h in known if h.startswith(text)]
        if len(hits) == 1:
            return hits[0]
        found = "no split" if not hits else f"{len(hits)} splits"
        msg = f"{found} in {self.path} match {prefix!r}; see `perturbfm splits list` (PERTURBFM_SPLIT_DIR names the folder)"
        raise SplitError(msg)

    def load(self, prefix: str) -> FrozenSplit:
        """Return a split by hash, prefix or key, checked against its hash.

        Raises
        ------
        SplitError
            If there is no such split, or its file is damaged, edited or renamed.
        """
        full = self.resolve(prefix)
        path = self.path / f"{full}.json"
        try:
            # Read as bytes, since reading as text would hide changed line endings.
            with open_regular(path, SplitError) as file:
                text = file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            msg = f"{path.name} is not a split file ({error}); restore it from version control"
            raise SplitError(msg) from error
        split = Split.from_text(text, path.name)
        if split.hash != full:
            msg = f"{path.name} holds split {split.hash[:12]}; the file was renamed or replaced, restore it"
            raise SplitError(msg)
        return FrozenSplit(split, self._codes(split))

    def _codes(self, split: Split) -> Any:
        if not isinstance(split.folds, RowFolds):
            return None
        path = self.path / f"{split.hash}.npz"
        codes = read_npz(path, SplitError).get("fold")
        if codes is None or codes.dtype != np.int8 or codes.ndim != 1:
            msg = f"{path.name} holds no int8 array 'fold'; restore it from version control"
            raise SplitError(msg)
        return codes

    def stats(self, split_hash: str) -> SplitStats | None:
        """Return the stored statistics of a split, None where there are none.

        Raises
        ------
        SplitError
            If they do not fit the hash that was written with them: floors, ceilings and strata decide what a
            score means, and are locked like the split.
        """
        path = self.path / f"{split_hash}.stats.json"
        if not path.is_file():
            return None
        found = read_json(path, SplitError)
        if isinstance(found, dict) and found.pop(_LOCK, None) != _lock(split_hash, found):
            msg = (
                f"{path.name} does not fit the hash in it: ceilings, floors or strata were changed after they were "
                "computed; restore it from version control, or remove it, and it is computed again"
            )
            raise SplitError(msg)
        return parse(SplitStats, found, path.name)

    def index(self) -> Index:
        """Return the index of the folder (empty where there is none)."""
        return read_index(self.path)

    def entry(self, split: Split, stats: SplitStats | None) -> IndexEntry:
        """Return the index entry of a split with its statistics."""
        return IndexEntry(
            hash=split.hash,
            key=split.key,
            dataset=split.dataset.name,
            content_sha256=split.dataset.content_sha256,
            kind=split.kind,
            cv_group=split.cv.group if split.cv else None,
            fold=split.cv.fold if split.cv else None,
            ood_axes=split.ood_axes,
            traits=stats.traits if stats else SplitTraits(),
            supersedes=stats.supersedes if stats else None,
        )

    # ---- writing ------------------------------------------------------------------------------------

    def save(self, split: FrozenSplit, stats: SplitStats) -> bool:
        """Write a split with its statistics and its entry in the index.

        Returns
        -------
        Whether the split is new; an existing one keeps its file and gets the new statistics.

        Raises
        ------
        SplitError
            If an existing file of the split is damaged, or another split has the same partition key.
        """
        definition = split.definition
        path = self.path / f"{definition.hash}.json"
        with file_lock(self.path / ".lock"):
            new = not path.exists()
            if not new:
                self.load(definition.hash)
            try:
                self._write(split, stats, new=new)
            except BaseException:
                if new:
                    # Nothing is left of a split that could not be written, on a full disk for instance.
                    for name in (".json", ".stats.json", ".npz"):
                        with contextlib.suppress(OSError):
                            (self.path / f"{definition.hash}{name}").unlink(missing_ok=True)
                raise
        return new

    def _write(self, split: FrozenSplit, stats: SplitStats, *, new: bool) -> None:
        """Write the files of a split and its line in the index; see `save`."""
        definition = split.definition
        # The index is read first: where it is damaged, nothing is written.
        entry = self.entry(definition, stats)
        others = [e for e in self.index().splits if e.hash != entry.hash]
        clash = [e for e in others if e.key == entry.key]
        if clash:
            msg = f"splits {entry.hash} and {clash[0].hash} share the key {entry.key!r}; rename a data set"
            raise SplitError(msg)
        if split.row_codes is not None:
            self._save_codes(split)
        self.save_stats(definition.hash, stats)
        if new:
            write_atomic(self.path / f"{definition.hash}.json", definition.to_text())
        self._write_index([*others, entry])

    def save_stats(self, split_hash: str, stats: SplitStats) -> None:
        """Replace the stored statistics of a split, with their hash."""
        # Without halves the file is as it was before these were part of it.
        values = stats.model_dump(mode="json", exclude=None if stats.halves else {"halves"})
        write_json(self.path / f"{split_hash}.stats.json", {_LOCK: _lock(split_hash, values), **values})

    def _save_codes(self, split: FrozenSplit) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, fold=np.asarray(split.row_codes, dtype=np.int8))
        write_atomic(self.path / f"{split.hash}.npz", buffer.getvalue())

    def _write_index(self, entries: Iterable[IndexEntry]) -> None:
        order = sorted(entries, key=lambda e: (e.dataset, e.kind, e.cv_group or "", e.fold or 0, e.hash))
        write_json(self.path / INDEX_FILE, Index(splits=tuple(order)).model_dump(mode="json"))

    # ---- verification ---------------------------------------------------------------------------------

    def verify(self, split_hash: str, ds: PerturbDataset | None) -> Verification:
        """Check the file, index entry and statistics of a split, and its folds on the data set if given.

        With a data set, its content is hashed again, and the rows of the folds are compared by their digests.
        """
        problems: list[str] = []
        try:
            split = self.load(split_hash)
            stats = self.stats(split_hash)
        except (SplitError, ConfigError) as error:
            return Verification(split_hash, ds is not None, (str(error),))
        line = {e.hash: e for e in self.index().splits}.get(split_hash)
        if line is None:
            problems.append(
                f"split {split_hash[:12]} is not in {INDEX_FILE}; run `perturbfm splits create` again"
            )
        elif line != self.entry(split.definition, stats):
            problems.append(
                f"line of split {split_hash[:12]} in {INDEX_FILE} does not fit its file; restore it"
            )
        if ds is not None:
            try:
                ds.verify_content()
                found = row_digests(split, ds)
            except (SplitError, DatasetError) as error:
                problems.append(str(error))
            else:
                if stats is not None and stats.traits != traits_of(split, ds):
                    problems.append(f"traits of split {split_hash[:12]} do not fit its data; create it again")
                if stats is not None and found != stats.row_digests:
                    changed = [f for f in found if found[f] != stats.row_digests.get(f)]
                    problems.append(
                        f"rows of folds {changed} of split {split_hash[:12]} changed since the freeze"
                    )
        return Verification(split_hash, ds is not None, tuple(problems))


def traits_of(split: FrozenSplit, ds: PerturbDataset) -> SplitTraits:
    """Return the properties of a split's training data that decide which models are applicable."""
    fit = ds.conditions.iloc[np.unique(ds.condition_codes[split.rows(ds, *split.fit_folds)])]
    return SplitTraits(
        level=ds.metadata.level,
        controls=ds.has_controls,
        train_contexts=int(fit[schema.CONTEXT_ID].astype(str).nunique()),
        train_combos=int(
            fit[schema.PERT_ID].astype(str).str.contains(schema.COMBO_SEPARATOR, regex=False).sum()
        ),
    )


def row_digests(split: FrozenSplit, ds: PerturbDataset) -> dict[str, str]:
    """Return {fold: digest of its sorted row ids} for the folds that have rows."""
    codes = split.codes(ds)
    ids = ds.row_ids
    out: dict[str, str] = {}
    for i, fold in enumerate(schema.FOLDS):
        rows = ids[codes == i]
        if len(rows):
            out[fold] = rows_digest(np.sort(rows))
    return out


def _lock(split_hash: str, values: dict[str, Any]) -> str:
    """Return the hash of a split's statistics, as read from or written to JSON."""
    return content_hash({"split": split_hash, "stats": values})


def _is_hash(stem: str) -> bool:
    return len(stem) == 64 and all(c in "0123456789abcdef" for c in stem)
