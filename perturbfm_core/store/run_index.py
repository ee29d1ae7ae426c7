"""Index of runs by name, split and entry: what publishing needs of other runs is found without listing them.

Empty directories below ``runs/.index``, made before a run is published, so that a kill loses none. Runs that were
copied into the store join when it is next listed as a whole (`runs list`, `leaderboard refresh`, `suite status`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import read_run_record

# There once all earlier runs are in the index.
_COMPLETE = "complete"
_EXTERNAL, _FITTED = "external", "fitted"


def _root(store: ArtifactStore) -> Path:
    return store.runs / ".index"


def _place(store: ArtifactStore, run_id: str) -> Path:
    """Return the place of a run: ``names/<split>/<entry>_<configuration>/<run id>``."""
    split, _, rest = run_id.partition("_")[2].partition("_")
    entry, _, config = rest.rpartition("_")
    # Two runs that began in one second differ by four more digits.
    return _root(store) / "names" / split / f"{entry}_{config[:8]}" / run_id


def _of_entry(store: ArtifactStore, entry: str, external: bool) -> Path:
    return _root(store) / "entries" / entry / (_EXTERNAL if external else _FITTED)


def add_run(store: ArtifactStore, run_id: str, entry: str, *, external: bool) -> None:
    """Add a run that is about to be published.

    Parameters
    ----------
    store
        The store.
    run_id, entry
        Id of the run, name of its entry.
    external
        Whether its predictions were made elsewhere.
    """
    _ready(store)
    _add(store, run_id, entry, external)


def _add(store: ArtifactStore, run_id: str, entry: str, external: bool) -> None:
    for place in (_place(store, run_id), _of_entry(store, entry, external) / run_id):
        place.mkdir(parents=True, exist_ok=True)


def add_missing(store: ArtifactStore, runs: Iterable[Path]) -> None:
    """Add runs that were listed and are not in the index."""
    if not (_root(store) / _COMPLETE).is_dir():
        return
    for path in runs:
        if not _place(store, path.name).is_dir():
            _read_and_add(store, path)


def _read_and_add(store: ArtifactStore, path: Path) -> None:
    with contextlib.suppress(StoreError, OSError):
        record = read_run_record(path)
        _add(store, path.name, record.entry, record.family == "external")


def _ready(store: ArtifactStore) -> None:
    """Make the index of a store that has none, by listing its runs once."""
    done = _root(store) / _COMPLETE
    if done.is_dir():
        return
    with store.lock("run-index", what="the index of the runs"):
        if not done.is_dir():
            for path in store.run_dirs():
                _read_and_add(store, path)
            done.mkdir(parents=True, exist_ok=True)


def runs_named(store: ArtifactStore, name: str) -> list[Path]:
    """Return the complete runs called ``<split>_<entry>_<configuration>``, oldest first."""
    _ready(store)
    return _complete(store, _place(store, f"0_{name}").parent)


def rivals(store: ArtifactStore, run_id: str) -> list[str]:
    """Return the ids of the runs of the same split and entry, of any configuration, itself among them."""
    _ready(store)
    own = _place(store, run_id).parent
    entry = own.name.rpartition("_")[0]
    names = [name for name in _names(own.parent) if name.rpartition("_")[0] == entry]
    return [run for name in names for run in _names(own.parent / name)]


def runs_of_split(store: ArtifactStore, split_hash: str) -> list[Path]:
    """Return the complete runs on a split, oldest first."""
    _ready(store)
    names = _names(_root(store) / "names" / split_hash[:7])
    found = [p for name in names for p in _complete(store, _root(store) / "names" / split_hash[:7] / name)]
    return sorted(found)


def runs_of_entry(store: ArtifactStore, entry: str, *, external: bool) -> Iterator[Path]:
    """Yield complete runs of an entry, in no order.

    Parameters
    ----------
    store, entry
        The store, and name of the entry.
    external
        Whether runs of predictions made elsewhere are looked for, else those of fitted models.
    """
    _ready(store)
    try:
        with os.scandir(_of_entry(store, entry, external)) as found:
            for item in found:
                if store.is_complete(path := store.run(item.name)):
                    yield path
    except FileNotFoundError:
        return


def forget_run(store: ArtifactStore, run_id: str) -> None:
    """Take a removed run out of the index."""
    entry = _place(store, run_id).parent.name.rpartition("_")[0]
    for place in (
        _place(store, run_id),
        *(_of_entry(store, entry, external) / run_id for external in (True, False)),
    ):
        with contextlib.suppress(OSError):
            place.rmdir()


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _complete(store: ArtifactStore, folder: Path) -> list[Path]:
    return [path for name in _names(folder) if store.is_complete(path := store.run(name))]
