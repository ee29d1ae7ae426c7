"""``perturbfm graphs``: building, registering and looking at gene graphs and gene features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.catalog import registering
from perturbfm_core.catalog.entries import FeaturesEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.output import JsonOption, data_place, emit, emit_table, progress, store
from perturbfm_core.config import slug
from perturbfm_core.errors import ConfigError, GraphError, PerturbFMError
from perturbfm_core.graphs.defaults import DIMENSIONS, MAX_CELLS, MAX_TERM
from perturbfm_core.progress import WARNING

if TYPE_CHECKING:
    from perturbfm_core.graphs.features import GeneFeatures
    from perturbfm_core.graphs.graph import GeneGraph


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Build, register and inspect gene graphs and gene features.",
)

NameOption = Annotated[
    str | None, typer.Option("--name", help="Name in the catalog, by which models ask for it.")
]
LicenceOption = Annotated[str, typer.Option(help="Licence of the source.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


@app.command("build")
def build(
    kind: Annotated[
        str, typer.Argument(help="coexpression, truth, or a kind of table: string, go, reactome, tf, edges.")
    ],
    name: NameOption = None,
    source: Annotated[
        Path | None,
        typer.Option(
            help="The public file: a table (parquet, csv, tsv, txt, also .gz), GMT, or npz for 'edges'."
        ),
    ] = None,
    names: Annotated[
        Path | None, typer.Option(help="A table (id, gene name) to translate the source's ids by.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="coexpression: the split whose train rows it is built from.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=data_place,
            metavar="DATA",
            help="coexpression: the split's data (default: looked for). truth: the simulated data.",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1, help="Neighbours that each gene keeps (coexpression, go, reactome: 20; else all)."
        ),
    ] = None,
    max_cells: Annotated[
        int | None, typer.Option(min=3, help=f"coexpression: at most this many cells (default {MAX_CELLS}).")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="string: least score, in the file's unit (default 700 of 1000).")
    ] = None,
    confidence: Annotated[
        str | None, typer.Option(help="tf: confidence levels to keep (default ABC).")
    ] = None,
    max_term: Annotated[
        int | None, typer.Option(min=2, help="go, reactome: genes of the largest term used (default 500).")
    ] = None,
    directed: Annotated[
        bool | None, typer.Option("--directed/--undirected", help="edges: whether source acts on target.")
    ] = None,
    genes_from: Annotated[
        Path | None,
        typer.Option(
            parser=data_place,
            metavar="DATA",
            help="Keep the measured and perturbed genes of this data set only.",
        ),
    ] = None,
    rewire: Annotated[
        int | None,
        typer.Option(min=0, help="Seed: swap the edges, every gene keeping its degrees (a control)."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="coexpression: of the choice of cells (default 0).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: data/graphs/<name>.npz).")] = None,
    licence: LicenceOption = "unknown",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a gene graph, write it as npz, and register it in the user's catalog."""
    from perturbfm_core.graphs.rewire import rewire as rewire_graph
    from perturbfm_core.graphs.summary import summary
    from perturbfm_core.pipeline import gene_graph as stage

    given: dict[str, Any] = {
        "source": source,
        "names": names,
        "split": split,
        "data": data,
        "top_k": top_k,
        "max_cells": max_cells,
        "min_score": min_score,
        "confidence": confidence,
        "max_term": max_term,
        "directed": directed,
        "genes_from": genes_from,
        "seed": seed,
    }
    _check_options(kind, {k for k, v in given.items() if v is not None}, source)
    home = store()
    # What would be refused at the end is refused before the work.
    if name is not None:
        _place(home.graph(name) if out is None else out, stage.graph_entry_file(name), force)
    with progress() as tell:
        tell(f"building the {kind} graph")
        graph = _built(kind, name, given)
        if rewire is not None:
            tell("rewiring")
            graph = rewire_graph(graph, rewire)
            if name is not None:
                graph = graph.renamed(name)
        path = home.graph(graph.name) if out is None else out
        _place(path, stage.graph_entry_file(graph.name), force)
        what = f"{kind} graph" + (f", rewired with seed {rewire}" if rewire is not None else "")
        origin = str(source or data or split)
        entry = stage.save_graph(graph, path, f"{what} of {origin}", origin, licence)
    emit({"graph": graph.name, "path": str(path), "registered": str(entry), **summary(graph)}, as_json)


