"""Tags of runs, beside the runs: a run directory itself never changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perturbfm_core.config import check_key
from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json, write_json

TAGS_FILE = ".tags.json"


def run_tags(store: ArtifactStore) -> dict[str, tuple[str, ...]]:
    """Return {run id: its tags, sorted}.

    Raises
    ------
    StoreError
        If the file of tags is damaged.
    """
    file = store.runs / TAGS_FILE
    if not file.is_file():
        return {}
    content: Any = read_json(file)
    if not isinstance(content, dict) or not all(
        isinstance(v, list) and all(isinstance(t, str) for t in v) for v in content.values()
    ):
        msg = f"{file} is not {{run id: [tags]}}; restore it, or remove it to start without tags"
        raise StoreError(msg)
    return {str(run): tuple(sorted(tags)) for run, tags in content.items()}


def tag_run(
    store: ArtifactStore, run_id: str, add: Iterable[str], remove: Iterable[str] = ()
) -> tuple[str, ...]:
    """Add and remove tags of a run; return those that it has then.

    Parameters
    ----------
    store
        The store of the run.
    run_id
        The run.
    add, remove
        Tags: lower-case letters, digits, ``_``, ``-`` and ``.``.
    """
    added = {check_key(tag, "tag") for tag in add}
    with store.lock("tags"):
        tags = {run: set(of) for run, of in run_tags(store).items()}
        own = (tags.get(run_id, set()) | added) - set(remove)
        tags[run_id] = own
        write_json(store.runs / TAGS_FILE, {run: sorted(of) for run, of in sorted(tags.items()) if of})
    return tuple(sorted(own))
