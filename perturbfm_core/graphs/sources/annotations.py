"""Gene Ontology annotations: a GAF file and the ontology, as a table of (term, gene) with all ancestors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.identifiers import ORGANISMS
from perturbfm_core.graphs.sources.ontology import Ontology, read_obo
from perturbfm_core.graphs.sources.text_files import opened, read_columns

# Columns of GAF 2.x by position.
_COLUMNS = {2: "symbol", 4: "term", 6: "evidence", 8: "aspect", 12: "taxon"}
_QUALIFIER = 3
_ASPECTS = {"P": "biological_process", "F": "molecular_function", "C": "cellular_component"}
# No biological data: an annotation to the root that states that nothing is known.
_NOTHING = "ND"


def annotation_table(
    annotations: Path, ontology: Path, organism: str, aspects: str
) -> tuple[pd.DataFrame, str, list[str]]:
    """Return (``term``, ``gene`` with every ancestor by ``is_a`` and ``part_of``; version; what was left out).

    Negated annotations (``NOT``) and those without data (``ND``) are left out; repeated ones count once.

    Parameters
    ----------
    annotations
        The GAF file.
    ontology
        The OBO file.
    organism
        Organism whose annotations are kept.
    aspects
        Letters of the parts of the ontology: P, F, C.

    Raises
    ------
    GraphError
        If a file cannot be read, the annotations are of another organism or ontology, or none is left.
    """
    wanted = {a.upper() for a in aspects}
    if not wanted or not wanted <= set(_ASPECTS):
        msg = f"--aspects {aspects!r} is unknown; it takes letters of P (process), F (function) and C (component)"
        raise GraphError(msg)
    table = read_columns(annotations, _COLUMNS, comment="!")
    table["negated"] = _negated(annotations, len(table))
    table = _of_organism(table, annotations, organism)
    keep = (
        ~table["negated"] & (table["evidence"] != _NOTHING) & table["aspect"].str.upper().isin(sorted(wanted))
    )
    direct = table.loc[keep, ["symbol", "term"]].drop_duplicates()
    if direct.empty:
        msg = f"{annotations} has no annotation left of {len(table)} ({', '.join(sorted(wanted))}); see --aspects"
        raise GraphError(msg)
    terms = read_obo(ontology)
    out, lost = _closed(direct, terms, wanted)
    if out.empty:
        example = str(direct["term"].iloc[0])
        msg = f"{ontology} has none of the terms of {annotations} (e.g. {example}); give the ontology of the same release"
        raise GraphError(msg)
    said = [f"{lost} of {len(direct)} annotations name terms that the ontology lacks"] if lost else []
    stated = _date(annotations)
    version = " ".join(v for v in (terms.version, f"(annotations of {stated})" if stated else "") if v)
    return out, version, said


def _negated(path: Path, rows: int) -> pd.Series[bool]:
    """Return whether each annotation says that the gene does not have the term; the qualifier may be empty."""
    with opened(path) as handle:
        found = [
            "NOT" in line.split("\t", _QUALIFIER + 1)[_QUALIFIER].split("|")
            for line in handle
            if line.strip() and not line.startswith("!")
        ]
    return pd.Series(found[:rows], dtype=bool)


def _of_organism(table: pd.DataFrame, path: Path, organism: str) -> pd.DataFrame:
    """Return the annotations of one organism; a second taxon after the bar is that of an interacting one."""
    number = table["taxon"].str.partition("|")[0].str.removeprefix("taxon:")
    own = number == ORGANISMS[organism][0]
    if not own.any():
        top = str(number.mode().iloc[0])
        other = next((o for o, (n, *_) in ORGANISMS.items() if n == top), "another organism")
        msg = (
            f"{path} annotates genes of taxon {top} ({other}), asked for is {organism} ({ORGANISMS[organism][0]}); give "
            f"the file of {organism}"
        )
        raise GraphError(msg)
    return table[own]


def _closed(direct: pd.DataFrame, ontology: Ontology, aspects: set[str]) -> tuple[pd.DataFrame, int]:
    """Return annotations with those to all ancestors of the same parts, and how many name no term."""
    terms, reach = ontology.closure()
    at = {t: i for i, t in enumerate(terms)}
    code = direct["term"].map(lambda t: at.get(t, at.get(ontology.replaced.get(t, ""), -1))).to_numpy()
    known = code >= 0
    genes, gene = np.unique(direct["symbol"].to_numpy(dtype=np.str_)[known], return_inverse=True)
    member = sp.csr_array((np.ones(len(gene)), (gene, code[known])), shape=(len(genes), len(terms)))
    own = {_ASPECTS[a] for a in aspects}
    inside = np.asarray([ontology.namespace[t] in own or not ontology.namespace[t] for t in terms])
    every = sp.coo_array(sp.csr_array(member @ reach)[:, np.flatnonzero(inside)])
    names = np.asarray(terms, dtype=np.str_)[inside]
    table = pd.DataFrame({"term": names[every.col], "gene": genes[every.row]})
    return table, int((~known).sum())


def _date(path: Path) -> str:
    """Return the date that the comments of a GAF file state, "" without one."""
    with opened(path) as handle:
        for line in handle:
            if not line.startswith("!"):
                return ""
            key, _, value = line[1:].partition(":")
            if key.strip().lower() in ("date-generated", "generated"):
                return value.strip()[:10]
    return ""
