"""Owners of names on the leaderboard: fitted runs and predictions made elsewhere share none."""

from __future__ import annotations

import contextlib

from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_index import runs_of_entry
from perturbfm_core.store.run_record import read_run_record


def run_of_entry(store: ArtifactStore, entry: str, *, external: bool) -> str | None:
    """Return the id of a run of an entry, None if there is none.

    Parameters
    ----------
    store
        The store of the runs.
    entry
        The name.
    external
        Whether runs of predictions made elsewhere are looked for, else those of fitted models.
    """
    for path in runs_of_entry(store, entry, external=external):
        with contextlib.suppress(StoreError):
            record = read_run_record(path)
            if record.entry == entry and (record.family == "external") == external:
                return record.run_id
    return None
