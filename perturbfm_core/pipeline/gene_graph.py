"""Stage `gene_graph`: the side information of models, that is gene graphs, gene features, encoders and masks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from zipfile import is_zipfile

from threadpoolctl import threadpool_limits

from perturbfm_core import schema
from perturbfm_core.catalog import registering
from perturbfm_core.catalog.entries import FeaturesEntry, GraphEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import GraphError, PerturbFMError
from perturbfm_core.graphs.coexpression import train_coexpression
from perturbfm_core.graphs.defaults import MAX_CELLS, TOP_K
from perturbfm_core.graphs.features import GeneFeatures, read_features
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.io import read_graph, write_features, write_graph
from perturbfm_core.graphs.masks import PertMasks, read_masks
from perturbfm_core.graphs.side_info import AUTO, COEXPRESSION, FAMILIES, LISTED, Needs, SideInfo
from perturbfm_core.pipeline.donors import borrow
from perturbfm_core.pipeline.gene_families import families_of, listed
from perturbfm_core.pipeline.pretrained_encoder import find_encoder
from perturbfm_core.pipeline.registered_files import artifact_of, called, check_content, remedy, whole
from perturbfm_core.pipeline.source_use import acted_on, say_missing, uses_of
from perturbfm_core.progress import Progress, quiet, run_of
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.artifacts import Artifact, ArtifactStore
from perturbfm_core.store.code import code_of
from perturbfm_core.store.machine import cores

_SEED = 0
# Bytes of a file that is read by `perturbfm doctor`.
_SMALL = 32 << 20


def gather(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    needs: Needs,
    tell: Progress = quiet,
) -> SideInfo:
    """Return the graphs and gene features that a model needs, for one split.

    ``coexpression`` is built from the split's train rows, or found, ``families`` from the symbols of the perturbed genes,
    ``NAME:listed`` from whether a table has them; any other name is that of a catalog entry, else the path of a file.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    split
        The split.
    needs
        Names of graphs, gene features, encoder, masks and donors.
    tell
        Called with a line of text about progress.

    Raises
    ------
    GraphError
        If a name is neither, a file is not what the catalog states, or a graph belongs to another split.
    SplitError
        If a donor holds the test conditions' own measurements.
    """
    graphs = {}
    for name in needs.graphs:
        if name == COEXPRESSION:
            graphs[name] = _read_graph_file(
                build_graph(store, ds, split, tell).path / schema.GRAPH_FILE, name
            )
        else:
            graphs[name] = load_graph(store, name)
        graphs[name].require_split(split.hash)
    encoder = None if needs.encoder is None else find_encoder(store, needs.encoder, ds, split, tell)
    masks = None if needs.masks is None else load_masks(needs.masks)
    tables = {name: _features_for(store, ds, name, masks) for name in needs.features}
    donors = {name: borrow(store, ds, split, name, tell) for name in needs.borrowed}
    genes = acted_on(ds, masks) if graphs or tables else []
    uses = uses_of(genes, graphs, tables)
    read: list[GeneGraph | GeneFeatures] = [*graphs.values()]
    read += [t for n, t in tables.items() if not _is_made(n)]
    say_missing(ds, genes, uses, read, tell)
    return SideInfo(graphs, tables, encoder, masks, donors, uses)


def build_graph(
    store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit, tell: Progress = quiet
) -> Artifact:
    """Build the co-expression graph of a split's train rows, or find the one of the same data, split and code.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    split
        The split.
    tell
        Called with a line of text about progress.
    """
    key = content_hash(
        {
            "stage": "graph",
            "data": ds.content_sha256,
            "split": split.hash,
            "config": {"top_k": TOP_K, "max_cells": MAX_CELLS, "seed": _SEED},
            # The graph is made by the module of co-expression alone; this file only stores it.
            "code": code_of(train_coexpression.__module__).digest,
        }
    )
    path = store.object(key)
    if path.is_dir():
        return Artifact(key, path, reused=True)
    view = train_view(ds, split)

    def fill(folder: Path) -> None:
        tell("building the co-expression graph")
        with threadpool_limits(limits=max(1, cores() // slots)):
            graph = train_coexpression(view, split.hash, top_k=TOP_K, max_cells=MAX_CELLS, seed=_SEED)
        write_graph(graph, folder / schema.GRAPH_FILE)

    with store.training_slot(run_of(tell, f"{split.hash[:7]}_gene-graph"), tell) as slots:
        store.put_object(key, fill)
    return Artifact(key, path, reused=False)


def load_graph(store: ArtifactStore, name: str) -> GeneGraph:
    """Return a graph by its name in the catalog, else by the path of its npz.

    Raises
    ------
    GraphError
        If there is neither, or the file is not what the catalog states.
    """
    entry = load_catalog().graphs.get(name)
    if entry is None:
        return _read_graph_file(_path_of(name, "graph"), name)
    graph = whole(entry, _read_graph_file, artifact_of(store, entry))
    check_content(entry, graph.sha256)
    return graph


def load_features(store: ArtifactStore, name: str) -> GeneFeatures:
    """Return a table of gene features by its name in the catalog, else by the path of its npz or parquet file.

    Raises
    ------
    GraphError
        If there is neither, or the file is not what the catalog states.
    """
    entry = load_catalog().features.get(name)
    if entry is None:
        return _read_features_file(_path_of(name, "table of gene features"), name)
    table = whole(entry, _read_features_file, artifact_of(store, entry))
    check_content(entry, table.sha256)
    return table


def _is_made(name: str) -> bool:
    """Return whether a table is made of the genes of the data set, so that it has all of them."""
    return name == FAMILIES or name.endswith(LISTED)


def _features_for(
    store: ArtifactStore, ds: PerturbDataset, name: str, masks: PertMasks | None
) -> GeneFeatures:
    """Return a table of gene features by its name, or one that is made of the genes of a data set."""
    if name == FAMILIES:
        return families_of(ds, masks)
    if name.endswith(LISTED):
        return listed(load_features(store, name.removesuffix(LISTED)), ds, masks)
    return load_features(store, name)


def file_problem(store: ArtifactStore, entry: GraphEntry | FeaturesEntry) -> str | None:
    """Return what is wrong with the file of an entry, None if nothing; only small files are compared with their hash."""
    try:
        path = artifact_of(store, entry)
        if path.stat().st_size <= _SMALL:
            load = load_graph if isinstance(entry, GraphEntry) else load_features
            load(store, entry.name)
        elif path.suffix == ".npz" and not is_zipfile(path):
            return f"{called(entry)}: {path} is cut off or damaged; {remedy(entry)}"
    except PerturbFMError as error:
        return str(error)
    return None


def load_masks(name: str) -> PertMasks:
    """Return the masks of perturbations in an npz file.

    Raises
    ------
    GraphError
        If there is none, or it has another form.
    """
    path = Path(name)
    return _masks(path.resolve(), path.stat().st_mtime_ns) if path.is_file() else read_masks(path)


def missing(needs: Needs) -> str | None:
    """Return what of a model's needs is neither in the catalog nor a file, None if nothing."""
    catalog = load_catalog()
    for name in needs.graphs:
        if name not in (COEXPRESSION, AUTO) and name not in catalog.graphs and not Path(name).is_file():
            return f"needs the graph {name!r}, which is not in the catalog; build it with `perturbfm graphs build`"
    for name in needs.features:
        name = name.removesuffix(LISTED)
        if name not in (FAMILIES, AUTO) and name not in catalog.features and not Path(name).is_file():
            return (
                f"needs the gene features {name!r}, which are not in the catalog; "
                f"register them with `perturbfm graphs features FILE --name {name}`"
            )
    if needs.masks is not None and not Path(needs.masks).is_file():
        return f"needs the perturbation masks {needs.masks!r}, which do not exist"
    return None