_NEEDS = {"coexpression": "split", "truth": "data"}


def _check_options(kind: str, given: set[str], source: Path | None) -> None:
    from perturbfm_core.graphs.kinds import TABLE_KINDS

    every = {
        "coexpression": {"split", "data", "top_k", "max_cells", "seed"},
        **{name: {"source", "names", "genes_from", *k.options} for name, k in TABLE_KINDS.items()},
        "truth": {"data"},
    }
    if kind not in every:
        msg = f"unknown kind of graph {kind!r}; known: {', '.join(every)}"
        raise GraphError(msg)
    needed = _NEEDS.get(kind, "source")
    if needed not in given:
        msg = f"a {kind} graph needs --{needed}; see `perturbfm graphs build --help`"
        raise ConfigError(msg)
    if kind == "edges" and source is not None and source.suffix != ".npz" and "directed" not in given:
        msg = "a table of edges does not say whether they have a direction; give --directed or --undirected"
        raise ConfigError(msg)
    takes = {"source"} if kind == "edges" and source is not None and source.suffix == ".npz" else every[kind]
    useless = sorted(given - takes)
    if useless:
        options = ", ".join(f"--{o.replace('_', '-')}" for o in useless)
        known = ", ".join(f"--{o.replace('_', '-')}" for o in sorted(takes))
        msg = f"{options} has no use with kind {kind!r} and this source; it takes {known}"
        raise ConfigError(msg)


def _built(kind: str, name: str | None, given: dict[str, Any]) -> GeneGraph:
    from perturbfm_core.graphs.coexpression import train_coexpression
    from perturbfm_core.graphs.defaults import MAX_CELLS, TOP_K
    from perturbfm_core.graphs.io import read_graph
    from perturbfm_core.graphs.kinds import TABLE_KINDS, build_from_table
    from perturbfm_core.graphs.summary import genes_of
    from perturbfm_core.pipeline import gene_graph as stage
    from perturbfm_core.pipeline.dataset import dataset_of, open_dataset
    from perturbfm_core.splits.folder import SplitFolder
    from perturbfm_core.splits.view import train_view

    if kind == "coexpression":
        home = store()
        split = SplitFolder(home.split_dir).load(given["split"])
        ds = dataset_of(home, split, given["data"])
        split.check_dataset(ds)
        return train_coexpression(
            train_view(ds, split),
            split.hash,
            name=name or f"{slug(ds.name)}.coexpression.{split.hash[:12]}",
            top_k=given["top_k"] or TOP_K,
            max_cells=given["max_cells"] or MAX_CELLS,
            seed=given["seed"] or 0,
        )
    if kind == "truth":
        ds = open_dataset(given["data"])
        return stage.truth_graph(given["data"], name or f"{slug(ds.name)}.truth")
    source: Path = given["source"]
    if kind == "edges" and source.suffix == ".npz":
        return read_graph(source, name or slug(source.stem))
    keep = None if given["genes_from"] is None else genes_of(open_dataset(given["genes_from"]))
    return build_from_table(
        kind,
        source,
        name=name or (slug(source.stem) if kind == "edges" else kind),
        keep=keep,
        names=given["names"],
        **{o: given[o] for o in TABLE_KINDS.get(kind).options},
    )


def _place(path: Path, entry: Path, force: bool) -> None:
    for taken in (path, entry):
        if taken.exists() and not force:
            msg = f"{taken} already exists; choose another --name or --out, or give --force to replace it"
            raise GraphError(msg)


