"""Conversion of the files of a source to a gene graph, gene features, or both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from perturbfm_core.graphs.sources.translation import translated_table
from perturbfm_core.graphs.tables import find_column

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
    given
        Names of those of these fields that were asked for; files that have no use for one are refused.
    """

    organism: str = "human"
    ids: str | None = None
    min_score: float = 700.0
    confidence: str = "ABC"
    aspects: str = "P"
    dim: int = DIMENSIONS
    max_term: int = MAX_TERM
    directed: bool | None = None
    given: tuple[str, ...] = ()


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
    read
        Names of the fields of `Options` on which the result depends, beside organism and kind of names.
    """

    identifiers: str
    graph: GeneGraph | None = None
    features: GeneFeatures | None = None
    version: str = ""
    notes: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


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
    read = options_read(options, ("min_score", "dim"), f"{links}, which holds links")
    table = read_links(links, options.organism, options.min_score)
    if needs_names(table):
        if NAMES not in files:
            msg = f"{links} names proteins; give STRING's protein.info or protein.aliases with --names"
            raise GraphError(msg)
        names = read_protein_names(files[NAMES], options.ids or SYMBOLS)
        table, lost = named(table, names, links, files[NAMES])
        notes += [f"{lost} proteins have no gene name and are left out"] if lost else []
    else:
        table, more = translated_table(table, ("source", "target"), files.get(NAMES), links)
        notes += more
    twice = int(table.duplicated(["source", "target"]).sum())
    notes += [f"{twice} repeated pairs of genes keep their highest score"] if twice else []
    kind = checked({*table["source"], *table["target"]}, options, files)
    graph = scored_graph(table, name=name, min_score=options.min_score)
    features = neighbourhood_features(graph, options.dim, name=name)
    return Converted(kind, graph, features, version_of(links), tuple(notes), read)


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
    annotates = is_annotations(main)
    reads = ("aspects",) if annotates else ()
    what = "annotations" if annotates else "gene sets"
    read = options_read(options, (*reads, "dim", "max_term"), f"{main}, which holds {what}")
    if annotates:
        if ONTOLOGY not in files:
            msg = f"{main} annotates genes with terms; give the ontology (go-basic.obo) with --ontology"
            raise GraphError(msg)
        table, version, notes = annotation_table(main, files[ONTOLOGY], options.organism, options.aspects)
    else:
        if ONTOLOGY in files:
            msg = f"--ontology has no use with {main}, which holds gene sets and no annotations (GAF)"
            raise GraphError(msg)
        table = read_gene_sets(main, options.organism)
    table, more = translated_table(table, ("gene",), files.get(NAMES), main)
    notes += more
    if NAMES not in files and table["gene"].str.match(r"ENS[A-Z]{0,6}[GTP]\d").any():
        # Reactome maps genes, transcripts and proteins in one file.
        table, lost = of_genes(table, None, lambda x: kind_of([x]) == ENSEMBL, main)
        notes += [f"{lost} ids of transcripts and proteins are left out"] if lost else []
    twice = int(table.duplicated().sum())
    notes += [f"{twice} repeated memberships count once"] if twice else []
    kind = checked(set(table["gene"]), options, files)
    features = membership_features(
        table, name=name, dim=_dimensions(table, options, main), max_term=options.max_term
    )
    return Converted(kind, None, features, version, tuple(notes), read)


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
    table = read_regulation(main)
    levels = find_column(table, ("confidence",)) is not None
    reads, what = (("confidence",), "") if levels else ((), ", which has no column of confidence")
    read = options_read(options, reads, f"{main}{what}")
    table, notes = translated_table(table, ("source", "target"), files.get(NAMES), main)
    try:
        graph = regulatory_graph(table, name=name, confidence=options.confidence)
    except GraphError as error:
        msg = f"{main}: {error}"
        raise GraphError(msg) from error
    twice = int(table.duplicated(["source", "target"]).sum())
    notes += [f"{twice} repeated pairs of genes have the mean of their signs"] if twice else []
    # A complex has a name of its own, such as AP1 or FOS_JUN, which is no gene's.
    kind = checked(set(graph.genes.tolist()), options, files)
    return Converted(kind, graph, None, "", tuple(notes), read)


def is_annotations(path: Path) -> bool:
    """Return whether a file holds annotations as GAF: by what it states, else by its column of taxa."""
    if path.suffix == ".parquet":
        return False
    cells = first_line(path, "!").split("\t")
    return first_line(path).startswith(_GAF) or (len(cells) > _TAXON and cells[_TAXON].startswith("taxon:"))


def checked(names: Collection[str], options: Options, files: Mapping[str, Path]) -> str:
    """Return the kind of gene names, which must be of the organism and of the kind that is wanted.

    Parameters
    ----------
    names
        The gene names.
    options
        What is wanted.
    files
        The files that they come from, in messages.

    Raises
    ------
    GraphError
        If they are of another kind or organism.
    """
    by = f" by way of {files[NAMES]}" if NAMES in files else ""
    kind = check_identifiers(names, options.organism, f"{files[MAIN]}{by}")
    if options.ids is not None and kind != options.ids:
        what = f"a table of its ids and {options.ids}" if by else "a table of both"
        msg = f"{files[MAIN]} names genes by {kind}{by}, wanted are {options.ids}; give {what} with --names"
        raise GraphError(msg)
    return kind


def human_only(options: Options, what: str) -> None:
    """Refuse another organism than human.

    Raises
    ------
    GraphError
        If one is asked for.
    """
    if options.organism != "human":
        msg = f"{what} of human, asked for is {options.organism}; give gene sets of that organism to `perturbfm knowledge add file`"
        raise GraphError(msg)


def options_read(options: Options, read: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the names of the options that a file has a use for; refuse those that were given beside them.

    Parameters
    ----------
    options
        See `Options`.
    read
        Names of its fields that the conversion of the file reads.
    what
        The file and its form, in the message.

    Raises
    ------
    GraphError
        If an option was given that has no use.
    """
    useless = [_option(name) for name in options.given if name not in read]
    if useless:
        known = ", ".join(_option(name) for name in read) or "none of these options"
        msg = f"{', '.join(useless)} has no use with {what}; it takes {known}"
        raise GraphError(msg)
    return tuple(read)


def _option(name: str) -> str:
    return "--directed/--undirected" if name == "directed" else f"--{name.replace('_', '-')}"


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
