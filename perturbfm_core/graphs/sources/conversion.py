"""Conversion of the files of a source to a gene graph, gene features, or both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.defaults import DIMENSIONS, MAX_TERM
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.interactions import regulatory_graph, scored_graph
from perturbfm_core.graphs.membership import membership_features
from perturbfm_core.graphs.sources.annotations import annotation_table
from perturbfm_core.graphs.sources.gene_sets import of_genes, read_gene_sets
from perturbfm_core.graphs.sources.identifiers import (
    ENSEMBL,
    SYMBOLS,
    check_identifiers,
    kind_of,
    without_version,
)
from perturbfm_core.graphs.sources.neighbourhood import neighbourhood_features
from perturbfm_core.graphs.sources.protein_links import (
    named,
    needs_names,
    read_links,
    read_protein_names,
    version_of,
)
from perturbfm_core.graphs.sources.regulation import read_regulation
from perturbfm_core.graphs.sources.text_files import first_line

MAIN, NAMES, ONTOLOGY = "main", "names", "ontology"
_GAF, _TAXON = "!gaf-version", 12


@dataclass(frozen=True)
class Options:
    """How the files of a source are converted.

    Attributes
    ----------
    organism
        ``human`` or ``mouse``.
    ids
        Kind of gene names that is wanted, None for those of the source.
    min_score
        STRING: least score of a link, of 1000.
    confidence
        DoRothEA: letters of the levels that are kept.
    aspects
        Gene Ontology: letters of its parts (P, F, C).
    dim, max_term
        Dimensions of gene features; genes of the largest term or pathway that they use.
    directed
        A table of edges of the user's own: whether the first gene acts on the second; None if it was not said.
    """

    organism: str = "human"
    ids: str | None = None
    min_score: float = 700.0
    confidence: str = "ABC"
    aspects: str = "P"
    dim: int = DIMENSIONS
    max_term: int = MAX_TERM
    directed: bool | None = None


@dataclass(frozen=True, eq=False)
class Converted:
    """What the files of a source became.

    Attributes
    ----------
    identifiers
        Kind of the gene names.
    graph, features
        The gene graph and the table of gene features, None where the source gives none.
    version
        What the files state of their version, "" where they do not.
    notes
        What was left out or joined, each in one line.
    """

    identifiers: str
    graph: GeneGraph | None = None
    features: GeneFeatures | None = None
    version: str = ""
    notes: tuple[str, ...] = ()


def from_protein_links(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    """Return graph and neighbourhood features of STRING's links.

    Parameters
    ----------
    files
        ``main`` (the links) and ``names`` (info or aliases).
    options
        See `Options`.
    name
        Name of graph and features.

    Raises
    ------
    GraphError
        If a file is missing, malformed or of another organism.
    """
    links, notes = files[MAIN], []
    table = read_links(links, options.organism, options.min_score)
    if needs_names(table):
        if NAMES not in files:
            msg = f"{links} names proteins; give STRING's protein.info or protein.aliases with --names"
            raise GraphError(msg)
        names = read_protein_names(files[NAMES], options.ids or SYMBOLS)
        table, lost = named(table, names, links, files[NAMES])
        notes += [f"{lost} proteins have no gene name and are left out"] if lost else []
    else:
        table, more = _translated(table, ("source", "target"), files, links)
        notes += more
    twice = int(table.duplicated(["source", "target"]).sum())
    notes += [f"{twice} repeated pairs of genes keep their highest score"] if twice else []
    kind = _checked({*table["source"], *table["target"]}, options, links)
    graph = scored_graph(table, name=name, min_score=options.min_score)
    features = neighbourhood_features(graph, options.dim, name=name)
    return Converted(kind, graph, features, version_of(links), tuple(notes))


def from_terms(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    """Return features of gene sets: annotations with an ontology, pathways, or any sets of genes.

    Parameters
    ----------
    files
        ``main`` (GAF, GMT, a mapping file or a table), ``ontology`` for GAF, and ``names`` to translate ids.
    options
        See `Options`.
    name
        Name of the features.

    Raises
    ------
    GraphError
        If a file is missing, malformed or of another organism.
    """
    main, version = files[MAIN], ""
    notes: list[str] = []
    if main.suffix != ".parquet" and _is_gaf(main):
        if ONTOLOGY not in files:
            msg = f"{main} annotates genes with terms; give the ontology (go-basic.obo) with --ontology"
            raise GraphError(msg)
        table, version, notes = annotation_table(main, files[ONTOLOGY], options.organism, options.aspects)
    else:
        table = read_gene_sets(main, options.organism)
    if NAMES in files:
        table, more = _translated(table, ("gene",), files, main)
        notes += more
    elif table["gene"].str.match(r"ENS[A-Z]{0,6}[GTP]\d").any():
        # Reactome maps genes, transcripts and proteins in one file.
        table, lost = of_genes(table, None, lambda x: kind_of([x]) == ENSEMBL, main)
        table["gene"] = table["gene"].map(without_version)
        notes += [f"{lost} ids of transcripts and proteins are left out"] if lost else []
    twice = int(table.duplicated().sum())
    notes += [f"{twice} repeated memberships count once"] if twice else []
    kind = _checked(set(table["gene"]), options, main)
    features = membership_features(
        table, name=name, dim=_dimensions(table, options, main), max_term=options.max_term
    )
    return Converted(kind, None, features, version, tuple(notes))


def from_regulation(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    """Return the signed graph of a table of regulatory interactions.

    Parameters
    ----------
    files
        ``main`` (the table), and ``names`` to translate ids.
    options
        See `Options`.
    name
        Name of the graph.

    Raises
    ------
    GraphError
        If a file is missing, malformed or of another organism.
    """
    main = files[MAIN]
    table, notes = _translated(read_regulation(main), ("source", "target"), files, main)
    try:
        graph = regulatory_graph(table, name=name, confidence=options.confidence)
    except GraphError as error:
        msg = f"{main}: {error}"
        raise GraphError(msg) from error
    columns = [c for c in ("source", "tf", "target") if c in table]
    twice = int(table.duplicated(columns).sum())
    notes += [f"{twice} repeated pairs of genes have the mean of their signs"] if twice else []
    # A complex has a name of its own, such as AP1 or FOS_JUN, which is no gene's.
    kind = _checked(set(graph.genes.tolist()), options, main)
    return Converted(kind, graph, None, "", tuple(notes))


def _is_gaf(path: Path) -> bool:
    """Return whether a file holds annotations as GAF: by what it states, else by its column of taxa."""
    cells = first_line(path, "!").split("\t")
    return first_line(path).startswith(_GAF) or (len(cells) > _TAXON and cells[_TAXON].startswith("taxon:"))


def _translated(
    table: pd.DataFrame, columns: Collection[str], files: Mapping[str, Path], main: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Return a table with the ids of some columns translated by the table of names, if one is given."""
    if NAMES not in files:
        return table, []
    names = _names(files[NAMES])
    present = [c for c in columns if c in table]
    ids = {x for c in present for x in table[c].astype(str)}
    found = table.assign(**{c: table[c].astype(str).map(names) for c in present})
    found = found[found[present].notna().all(axis=1)].reset_index(drop=True)
    lost = len(ids - names.keys())
    if found.empty:
        msg = f"{files[NAMES]} names none of the {len(ids)} ids of {main} (e.g. {min(ids)!r}); give another table with --names"
        raise GraphError(msg)
    return found, [f"{lost} ids have no name in {files[NAMES].name} and are left out"] if lost else []


def _names(path: Path) -> dict[str, str]:
    from perturbfm_core.graphs.tables import read_names

    return {k: without_version(v) for k, v in read_names(path).items() if v}


def _checked(names: set[str], options: Options, main: Path) -> str:
    """Return the kind of gene names, which must be of the organism and of the kind that is wanted."""
    kind = check_identifiers(names, options.organism, str(main))
    if options.ids is not None and kind != options.ids:
        msg = f"{main} names genes by {kind}, wanted are {options.ids}; give a table of both with --names"
        raise GraphError(msg)
    return kind


def _dimensions(table: pd.DataFrame, options: Options, main: Path) -> int:
    """Return the number of features, fewer than asked for where there are few genes or terms."""
    size = table.groupby("term")["gene"].nunique()
    used = table[table["term"].isin(size.index[size <= options.max_term])]
    most = min(used["term"].nunique(), used["gene"].nunique()) - 1
    if most < 1:
        msg = (
            f"{main} has {used['term'].nunique()} sets of at most {options.max_term} genes, of {used['gene'].nunique()} genes; "
            "features need two of each"
        )
        raise GraphError(msg)
    return min(options.dim, int(most))
