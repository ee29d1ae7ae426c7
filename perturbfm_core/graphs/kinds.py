"""Kinds of graph that are built from a published table."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.interactions import edge_graph, regulatory_graph, scored_graph
from perturbfm_core.graphs.membership import membership_graph
from perturbfm_core.graphs.tables import read_names, read_table
from perturbfm_core.registry import Registry


@dataclass(frozen=True)
class TableKind:
    """One kind.

    Attributes
    ----------
    build
        (table, name, keep, names, options) -> graph.
    options
        Names of the options that it takes.
    description
        What its edges mean, for help and lists.
    """

    build: Callable[..., GeneGraph]
    options: tuple[str, ...]
    description: str


TABLE_KINDS: Registry[TableKind] = Registry("kind of graph", GraphError)
TABLE_KINDS.add(
    "string",
    TableKind(scored_graph, ("min_score", "top_k"), "scored, undirected protein interactions"),
)
TABLE_KINDS.add(
    "go", TableKind(membership_graph, ("top_k", "max_term"), "genes of the same Gene Ontology terms")
)
TABLE_KINDS.add(
    "reactome", TableKind(membership_graph, ("top_k", "max_term"), "genes of the same Reactome pathways")
)
TABLE_KINDS.add(
    "tf",
    TableKind(
        regulatory_graph, ("confidence",), "signed, directed edges from transcription factor to target"
    ),
)
TABLE_KINDS.add("edges", TableKind(edge_graph, ("directed", "top_k"), "any table of edges"))


def build_from_table(
    kind: str,
    source: Path,
    *,
    name: str,
    keep: Collection[str] | None = None,
    names: Path | None = None,
    **options: Any,
) -> GeneGraph:
    """Build a graph of a registered kind from a table.

    Parameters
    ----------
    source
        The table (see `read_table`).
    keep
        Genes to keep (default: all).
    names
        A table of names for the ids (see `read_names`).
    options
        Those that the kind takes; what is None takes its default.

    Raises
    ------
    GraphError
        If the kind is unknown or the table does not serve it.
    """
    chosen = TABLE_KINDS.get(kind)
    given = {k: v for k, v in options.items() if v is not None}
    table = read_table(source)
    try:
        return chosen.build(
            table, name=name, keep=keep, names=None if names is None else read_names(names), **given
        )
    except GraphError as error:
        msg = f"{source}: {error}"
        raise GraphError(msg) from error