def truth_graph(path: Path, name: str) -> GeneGraph:
    """Return the network that a simulated data set was made with, from regulator to target.

    Parameters
    ----------
    path
        The data set's artifact, which has ``truth.npz`` beside its data.

    Raises
    ------
    GraphError
        If it has none: only simulated data do.
    """
    file = path / schema.TRUTH_FILE
    if not file.is_file():
        msg = f"{path} has no {schema.TRUTH_FILE}; only a simulated data set knows its network (`perturbfm data make-synth`)"
        raise GraphError(msg)
    if "edge_index" not in read_npz(file, GraphError):
        msg = f"{file} has no edges; make the data set again"
        raise GraphError(msg)
    graph = read_graph(file, name)
    return GeneGraph(name, graph.genes, graph.adjacency, None, {**graph.meta, "kind": "truth"})


# ---- registering -----------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    """Refuse the words that stand for something else where graphs and features are named.

    Raises
    ------
    GraphError
        If the name is ``auto``, ``families`` or ``none``.
    """
    if name in (AUTO, FAMILIES, "none"):
        msg = f"{name!r} is a word for what models read, no name; give another --name"
        raise GraphError(msg)


def graph_entry_file(name: str) -> Path:
    """Return the catalog file of a graph called `name`.

    Raises
    ------
    ConfigError, GraphError
        If the name is unfit or taken.
    """
    if name == COEXPRESSION:
        msg = f"{COEXPRESSION!r} is the graph that every fit builds of its own split; give another --name"
        raise GraphError(msg)
    check_name(name)
    return registering.entry_file(GraphEntry, name)


def save_graph(graph: GeneGraph, path: Path, description: str, source: str, licence: str) -> Path:
    """Write a graph as npz with its catalog entry.

    Parameters
    ----------
    graph
        The graph; its name is that of the entry.
    path
        The npz file.
    description, source, licence
        What it is, what it was made from, and under which licence that is.

    Returns
    -------
    Path
        The entry's file.
    """
    graph_entry_file(graph.name)
    write_graph(graph, path)
    return registering.register(
        GraphEntry(
            name=graph.name,
            description=description,
            path=str(path.resolve()),
            sha256=graph.sha256,
            kind=str(graph.meta.get("kind", "edges")),
            source=source,
            licence=licence,
        )
    )


def save_features(
    features: GeneFeatures, path: Path, description: str, source: str, licence: str, kind: str = "table"
) -> Path:
    """Write a table of gene features as npz with its catalog entry; parameters as in `save_graph`.

    Parameters
    ----------
    features
        The table; its name is that of the entry.
    path
        The npz file.
    description, source, licence
        What it is, what it was made from, and under which licence that is.
    kind
        How it was made: ``table`` or ``membership``.
    """
    check_name(features.name)
    registering.entry_file(FeaturesEntry, features.name)
    write_features(features, path)
    return registering.register(
        FeaturesEntry(
            name=features.name,
            description=description,
            path=str(path.resolve()),
            sha256=features.sha256,
            source=source,
            licence=licence,
            kind=kind,
        )
    )


def _path_of(name: str, what: str) -> Path:
    path = Path(name)
    if not path.is_file():
        kind = "graphs" if what == "graph" else "features"
        known = ", ".join(getattr(load_catalog(), kind)) or "none"
        verb = "build" if what == "graph" else "features"
        msg = (
            f"no {what} called {name!r} in the catalog (it has: {known}), and no such file; "
            f"see `perturbfm graphs {verb} --help`"
        )
        raise GraphError(msg)
    return path


def _read_graph_file(path: Path, name: str) -> GeneGraph:
    return _graph(path.resolve(), name, path.stat().st_mtime_ns)


def _read_features_file(path: Path, name: str) -> GeneFeatures:
    return _features(path.resolve(), name, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _graph(path: Path, name: str, _stamp: int) -> GeneGraph:
    return read_graph(path, name)


@lru_cache(maxsize=16)
def _features(path: Path, name: str, _stamp: int) -> GeneFeatures:
    return read_features(path, name)


@lru_cache(maxsize=4)
def _masks(path: Path, _stamp: int) -> PertMasks:
    return read_masks(path)
