"""Kind of gene identifiers, and the organism that they belong to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from perturbfm_core.errors import GraphError

SYMBOLS, ENSEMBL = "symbols", "Ensembl ids"
# {organism: (NCBI taxonomy number, Latin name, code in Reactome's ids)}.
ORGANISMS = {"human": ("9606", "Homo sapiens", "HSA"), "mouse": ("10090", "Mus musculus", "MMU")}

_NUMBERS, _VALUES = "NCBI gene numbers", "numbers"
_KINDS = {
    ENSEMBL: re.compile(r"ENS[A-Z]{0,6}G\d{6,}(\.\d+)?", re.IGNORECASE),
    "Ensembl protein ids": re.compile(r"(\d+\.)?ENS[A-Z]{0,6}P\d{6,}(\.\d+)?", re.IGNORECASE),
    "UniProt accessions": re.compile(
        r"[OPQ]\d[A-Z0-9]{3}\d|[A-NR-Z]\d[A-Z][A-Z0-9]{2}\d([A-Z][A-Z0-9]{2}\d)?"
    ),
    _NUMBERS: re.compile(r"\d+"),
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_PREFIXES = {"human": "ENSG", "mouse": "ENSMUSG"}
# Of the names, at least this share must look alike before their kind or organism is stated.
_MOST = 0.5
_CLEAR = 0.8
_LEAST = 2
_LOOKED_AT = 5000


def kind_of(names: Iterable[str]) -> str:
    """Return what kind of identifiers gene names are: symbols unless most look like ids of a database."""
    listed = list(names)[:_LOOKED_AT]
    for kind, pattern in _KINDS.items():
        if kind != _NUMBERS and sum(bool(pattern.fullmatch(n)) for n in listed) > _MOST * len(listed):
            return kind
    values = [n for n in listed if _NUMBER.fullmatch(n)]
    if len(values) > _MOST * len(listed):
        return _NUMBERS if all(_KINDS[_NUMBERS].fullmatch(n) for n in values) else _VALUES
    return SYMBOLS


def organism_of(names: Collection[str]) -> str | None:
    """Return the organism that gene names are spelled for: human or mouse, None where they do not tell."""
    listed = list(names)[:_LOOKED_AT]
    if kind_of(listed) == ENSEMBL:
        upper = [n.upper() for n in listed]
        return next(
            (
                o
                for o, p in _PREFIXES.items()
                if sum(re.match(p + r"\d", n) is not None for n in upper) >= _CLEAR * len(upper)
            ),
            None,
        )
    # Human symbols are capitals (TP53), those of the mouse begin with one (Trp53).
    letters = [n for n in listed if sum(c.isalpha() for c in n) >= _LEAST]
    if len(letters) < _LEAST:
        return None
    capitals = sum(n.upper() == n for n in letters)
    titles = sum(n[:1].isupper() and any(c.islower() for c in n[1:]) for n in letters)
    if capitals >= _CLEAR * len(letters):
        return "human"
    return "mouse" if titles >= _CLEAR * len(letters) else None


def is_number(text: str) -> bool:
    """Return whether a text is a finite number."""
    return _NUMBER.fullmatch(text.strip()) is not None


def without_version(name: str) -> str:
    """Return an Ensembl id without its version (``ENSG00000141510.18``), any other name as it is."""
    return name.partition(".")[0] if "." in name and _KINDS[ENSEMBL].fullmatch(name) else name


def check_identifiers(names: Collection[str], organism: str, what: str) -> str:
    """Return the kind of gene names; refuse ids of no gene, and names of another organism.

    Parameters
    ----------
    names
        The gene names.
    organism
        The organism that they must be of.
    what
        The file in messages.

    Raises
    ------
    GraphError
        If they are ids of proteins or of another database, or are spelled as those of another organism.
    """
    kind = kind_of(names)
    example = min(names, default="")
    if kind == _VALUES:
        msg = (
            f"{what} has numbers where genes are looked for (e.g. {example!r}); name its columns in a first line (source, "
            "target, weight; gene and features; term, gene)"
        )
        raise GraphError(msg)
    if kind not in (SYMBOLS, ENSEMBL):
        msg = (
            f"{what} names genes by {kind} (e.g. {example!r}); give a table of (id, gene symbol or Ensembl gene id) with "
            "--names"
        )
        raise GraphError(msg)
    found = organism_of(names)
    if found is not None and found != organism:
        msg = (
            f"{what} holds genes of {found} by their {kind} (e.g. {example!r}), asked for is {organism}; give "
            f"--organism {found}, or the file of {organism}"
        )
        raise GraphError(msg)
    return kind
