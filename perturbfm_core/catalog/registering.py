"""Registration of new entries in the user's own catalog."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.catalog.entries import DatasetEntry, FeaturesEntry, GraphEntry, ModelEntry
from perturbfm_core.catalog.loading import load_catalog, to_yaml, user_folder
from perturbfm_core.config import check_key
from perturbfm_core.errors import ConfigError
from perturbfm_core.store.atomic import write_atomic

AnyEntry = DatasetEntry | ModelEntry | GraphEntry | FeaturesEntry

# {type of entry: (folder of the catalog, noun for messages)}.
_KINDS: dict[type[AnyEntry], tuple[str, str]] = {
    DatasetEntry: ("datasets", "data set"),
    ModelEntry: ("models", "entry"),
    GraphEntry: ("graphs", "graph"),
    FeaturesEntry: ("features", "table of gene features"),
}


def entry_file(kind: type[AnyEntry], name: str, option: str = "--name") -> Path:
    """Return the file to register an entry in, and check its name before any work is done for it.

    Parameters
    ----------
    kind
        Type of the entry.
    name
        Name of the entry.
    option
        Command line option of the name, for the message.

    Raises
    ------
    ConfigError
        If the name is invalid, or the packaged catalog has an entry of this name.
    """
    folder, noun = _KINDS[kind]
    check_key(name, f"{noun} name")
    target = user_folder() / folder / f"{name}.yaml"
    if name in getattr(load_catalog(), folder) and not target.exists():
        msg = f"the catalog already has a {noun} {name!r}; give another {option}"
        raise ConfigError(msg)
    return target


def register(entry: AnyEntry) -> Path:
    """Write a catalog entry and return its file."""
    target = entry_file(type(entry), entry.name)
    write_atomic(target, to_yaml(entry))
    return target
