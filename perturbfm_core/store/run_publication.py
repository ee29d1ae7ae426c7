"""Publication of a run: its directory appears whole, by one rename, under an id that no other run has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.disk import writing
from perturbfm_core.store.run_index import add_run
from perturbfm_core.store.run_record import RunRecord


def publish_run(
    store: ArtifactStore, record: RunRecord, fill: Callable[[Path, RunRecord], None], *, external: bool
) -> Path:
    """Publish a run, and return its directory.

    Parameters
    ----------
    store
        Where it is published.
    record
        Its record, but for its id and files.
    fill
        Writes every file of the run into a directory, by the record with its id.
    external
        Whether its predictions were made elsewhere.

    Raises
    ------
    StoreError, OSError
        If it cannot be published.
    """
    while True:
        run_id = store.new_run_id(record.split_hash, record.entry, record.config_hash)
        destination = store.run(run_id)
        with store.stage() as staging, writing(destination, staged=staging.path):
            fill(staging.path, record.model_copy(update={"run_id": run_id}))
            add_run(store, run_id, record.entry, external=external)
            try:
                staging.publish(destination)
            except (StoreError, OSError):
                # Published by another host in the same second, a run of this id is there.
                if not destination.exists():
                    raise
                continue
        return destination
