"""The grid: frozen splits by catalog entries, and the data sets behind them."""

import os
from dataclasses import replace

import dagster as dg

from perturbfm_core.catalog.loading import Catalog, load_catalog
from perturbfm_core.config import check_key
from perturbfm_core.errors import ConfigError
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.index import IndexEntry
from perturbfm_core.store.artifacts import ArtifactStore

# Dagster lists all partitions of an asset; beyond so many its pages and its daemon are slow.
MOST_PARTITIONS = 100_000


def grid_catalog(catalog: Catalog, suite: str | None) -> Catalog:
    """Return the catalog of the grid: all of it, or the entries and data sets of one suite."""
    if not suite:
        return catalog
    chosen = catalog.suite(suite)
    datasets = {part.dataset for part in chosen.grid}
    return replace(
        catalog,
        models={name: entry for name, entry in catalog.models.items() if name in chosen.models},
        datasets={name: entry for name, entry in catalog.datasets.items() if name in datasets},
        suites={suite: chosen},
    )


CATALOG = grid_catalog(load_catalog(), os.environ.get("PERTURBFM_SUITE"))


def grid_splits() -> list[IndexEntry]:
    """Return the frozen splits of the data sets that the catalog names."""
    index = SplitFolder(ArtifactStore().split_dir).index()
    return [e for e in index.splits if e.dataset in CATALOG.datasets and check_key(e.key, "split key")]


def check_size(n_splits: int, n_entries: int) -> None:
    """Refuse a grid that is too large for one code location.

    Raises
    ------
    ConfigError
        If it has `MOST_PARTITIONS` cells or more.
    """
    if n_splits * n_entries >= MOST_PARTITIONS:
        msg = (
            f"{n_splits} splits x {n_entries} entries are {n_splits * n_entries:,} partitions, a code location holds fewer "
            f"than {MOST_PARTITIONS:,}; load one suite (PERTURBFM_SUITE=NAME), each with a DAGSTER_HOME of its own, or run the "
            "suite by `perturbfm suite submit`"
        )
        raise ConfigError(msg)


SPLITS = {e.key: e for e in grid_splits()}
check_size(len(SPLITS), len(CATALOG.models))

dataset_partitions = dg.StaticPartitionsDefinition(list(CATALOG.datasets))
split_partitions = dg.StaticPartitionsDefinition(list(SPLITS))
model_partitions = dg.StaticPartitionsDefinition(list(CATALOG.models))
# Dimensions are sorted by name, so a key reads "model|split".
grid_partitions = dg.MultiPartitionsDefinition({"model": model_partitions, "split": split_partitions})

# A data set serves all splits that were frozen on it.
dataset_to_split = dg.StaticPartitionMapping(
    {name: [e.key for e in SPLITS.values() if e.dataset == name] for name in CATALOG.datasets}
)


def grid_key(model: str, split: str) -> dg.MultiPartitionKey:
    """Return the partition key of one entry on one split."""
    return dg.MultiPartitionKey({"model": model, "split": split})


def names_of(partition_key: str) -> tuple[str, str]:
    """Return (model entry, split key) of a partition's key, in whatever form the launcher sent it.

    A raw launch that lacks the per-dimension tags delivers the key as a plain string. One that was queued before the
    location was reloaded may name what is no longer there.

    Raises
    ------
    dagster.Failure
        If the grid has no such partition.
    """
    if isinstance(partition_key, dg.MultiPartitionKey):
        keys = partition_key.keys_by_dimension
        model, split = keys.get("model", ""), keys.get("split", "")
    else:
        model, _, split = partition_key.partition("|")
    if model not in CATALOG.models or split not in SPLITS:
        unknown = f"entry {model!r}" if model not in CATALOG.models else f"split {split!r}"
        message = (
            f"{str(partition_key)!r} is no partition of the grid; a key reads model|split, as the UI lists them, and {unknown} "
            "is not among them; if it was removed, cancel what asks for it, if it is new, reload the code location"
        )
        raise dg.Failure(message)
    return model, split


def split_of(partition_key: str) -> IndexEntry:
    """Return the frozen split of a partition's key.

    Raises
    ------
    dagster.Failure
        If the grid has no such split, or no longer.
    """
    if partition_key not in SPLITS:
        message = (
            f"{partition_key!r} is no split of the grid; `perturbfm splits list` shows what is frozen, and a new one is here "
            "once its data set is in the catalog and the code location was reloaded"
        )
        raise dg.Failure(message)
    return SPLITS[partition_key]
