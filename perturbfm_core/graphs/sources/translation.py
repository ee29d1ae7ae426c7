"""Gene names of tables, features and graphs: in one spelling, and translated by a table of names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph, from_edges
from perturbfm_core.graphs.sources.identifiers import without_version
from perturbfm_core.graphs.tables import column_word, ends_of, read_names
from perturbfm_core.schema import IntArray, StrArray


def plain_ids(ids: Iterable[Any]) -> StrArray:
    """Return ids as text [N], without blanks around them and without the versions of Ensembl ids."""
    codes, distinct = pd.factorize(pd.Series(ids, dtype=object), use_na_sentinel=False)
    plain = ["" if pd.isna(d) else without_version(str(d).strip()) for d in distinct]
    out: StrArray = np.asarray(plain, dtype=np.str_)[codes]
    return out


def with_ends(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table of edges whose two columns of genes are called ``source`` and ``target``.

    Raises
    ------
    GraphError
        If it has no such columns.
    """
    try:
        ends = dict(zip(("source", "target"), ends_of(table), strict=True))
    except GraphError as error:
        msg = f"{path}: {error}"
        raise GraphError(msg) from error
    taken = {*ends, *(column_word(column.name) for column in ends.values())}
    return table[[c for c in table.columns if column_word(c) not in taken]].assign(**ends)


def translated_table(
    table: pd.DataFrame, columns: Collection[str], names: Path | None, main: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Return a table with the ids of some columns translated, and what was left out.

    Parameters
    ----------
    table
        The table.
    columns
        Its columns of ids.
    names
        The table of names, None to spell the ids alike only.
    main
        The file of the table, in messages.

    Raises
    ------
    GraphError
        If no row has a name in all of these columns.
    """
    plain = table.assign(**{c: plain_ids(table[c]) for c in columns})
    if names is None:
        return plain, []
    known = _names(names)
    ids = {x for c in columns for x in plain[c].unique()}
    found = plain.assign(**{c: plain[c].map(known) for c in columns})
    found = found[found[list(columns)].notna().all(axis=1)].reset_index(drop=True)
    notes = _lost(ids, known, names, main, is_empty=found.empty)
    return found, notes


def translated_features(
    features: GeneFeatures, names: Path | None, main: Path
) -> tuple[GeneFeatures, list[str]]:
    """Return gene features by the translated names of their genes, and what was left out or joined.

    Parameters
    ----------
    features
        The features. Rows whose genes get the same name are replaced by their mean.
    names
        The table of names, None to spell the ids alike only.
    main
        The file of the features, in messages.

    Raises
    ------
    GraphError
        If a gene has no name, is named twice, or the table of names has none of them.
    """
    genes, at, notes = _nodes(features.genes, names, main)
    if names is None:
        return GeneFeatures(features.name, genes, features.matrix), notes
    kept = at >= 0
    total = np.zeros((len(genes), features.matrix.shape[1]))
    np.add.at(total, at[kept], features.matrix[kept])
    count = np.bincount(at[kept], minlength=len(genes))
    notes += [f"{int((count > 1).sum())} genes have the mean of several rows"] if (count > 1).any() else []
    matrix = np.asarray(total / count[:, None], dtype=np.float32)
    return GeneFeatures(features.name, genes, matrix), notes


def translated_graph(graph: GeneGraph, names: Path | None, main: Path) -> tuple[GeneGraph, list[str]]:
    """Return a graph by the translated names of its genes, and what was left out or joined.

    Parameters
    ----------
    graph
        The graph. Edges that come to lie between the same genes keep the weight of largest magnitude.
    names
        The table of names, None to spell the ids alike only.
    main
        The file of the graph, in messages.

    Raises
    ------
    GraphError
        If a gene has no name, is named twice, the table of names has none of them, or no edge is left.
    """
    genes, at, notes = _nodes(graph.genes, names, main)
    if names is None:
        return GeneGraph(graph.name, genes, graph.adjacency, graph.split_hash, graph.meta), notes
    directed = bool(graph.meta.get("directed", True))
    edges = graph.adjacency.tocoo()
    kept = (at[edges.row] >= 0) & (at[edges.col] >= 0) & (at[edges.row] != at[edges.col])
    if not kept.any():
        msg = f"{main} has no edge left between genes that {names} names; give another table with --names"
        raise GraphError(msg)
    if not directed:
        # from_edges enters the other direction.
        kept &= edges.row < edges.col
    source, target, weight = genes[at[edges.row[kept]]], genes[at[edges.col[kept]]], edges.data[kept]
    joined = int((np.bincount(at[at >= 0]) > 1).sum())
    notes += [f"{joined} genes have the edges of several ids"] if joined else []
    made = from_edges(
        graph.name, source, target, weight, directed=directed, genes=genes, meta=dict(graph.meta)
    )
    return made, notes


def _nodes(genes: StrArray, names: Path | None, main: Path) -> tuple[StrArray, IntArray, list[str]]:
    """Return (distinct new names [M], int [N] the position of each gene among them or -1, what was left out)."""
    plain = plain_ids(genes)
    if (plain == "").any():
        msg = f"{main} has {int((plain == '').sum())} genes without a name; leave them out"
        raise GraphError(msg)
    twice = pd.Series(plain).duplicated().to_numpy()
    if twice.any():
        first = str(plain[int(twice.argmax())])
        msg = (
            f"{main} names a gene twice: {first!r} ({int(twice.sum())} rows repeat one, blanks and versions of Ensembl ids "
            "aside); keep one row per gene"
        )
        raise GraphError(msg)
    if names is None:
        return plain, np.arange(len(plain)), []
    known = _names(names)
    codes, distinct = pd.factorize(np.asarray([known.get(g) for g in plain], dtype=object))
    notes = _lost(set(plain.tolist()), known, names, main, is_empty=not len(distinct))
    return np.asarray(distinct, dtype=np.str_), np.asarray(codes, dtype=np.int64), notes


def _names(path: Path) -> dict[str, str]:
    return {without_version(k): without_version(v) for k, v in read_names(path).items() if v}


def _lost(ids: set[str], known: dict[str, str], names: Path, main: Path, *, is_empty: bool) -> list[str]:
    if is_empty:
        msg = f"{names} names none of the {len(ids)} ids of {main} (e.g. {min(ids, default='')!r}); give another table with --names"
        raise GraphError(msg)
    lost = len(ids - known.keys())
    return [f"{lost} ids have no name in {names.name} and are left out"] if lost else []
