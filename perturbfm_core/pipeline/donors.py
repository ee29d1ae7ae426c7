"""Donors: other data sets found by name, and their effects on the genes of the data set that borrows them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from perturbfm_core import schema
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs import donor_effects
from perturbfm_core.graphs.donor import DonorEffects, directions_of
from perturbfm_core.pipeline.dataset import ensure_dataset, open_dataset
from perturbfm_core.progress import WARNING, Progress, quiet
from perturbfm_core.splits.audit import borrowed
from perturbfm_core.splits.audit.run import FitRecord
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json, write_atomic, write_json
from perturbfm_core.store.code import code_of

_FILE, _RECORD = "effects.npz", "record.json"


def borrow(
    store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit, name: str, tell: Progress = quiet
) -> DonorEffects:
    """Return the effects of another data set on the genes of this one, computed or found.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds, split
        The data set that borrows, and its split.
    name
        ``DATASET`` or ``DATASET:CONTEXT``; a data set is that of the catalog, of ``data/``, or the directory of one.
    tell
        Called with a line of text about progress.

    Raises
    ------
    GraphError
        If there is no such data set or context, or it shares no gene or no direction with this one.
    SplitError
        If it is this data set, or holds the test conditions' own measurements.
    """
    donor, context = open_donor(store, name, tell)
    record = _record(store, ds, split, donor, context, name)
    donor_effects.check_genes(ds, donor, name)
    if (said := borrowed.stated(record)) is not None:
        tell(f"{WARNING}{said}")
    key = content_hash(
        {
            "stage": "borrowed",
            "data": donor.content_sha256,
            "context": context,
            "genes": ds.genes_sha256,
            "code": code_of(donor_effects.__name__).digest,
        }
    )
    if not (path := store.object(key)).is_dir():
        tell(f"computing the effects of {name}")
        path = store.put_object(
            key, lambda folder: _write(donor_effects.effects_of(donor, context, ds.genes, name), folder)
        )
    directions, by_gene = directions_of(ds.conditions)
    found = replace(_read(path, name), record=record, directions=directions, by_gene=by_gene)
    donor_effects.check_directions(ds, found)
    return found


def _record(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    donor: PerturbDataset,
    context: str | None,
    name: str,
) -> FitRecord:
    """Return the record of what a donor has of a split's test, computed or found: rows are compared once.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds, split
        The data set that borrows, and its split.
    donor, context, name
        The donor, its only context that is read (None for all), and what it is called.

    Raises
    ------
    SplitError
        If the donor is the data set, or holds the test conditions' own measurements.
    """
    key = content_hash(
        {
            "stage": "borrowed_overlap",
            "data": ds.content_sha256,
            "split": split.hash,
            "donor": donor.content_sha256,
            "context": context,
            "name": name,
            "code": code_of(borrowed.__name__).digest,
        }
    )
    if (path := store.object(key)).is_dir():
        return FitRecord.model_validate(read_json(path / _RECORD))
    record = borrowed.borrowed_record(ds, split, donor, context, name)
    store.put_object(key, lambda folder: write_json(folder / _RECORD, record.model_dump(mode="json")))
    return record


def open_donor(store: ArtifactStore, name: str, tell: Progress = quiet) -> tuple[PerturbDataset, str | None]:
    """Open the data set of ``DATASET`` or ``DATASET:CONTEXT``; return it with the context, None for all.

    Parameters
    ----------
    store
        Where artifacts lie.
    name
        The donor.
    tell
        Called with a line of text about progress.

    Raises
    ------
    GraphError
        If there is no such data set or context.
    """
    # A path or the name of a context may have a colon of its own.
    ends = [len(name), *(i for i, c in enumerate(name) if c == ":")]
    for end in ends:
        if (path := _path(store, name[:end], tell)) is not None:
            donor, context = open_dataset(path), name[end + 1 :] or None
            if context is not None and context not in donor.contexts:
                msg = f"data set {name[:end]!r} has no context {context!r} to borrow from; it has: {', '.join(donor.contexts)}"
                raise GraphError(msg)
            return donor, context
    known = sorted({*load_catalog().datasets, *(p.name for p in store.datasets())})
    msg = f"no data set called {name!r} to borrow from: neither in the catalog or data/ ({', '.join(known)}) nor a directory"
    raise GraphError(msg)


def _path(store: ArtifactStore, name: str, tell: Progress) -> Path | None:
    entry = load_catalog().datasets.get(name)
    if entry is not None:
        return ensure_dataset(store, entry, tell)
    places = [Path(name), *([store.dataset(name)] if name and Path(name).name == name else [])]
    return next((p for p in places if (p / schema.META_FILE).is_file()), None)


def _write(effects: DonorEffects, folder: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        content_sha256=np.asarray(effects.content_sha256),
        perts=np.asarray(effects.perts, dtype=np.str_),
        direction=effects.direction,
        effects=effects.effects,
        measured=effects.measured,
    )
    write_atomic(folder / _FILE, buffer.getvalue())


def _read(folder: Path, name: str) -> DonorEffects:
    arrays = read_npz(folder / _FILE, GraphError)
    return DonorEffects(
        name=name,
        content_sha256=str(arrays["content_sha256"]),
        perts=tuple(str(p) for p in arrays["perts"]),
        direction=arrays["direction"],
        effects=arrays["effects"],
        measured=arrays["measured"],
    )
