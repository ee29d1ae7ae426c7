"""``perturbfm knowledge list, show``: public sources that are registered, and those that can be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from perturbfm_core.cli.output import JsonOption, data_place, emit, emit_rows, store
from perturbfm_core.errors import GraphError

RegisteredName = Annotated[str, typer.Argument(metavar="NAME", help="Name in the catalog.")]


def list_(as_json: JsonOption = False) -> None:
    """List what is registered, and the sources that can be."""
    from perturbfm_core.graphs.sources.known import OWN, SOURCES
    from perturbfm_core.pipeline.source_catalog import all_registered

    entries = all_registered()
    rows = []
    for name in sorted({e.name for e in entries}):
        own = [e for e in entries if e.name == name]
        rows.append({"name": name, "state": "registered", **_row(own)})
    taken = {e.origin.source for e in entries if e.origin is not None}
    rows += [
        {
            "name": source.name,
            "state": "can be added",
            "version": source.version or "newest",
            "organism": ", ".join(sorted({*source.files, *source.ensembl_files})),
            "identifiers": None,
            "gives": ", ".join(source.gives),
            "licence": source.licence,
            "size": source.size,
            "sha256": None,
            "what": f"{source.title}: {source.what}",
        }
        for source in SOURCES.values()
        if source.name not in taken and source.name != OWN
    ]
    emit_rows(rows, as_json, empty="no source is registered, and this version knows none to add")


def show(
    name: RegisteredName,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            parser=data_place,
            metavar="DATA",
            help="Data set, by name, directory or content hash: which of its perturbed genes are found.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a registered source: its files with hashes, licence, terms, what to cite, and its cover of a data set."""
    from perturbfm_core.graphs.sources.known import SOURCES, known_source
    from perturbfm_core.pipeline.source_catalog import registered

    entries = registered(name)
    if not entries and name in SOURCES:
        source = known_source(name)
        emit(
            {
                "name": name,
                "state": "can be added",
                "what": source.what,
                "gives": list(source.gives),
                "version": source.version or "newest",
                "size": source.size,
                "licence": source.licence,
                "terms": source.terms,
                "home": source.home,
                "cite": source.citation,
                "files": {o: _places(f) for o, f in source.files.items()},
                "files_by_ensembl": {o: _places(f) for o, f in source.ensembl_files.items()},
            },
            as_json,
        )
        return
    if not entries:
        msg = f"no source is registered as {name!r}; see `perturbfm knowledge list`"
        raise GraphError(msg)
    covers = {} if data is None else _cover(entries, data)
    emit({**described(entries), **covers}, as_json)


def _places(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return {role: address and hash of the file} as the registry has them."""
    from perturbfm_core.data.downloads.registry import remote_file

    found = {role: remote_file(name) for role, name in files.items()}
    return {
        role: {"name": f.name, "url": f.url, "hash": f.known_hash or "pinned at first use"}
        for role, f in found.items()
    }


def _row(entries: list[Any]) -> dict[str, Any]:
    from perturbfm_core.store.disk import amount

    origin = entries[0].origin
    return {
        "version": origin.version,
        "organism": origin.organism,
        "identifiers": origin.identifiers,
        "gives": ", ".join(_what(e) for e in entries),
        "licence": entries[0].licence,
        "size": amount(sum(f.size for f in origin.files)),
        "sha256": " ".join(e.sha256[:12] for e in entries),
        "what": entries[0].description,
    }


def _what(entry: Any) -> str:
    from perturbfm_core.catalog.entries import GraphEntry

    return "graph" if isinstance(entry, GraphEntry) else "features"


def described(entries: list[Any]) -> dict[str, Any]:
    """Return what is shown of the entries of a registered source."""
    from perturbfm_core.graphs.summary import summary
    from perturbfm_core.pipeline.gene_graph import load_features, load_graph

    home, origin = store(), entries[0].origin
    made = {}
    for entry in entries:
        if _what(entry) == "graph":
            found = summary(load_graph(home, entry.name))
            size = {k: found[k] for k in ("genes", "edges", "directed")}
        else:
            table = load_features(home, entry.name)
            size = {"genes": len(table.genes), "dimensions": table.matrix.shape[1]}
        made[_what(entry)] = {**size, "sha256": entry.sha256, "path": entry.path}
    return {
        "name": entries[0].name,
        "source": origin.source,
        "version": origin.version,
        "organism": origin.organism,
        "identifiers": origin.identifiers,
        "licence": entries[0].licence,
        "terms": origin.terms,
        "cite": origin.citation,
        **made,
        "options": origin.options,
        "files": [f.model_dump() for f in origin.files],
        "notes": list(origin.notes),
    }


def _cover(entries: list[Any], data: Path) -> dict[str, Any]:
    from perturbfm_core.pipeline.dataset import open_dataset
    from perturbfm_core.pipeline.gene_graph import load_features, load_graph
    from perturbfm_core.pipeline.source_use import acted_on

    home, genes = store(), acted_on(open_dataset(data))
    have: set[str] = set()
    for entry in entries:
        load = load_graph if _what(entry) == "graph" else load_features
        have |= load(home, entry.name).position.keys()
    absent = [g for g in genes if g not in have]
    return {"perturbed_genes": len(genes), "found": len(genes) - len(absent), "not_found": absent}
