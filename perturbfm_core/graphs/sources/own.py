"""Files of the user's own as a source: gene features, gene sets, or edges between genes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GENE_ID_COLUMNS, features_of_table, read_features
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.interactions import edge_graph
from perturbfm_core.graphs.io import read_graph
from perturbfm_core.graphs.sources.conversion import MAIN, Converted, Options, from_terms
from perturbfm_core.graphs.sources.gene_sets import has_terms
from perturbfm_core.graphs.sources.identifiers import check_identifiers
from perturbfm_core.graphs.sources.text_files import first_line
from perturbfm_core.graphs.tables import SOURCE_COLUMNS, TARGET_COLUMNS, find_column, read_names, read_table

_FORMS = "an npz of a graph or of features, features as a table (gene and numbers), gene sets (GMT, or columns term and gene), or edges (source, target)"


def from_own_file(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    """Return what a file of the user's own holds: a graph, gene features, or features of its gene sets.

    Parameters
    ----------
    files
        ``main`` (the file), and ``names`` to translate the ids of edges and sets.
    options
        See `Options`; edges need ``directed``.
    name
        Name of the result.

    Raises
    ------
    GraphError
        If it cannot be read, or is none of the known forms.
    """
    main = files[MAIN]
    if main.suffix == ".npz":
        return _from_npz(main, options, name)
    if main.suffix == ".parquet":
        table = read_table(main)
    else:
        # Empty, cut off and binary files are named as such before their form is looked at.
        line = first_line(main, "!")
        if {".gmt", ".zip"} & set(main.suffixes) or (line.count("\t") >= 2 and not _is_table(line)):
            return from_terms(files, options, name)
        table = read_table(main)
    if has_terms(table):
        return from_terms(files, options, name)
    if find_column(table, SOURCE_COLUMNS) is not None and find_column(table, TARGET_COLUMNS) is not None:
        return _from_edges(table, files, options, name)
    if any(str(c) in GENE_ID_COLUMNS for c in table.columns):
        features = features_of_table(table, main, name)
        return Converted(_kind(set(features.genes.tolist()), options, main), features=features)
    msg = f"{main} has columns {[str(c) for c in table.columns][:6]}; known are {_FORMS}"
    raise GraphError(msg)


def _from_npz(main: Path, options: Options, name: str) -> Converted:
    try:
        graph: GeneGraph | None = read_graph(main, name)
    except GraphError as error:
        if "a graph needs 'genes'" not in str(error):
            raise
        graph = None
    if graph is not None:
        if graph.split_hash is not None:
            msg = f"{main} was built from the train rows of split {graph.split_hash[:12]}; it is no public source"
            raise GraphError(msg)
        return Converted(_kind(set(graph.genes.tolist()), options, main), graph=graph)
    features = read_features(main, name)
    return Converted(_kind(set(features.genes.tolist()), options, main), features=features)


def _from_edges(table: pd.DataFrame, files: Mapping[str, Path], options: Options, name: str) -> Converted:
    if options.directed is None:
        msg = "a table of edges does not say whether they have a direction; give --directed or --undirected"
        raise GraphError(msg)
    names = read_names(files["names"]) if "names" in files else None
    try:
        graph = edge_graph(table, name=name, directed=options.directed, names=names)
    except GraphError as error:
        msg = f"{files[MAIN]}: {error}"
        raise GraphError(msg) from error
    return Converted(_kind(set(graph.genes.tolist()), options, files[MAIN]), graph=graph)


def _kind(names: set[str], options: Options, main: Path) -> str:
    return check_identifiers(names, options.organism, str(main))


def _is_table(line: str) -> bool:
    """Return whether a line is the header of a table of edges or of terms."""
    words = {w.strip().strip('"').lstrip("#").lower() for w in line.split("\t")}
    return bool(words & {*SOURCE_COLUMNS, *TARGET_COLUMNS, "term", *GENE_ID_COLUMNS})
