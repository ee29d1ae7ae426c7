"""Registration of public sources: their files fetched or taken, converted, and entered in the user's catalog."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from perturbfm_core.catalog import registering
from perturbfm_core.catalog.entries import FeaturesEntry, GraphEntry, Origin, SourceFile
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.imports.odd_names import date_like
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.io import write_features, write_graph
from perturbfm_core.graphs.sources.conversion import MAIN, Converted
from perturbfm_core.graphs.sources.known import OWN
from perturbfm_core.pipeline.gene_graph import check_name, graph_entry_file
from perturbfm_core.pipeline.source_catalog import Registered, entry_file, registered, sweep
from perturbfm_core.pipeline.source_fetching import Request, fetch_files, is_web
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore


def add_source(store: ArtifactStore, request: Request, tell: Progress = quiet) -> list[Registered]:
    """Register a source; nothing is registered unless all of its files are here, whole and converted.

    Parameters
    ----------
    store
        Where artifacts lie.
    request
        What is registered.
    tell
        Called with a line of text about progress.

    Returns
    -------
    list
        The entries of graph and features.

    Raises
    ------
    GraphError
        If the name is taken, a file is missing, or the files cannot be converted.
    DownloadError
        If a file cannot be fetched, or is not the one that is known.
    """
    name = request.entry_name
    _check_free(request, name)
    files, records = fetch_files(store, request, tell)
    tell(f"converting {request.source.title}")
    try:
        made = request.source.convert(files, request.options, name)
    except GraphError as error:
        again = [r.place for r in records if is_web(r.place)]
        if not again:
            raise
        # What was fetched is pinned, right or wrong.
        msg = f"{error} ({', '.join(again)}; --repin fetches it anew)"
        raise GraphError(msg) from error
    origin = _origin(request, made, tuple(records))
    old = registered(name)
    out: list[Registered] = []
    licence = request.licence or request.source.licence
    about = f"{request.source.title} {origin.version}, {request.options.organism}: {request.source.what}"
    if made.features is not None:
        features = made.features
        path = store.feature_table(f"{name}-{features.sha256[:12]}")
        write_features(features, path)
        out.append(
            FeaturesEntry(
                name=name,
                description=about,
                path=str(path.resolve()),
                sha256=features.sha256,
                kind=request.source.name,
                source=records[0].place,
                licence=licence,
                origin=origin,
            )
        )
    if made.graph is not None:
        graph = made.graph
        path = store.graph(f"{name}-{graph.sha256[:12]}")
        write_graph(graph, path)
        out.append(
            GraphEntry(
                name=name,
                description=about,
                path=str(path.resolve()),
                sha256=graph.sha256,
                kind=str(graph.meta.get("kind", "edges")),
                source=records[0].place,
                licence=licence,
                origin=origin,
            )
        )
    # Files carry their hash in the name, so that what is registered stays whole until its entry is replaced.
    for entry in out:
        registering.register(entry)
    for entry in old:
        if type(entry) not in {type(e) for e in out}:
            entry_file(entry).unlink(missing_ok=True)
    sweep(store, old)
    return out


def _check_free(request: Request, name: str) -> None:
    check_name(name)
    graph_entry_file(name)
    registering.entry_file(FeaturesEntry, name)
    catalog = load_catalog()
    taken = catalog.graphs.get(name) or catalog.features.get(name)
    if taken is None or request.force:
        return
    if taken.origin is None:
        msg = f"the catalog has a {taken.kind} called {name!r} that is of no public source; give another --name, or --force to replace it"
        raise GraphError(msg)
    if taken.origin.source == request.source.name != OWN and len(registered(name)) < len(
        request.source.gives
    ):
        # Cut off between the two entries: the rest is made.
        return
    msg = (
        f"{name!r} is registered already ({taken.origin.title} {taken.origin.version}, {taken.origin.organism}); give --force "
        "to replace it, or --name to register another beside it"
    )
    raise GraphError(msg)


def _origin(request: Request, made: Converted, files: tuple[SourceFile, ...]) -> Origin:
    source, options = request.source, request.options
    stated = made.version or ("" if MAIN in request.places else source.version)
    return Origin(
        source=source.name,
        title=source.title if source.name != OWN else Path(files[0].place).name,
        version=request.version or stated or f"read {datetime.now(UTC):%Y-%m-%d}",
        organism=options.organism,
        identifiers=made.identifiers,
        terms=source.terms,
        citation=source.citation,
        files=files,
        options={k: v for k, v in asdict(options).items() if k in made.read and v is not None},
        notes=(*made.notes, *_dates(made)),
    )


def _dates(made: Converted) -> list[str]:
    """Return which gene names are dates, which no data set calls its genes by."""
    genes = {str(g) for part in (made.graph, made.features) if part is not None for g in part.genes}
    found = date_like(genes)
    if not found:
        return []
    return [
        f"{len(found)} genes are called like dates (e.g. {found[0]}), which spreadsheets make of MARCH1, SEPT2 or DEC1: write their "
        "names again, or no model finds them"
    ]
