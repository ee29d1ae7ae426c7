"""Files of the user's own as a source: gene features, gene sets, or edges between genes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.feature_tables import GENE_ID_COLUMNS, features_of_table, has_gene_ids
from perturbfm_core.graphs.features import GeneFeatures, read_features
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.interactions import edge_graph, weight_column
from perturbfm_core.graphs.io import read_graph
from perturbfm_core.graphs.sources.conversion import (
    MAIN,
    NAMES,
    Converted,
    Options,
    checked,
    from_terms,
    is_annotations,
    options_read,
)
from perturbfm_core.graphs.sources.gene_sets import has_terms
from perturbfm_core.graphs.sources.identifiers import is_number
from perturbfm_core.graphs.sources.text_files import leading, opened
from perturbfm_core.graphs.sources.translation import (
    translated_features,
    translated_graph,
    translated_table,
    with_ends,
)
from perturbfm_core.graphs.tables import (
    SOURCE_COLUMNS,
    TARGET_COLUMNS,
    TERM_COLUMNS,
    column_word,
    find_column,
    has_regulators,
    read_table,
)

_FORMS = "an npz of a graph or of features, features as a table (gene and numbers), gene sets (GMT, or columns term and gene), or edges (source, target)"
# Lines of a text file that show whether it holds gene sets, and the suffixes of files that may.
_LOOKED_AT = 200
_TEXTS = ("", ".txt", ".tsv")
_TRIPLE = 3


def from_own_file(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    """Return what a file of the user's own holds: a graph, gene features, or features of its gene sets.

    Parameters
    ----------
    files
        ``main`` (the file), and ``names`` to translate its ids.
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
        return _from_npz(files, options, name)
    if main.suffix != ".parquet":
        # Empty, cut off and binary files are named as such before their form is looked at.
        if is_annotations(main):
            msg = f"{main} annotates genes with terms of an ontology; register it with `perturbfm knowledge add go --from {main} --ontology FILE`"
            raise GraphError(msg)
        if _holds_gene_sets(main):
            return from_terms(files, options, name)
        if ".zip" in main.suffixes:
            msg = f"{main} is an archive of a table; unpack it and give the table"
            raise GraphError(msg)
    table = read_table(main)
    if has_terms(table):
        return from_terms(files, options, name)
    with_both = all(find_column(table, known) is not None for known in (SOURCE_COLUMNS, TARGET_COLUMNS))
    if with_both or has_regulators(table):
        return _from_edges(table, files, options, name)
    if has_gene_ids(table):
        features, notes = features_of_table(table, main, name)
        return _of_features(features, notes, files, options)
    found = f"columns {[str(c) for c in table.columns][:6]}"
    if list(table.columns) == list(range(table.shape[1])):
        first = [str(c) for c in table.iloc[0].tolist()[:6]] if len(table) else []
        found = f"no header of known names (it begins with {first})"
    msg = f"{main} has {found}; known are {_FORMS}"
    raise GraphError(msg)


def _from_npz(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    main = files[MAIN]
    try:
        graph: GeneGraph | None = read_graph(main, name)
    except GraphError as error:
        if "a graph needs 'genes'" not in str(error):
            raise
        graph = None
    if graph is None:
        return _of_features(read_features(main, name), [], files, options)
    if graph.split_hash is not None:
        msg = f"{main} was built from the train rows of split {graph.split_hash[:12]}; it is no public source"
        raise GraphError(msg)
    read = options_read(options, (), f"{main}, a graph that is taken as it is")
    graph, notes = translated_graph(graph, files.get(NAMES), main)
    kind = checked(set(graph.genes.tolist()), options, files)
    return Converted(kind, graph=graph, notes=tuple(notes), read=read)


def _of_features(
    features: GeneFeatures, notes: list[str], files: Mapping[str, Path], options: Options
) -> Converted:
    main = files[MAIN]
    read = options_read(options, (), f"{main}, a table of features that is taken as it is")
    features, more = translated_features(features, files.get(NAMES), main)
    kind = checked(set(features.genes.tolist()), options, files)
    return Converted(kind, features=features, notes=(*notes, *more), read=read)


def _from_edges(table: pd.DataFrame, files: Mapping[str, Path], options: Options, name: str) -> Converted:
    main = files[MAIN]
    read = options_read(options, ("directed",), f"{main}, a table of edges")
    if options.directed is None:
        msg = "a table of edges does not say whether they have a direction; give --directed or --undirected"
        raise GraphError(msg)
    table, notes = translated_table(with_ends(table, main), ("source", "target"), files.get(NAMES), main)
    try:
        graph = edge_graph(table, name=name, directed=options.directed)
    except GraphError as error:
        msg = f"{main}: {error}"
        raise GraphError(msg) from error
    twice = int(table.duplicated(["source", "target"]).sum())
    notes += [f"{twice} repeated pairs of genes keep the weight of largest magnitude"] if twice else []
    beside = [c for c in map(str, table.select_dtypes("number")) if c not in ("source", "target")]
    if beside and weight_column(table) is None:
        notes.append(
            f"every edge has weight 1: none of the columns of numbers ({', '.join(beside[:5])}) is called weight or score"
        )
    kind = checked(set(graph.genes.tolist()), options, files)
    return Converted(kind, graph=graph, notes=tuple(notes), read=read)


def _holds_gene_sets(path: Path) -> bool:
    """Return whether a text file is GMT: by its name, else as its lines have a set, a description, and names of genes."""
    suffixes = [s.lower() for s in path.suffixes]
    packed = [s for s in suffixes[-1:] if s in (".gz", ".zip")]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind == [".gmt"]:
        return True
    with opened(path) as handle:
        skipped, line = leading(handle, "#")
    if _is_header(line):
        words = {column_word(w) for w in re.split(r"[\t,;]", line)}
        return packed == [".zip"] and bool(words & set(TERM_COLUMNS))
    with opened(path) as handle:
        lines = islice(handle, skipped, skipped + _LOOKED_AT)
        rows = [r.rstrip("\r\n").split("\t") for r in lines if r.strip()]
    width = {len(row) for row in rows}
    if min(width, default=0) < _TRIPLE:
        return False
    cells = [c for row in rows for c in row[2:] if c]
    if any(is_number(c) and not c.isdigit() for c in cells):
        return False
    if packed == [".zip"]:
        return True
    # Lines of one length are those of a table, unless they are names alone; three columns are edges of a kind.
    is_ragged = len(width) > 1
    is_names = width != {_TRIPLE} and not any(is_number(c) for c in cells)
    return (kind[0] if kind else "") in _TEXTS and (is_ragged or is_names)


def _is_header(line: str) -> bool:
    """Return whether a line is the header of a table of edges, features or terms."""
    words = [column_word(w) for w in re.split(r"[\t,;]", line)]
    known = {*SOURCE_COLUMNS, *TARGET_COLUMNS, "term", *(c for c in GENE_ID_COLUMNS if c)}
    return bool(set(words) & known) or (len(words) > 1 and not words[0])
