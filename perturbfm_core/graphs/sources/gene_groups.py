"""Gene groups of the HGNC (families, complexes, shared domains) as gene features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.families import group_cosine, signs
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.sources.conversion import (
    MAIN,
    ONTOLOGY,
    Converted,
    Options,
    checked,
    human_only,
    options_read,
)
from perturbfm_core.graphs.sources.identifiers import ENSEMBL
from perturbfm_core.graphs.sources.named_columns import read_named
from perturbfm_core.schema import FloatArray

# Cosines are exact to 1 / sqrt(256).
_DIMENSIONS = 256
_SYMBOL, _ID, _GROUPS = "symbol", "ensembl_gene_id", "gene_group_id"
_LOCUS, _FORMER, _CHANGED = "locus_group", "prev_symbol", "date_modified"
_CODING = "protein-coding gene"
_ABOVE, _BELOW = "parent_fam_id", "child_fam_id"


def from_gene_groups(files: Mapping[str, Path], options: Options, name: str) -> Converted:
    """Return float32 [genes, 256] features of protein-coding genes, by the groups of the HGNC that they belong to.

    The squared cosine of two genes is 1 / (1 + size / 50) of the smallest group that they share, groups above their own
    ones counted: half as alike as a gene is to itself in a group of fifty, hardly in one of seven hundred. Each group and
    each gene is a random vector of signs that depends on its name alone (feature hashing), so cosines are exact to
    ± 1 / sqrt(256). Former symbols stand beside the approved ones where they were one gene's and are no other's now.

    Parameters
    ----------
    files
        ``main``: the complete set, with the columns symbol, gene_group_id, and, where there are, locus_group, prev_symbol,
        ensembl_gene_id; ``ontology``: which groups are above which (parent_fam_id, child_fam_id), may be left out.
    options
        See `Options`; only organism and kind of names are read.
    name
        Name of the features.

    Raises
    ------
    GraphError
        If a file cannot be read, lacks a column or has no gene in a group, or another organism is asked for.
    """
    main = files[MAIN]
    read = options_read(options, (), f"{main}, which lists genes and their groups")
    human_only(options, f"{main} lists genes")
    named_by = _ID if options.ids == ENSEMBL else _SYMBOL
    table = read_named(main, (named_by, _GROUPS), "the HGNC's complete set", (_LOCUS, _FORMER, _CHANGED))
    above = _above(files[ONTOLOGY]) if ONTOLOGY in files else {}
    coding = table if _LOCUS not in table else table[table[_LOCUS].str.strip() == _CODING]
    of_gene: dict[str, set[str]] = {}
    for gene, cell in zip(coding[named_by].str.strip(), coding[_GROUPS], strict=True):
        own = _cells(cell)
        if gene and own:
            of_gene.setdefault(gene, set()).update(own, *(above.get(g, ()) for g in own))
    if not of_gene:
        msg = f"{main} has no protein-coding gene in a group; give the complete set of the HGNC (hgnc_complete_set.txt)"
        raise GraphError(msg)
    kind = checked(set(of_gene), options, files)
    sizes = Counter(chain.from_iterable(of_gene.values()))
    rows = {gene: _vector(gene, groups, sizes) for gene, groups in of_gene.items()}
    former = {f: rows[g] for f, g in _former(table).items() if g in rows} if named_by == _SYMBOL else {}
    notes = [f"{len(former)} former symbols stand for the genes that had them"] if former else []
    if not above:
        notes.append("groups are read without those above them (--ontology hierarchy_closure.csv)")
    rows |= former
    features = GeneFeatures(
        name, np.asarray(list(rows), dtype=np.str_), np.stack(list(rows.values())).astype(np.float32)
    )
    changed = max(table[_CHANGED].str.strip(), default="") if _CHANGED in table else ""
    return Converted(kind, None, features, changed, tuple(notes), read)


def _vector(gene: str, groups: Iterable[str], sizes: Mapping[str, int]) -> FloatArray:
    """Return float64 [256]: what is shared with the members of each group, from the smallest, and the gene's own rest."""
    ordered = sorted(groups, key=lambda g: (sizes[g], g))
    # Products of two genes telescope to the cosine of the smallest group that they share.
    alike = [1.0, *(group_cosine(sizes[g]) for g in ordered), 0.0]
    parts = [f"gene {gene}", *(f"group {g}" for g in ordered)]
    return np.asarray(
        sum(
            np.sqrt(more - less) * signs(part, _DIMENSIONS)
            for part, (more, less) in zip(parts, pairwise(alike), strict=True)
        )
    )


def _former(table: pd.DataFrame) -> dict[str, str]:
    """Return {former symbol: symbol} of those that one gene had and none has."""
    if _FORMER not in table:
        return {}
    had: dict[str, set[str]] = {}
    now = set(table[_SYMBOL].str.strip())
    for symbol, cell in zip(table[_SYMBOL].str.strip(), table[_FORMER], strict=True):
        for former in _cells(cell):
            had.setdefault(former, set()).add(symbol)
    return {f: genes.pop() for f, genes in sorted(had.items()) if len(genes) == 1 and f not in now}


def _above(path: Path) -> dict[str, set[str]]:
    """Return {group: all groups above it}; the file may state each step or all of them."""
    table = read_named(path, (_ABOVE, _BELOW), "the HGNC's hierarchy of groups")
    direct: dict[str, set[str]] = {}
    for parent, child in zip(table[_ABOVE].str.strip(), table[_BELOW].str.strip(), strict=True):
        direct.setdefault(child, set()).add(parent)
    found: dict[str, set[str]] = {}
    for group in direct:
        seen: set[str] = set()
        ahead = [group]
        while ahead:
            new = direct.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        found[group] = seen - {group}
    return found


def _cells(cell: str) -> list[str]:
    return [part.strip() for part in cell.split("|") if part.strip()]
