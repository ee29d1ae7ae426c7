"""Published files of the leaderboard, the link to the newest, and what each of them reads."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.score_parts import ScoreParts
from perturbfm_core.parsing import read_json_file
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import fsync_path, write_atomic
from perturbfm_core.store.disk import writing
from perturbfm_core.store.owner import has_ended, new_token

KEEP = 3
_FILE = re.compile(r"^leaderboard-(\d+)\.duckdb$")


class KeptFiles:
    """The published files of a store.

    Parameters
    ----------
    store, parts
        The store, and its files of scores.
    """

    def __init__(self, store: ArtifactStore, parts: ScoreParts) -> None:
        self._store, self._parts = store, parts

    def next(self) -> Path:
        """Return the name of the next file."""
        number = max((n for n, _ in self._published()), default=0) + 1
        return self._store.runs / f"leaderboard-{number}.duckdb"

    def newest(self) -> Path | None:
        """Return the published file if it is as it was published, None if another program has changed it."""
        try:
            file = self._store.leaderboard.resolve(strict=True)
            noted = read_json_file(self._note(file), StoreError)
            stat = file.stat()
        except (OSError, StoreError):
            return None
        same = isinstance(noted, dict) and [noted.get("size"), noted.get("mtime_ns")] == [
            stat.st_size,
            stat.st_mtime_ns,
        ]
        # A log is what another program wrote, or was about to.
        return file if same and not file.with_name(file.name + ".wal").exists() else None

    def note(self, building: Path, target: Path, names: list[str]) -> None:
        """Note the size and time of a file that is about to be published, and the files of scores that it reads.

        Parameters
        ----------
        building, target
            The file as it is, and as it will be called.
        names
            The files of scores.
        """
        stat = building.stat()
        noted = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "parts": names}
        write_atomic(self._note(target), json.dumps(noted))

    def switch(self, target: Path) -> None:
        """Let the link point to a file."""
        link = self._store.leaderboard
        temporary = link.with_name(f".{link.name}.{new_token()}.tmp")
        with writing(link):
            temporary.symlink_to(target.name)
            temporary.replace(link)
            fsync_path(link.parent)

    def sweep(self) -> None:
        """Remove what ended writers were building; another host's lock may be unknown here, so its files stay."""
        runs, name = self._store.runs, self._store.leaderboard.name
        for left in runs.glob(".leaderboard*.building*"):
            token = left.name.partition(".duckdb.")[2].partition("building")[0].removesuffix(".")
            # Without a token it is of an earlier version of this program.
            if not token or has_ended(token):
                remove(left)
        for left in runs.glob(f".{name}.*.tmp"):
            if has_ended(left.name.removeprefix(f".{name}.").removesuffix(".tmp")):
                remove(left)

    def forget(self) -> None:
        """Remove all but the last files, and the files of scores that only the removed ones read."""
        published = sorted(self._published())
        for _, old in published[:-KEEP]:
            remove(old)
        notes = {self._note(kept) for _, kept in published[-KEEP:]}
        needed: set[str] = set()
        for note in self._parts.root.glob("leaderboard-*.json"):
            if note not in notes:
                remove(note)
                continue
            with contextlib.suppress(StoreError):
                noted = read_json_file(note, StoreError)
                needed.update(noted["parts"] if isinstance(noted, dict) else ())
        self._parts.sweep(needed)

    def _note(self, file: Path) -> Path:
        return self._parts.root / f"{file.stem}.json"

    def _published(self) -> list[tuple[int, Path]]:
        found = [(m, p) for p in self._store.runs.glob("leaderboard-*.duckdb") if (m := _FILE.match(p.name))]
        return [(int(m.group(1)), p) for m, p in found]


def remove(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
