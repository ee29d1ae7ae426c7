"""Registry of the kinds of gene graphs that are built from a published table."""

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
from perturbfm_core.registry.members import Registry


@dataclass(frozen=True)
class TableKind:
    """One kind of gene graph.

    Attributes
    ----------
    build
        (table, name, keep, names, options) -> graph.
    options
        Names of its options.
    description
        Meaning of its edges, for help and lists.
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
    kind
        Name of the kind.
    source
        File of the table (see `read_table`).
    name
        Name of the graph.
    keep
        Genes to keep (default: all).
    names
        File of a table that maps ids to gene names (see `read_names`).
    **options
        Options of the kind; None stands for the default.

    Raises
    ------
    GraphError
        If the kind is unknown, or the graph cannot be built from the table.
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