@app.command("features")
def features(
    file: Annotated[
        Path,
        typer.Argument(
            help="npz ('genes' and a matrix) or parquet (a column of gene ids and numbers); membership: a table of terms or GMT."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name in the catalog, by which models ask for it.")],
    kind: Annotated[
        str, typer.Option(help="table: as they are. membership: truncated SVD of genes x terms.")
    ] = "table",
    dim: Annotated[
        int | None, typer.Option(min=1, help=f"membership: number of features (default {DIMENSIONS}).")
    ] = None,
    max_term: Annotated[
        int | None,
        typer.Option(min=2, help=f"membership: genes of the largest term used (default {MAX_TERM})."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="membership: of the decomposition (default 0).")
    ] = None,
    description: Annotated[str, typer.Option(help="What the features are.")] = "",
    licence: LicenceOption = "unknown",
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: data/features/<name>.npz).")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Register gene features as npz: any genes x features matrix, or made of gene sets (GO, Reactome)."""
    from perturbfm_core.graphs.defaults import DIMENSIONS, MAX_TERM
    from perturbfm_core.graphs.feature_tables import noted_features
    from perturbfm_core.graphs.membership import membership_features
    from perturbfm_core.graphs.tables import read_table
    from perturbfm_core.pipeline import gene_graph as stage

    made = {"dim": dim, "max_term": max_term, "seed": seed}
    _check_feature_options(kind, {k for k, v in made.items() if v is not None})
    entry = registering.entry_file(FeaturesEntry, name)
    path = store().feature_table(name) if out is None else out
    _place(path, entry, force)
    with progress() as tell:
        tell("reading")
        if kind == "membership":
            table = membership_features(
                read_table(file),
                name=name,
                dim=dim or DIMENSIONS,
                max_term=max_term or MAX_TERM,
                seed=seed or 0,
            )
        else:
            table, notes = noted_features(file, name)
            for note in notes:
                tell(f"{WARNING}{file}: {note}")
        what = description or f"gene features of {file.name}"
        stage.save_features(table, path, what, str(file), licence, kind)
    emit({"features": name, "path": str(path), "registered": str(entry), **_table_summary(table)}, as_json)


def _check_feature_options(kind: str, given: set[str]) -> None:
    if kind not in ("table", "membership"):
        msg = f"unknown kind of gene features {kind!r}; known: table, membership"
        raise GraphError(msg)
    if kind == "table" and given:
        options = ", ".join(f"--{o.replace('_', '-')}" for o in sorted(given))
        msg = f"{options} has no use with a table that is taken as it is; it belongs to --kind membership"
        raise ConfigError(msg)


def _table_summary(table: GeneFeatures) -> dict[str, Any]:
    return {"genes": len(table.genes), "dimensions": table.matrix.shape[1], "sha256": table.sha256}


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the graphs and gene features of the catalog."""
    import pandas as pd

    from perturbfm_core.graphs.summary import summary
    from perturbfm_core.pipeline import gene_graph as stage

    home, catalog = store(), load_catalog()
    rows = []
    for graph in catalog.graphs.values():
        row: dict[str, Any] = {"name": graph.name, "what": "graph", "kind": graph.kind}
        try:
            found = summary(stage.load_graph(home, graph.name))
            row |= {"genes": found["genes"], "edges": found["edges"], "dimensions": None}
            row |= {"split": found["split_hash"][:12] if found["split_hash"] else None, "problem": None}
        except PerturbFMError as error:
            row["problem"] = str(error)
        rows.append({**row, "description": graph.description})
    for entry in catalog.features.values():
        row = {"name": entry.name, "what": "features", "kind": entry.kind}
        try:
            table = stage.load_features(home, entry.name)
            row |= {"genes": len(table.genes), "edges": None, "dimensions": table.matrix.shape[1]}
            row |= {"split": None, "problem": None}
        except PerturbFMError as error:
            row["problem"] = str(error)
        rows.append({**row, "description": entry.description})
    columns = ["name", "what", "kind", "genes", "edges", "dimensions", "split", "problem", "description"]
    frame = pd.DataFrame(rows, columns=columns)
    whole = dict.fromkeys(("genes", "edges", "dimensions"), "Int64")
    frame = frame.astype(whole)
    emit_table(
        frame if as_json or frame.empty else frame.dropna(axis=1, how="all"),
        as_json,
        empty="no graph or feature table is registered; `perturbfm graphs build` makes one",
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name in the catalog, or path of an npz.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            parser=data_place,
            metavar="DATA",
            help="Data set, by name, directory or content hash: how many of its genes the graph has.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a graph holds, and how well it covers a data set's measured and perturbed genes."""
    from perturbfm_core.graphs.summary import coverage, summary
    from perturbfm_core.pipeline import gene_graph as stage
    from perturbfm_core.pipeline.dataset import open_dataset

    graph = stage.load_graph(store(), name)
    covers = {} if data is None else coverage(graph, open_dataset(data))
    emit({"graph": name, **summary(graph), **covers, "built": graph.meta}, as_json)
