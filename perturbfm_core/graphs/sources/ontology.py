"""The Gene Ontology's graph of terms: read from OBO, with the ancestors of every term."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.text_files import opened


@dataclass
class Ontology:
    """Terms of an ontology with their parents.

    Attributes
    ----------
    version
        What the file states (``data-version``), "" without it.
    namespace
        {term: its part of the ontology}, obsolete terms left out.
    parents
        {term: terms that it is a kind of, or a part of}.
    replaced
        {older id: the term that has it as ``alt_id``}.
    """

    version: str = ""
    namespace: dict[str, str] = field(default_factory=dict)
    parents: dict[str, list[str]] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)

    def closure(self) -> tuple[list[str], sp.csr_array]:
        """Return (terms, CSR [terms, terms] of ones: a term and all of its ancestors in each row)."""
        terms = sorted(self.namespace)
        at = {t: i for i, t in enumerate(terms)}
        pairs = [(at[t], at[p]) for t in terms for p in self.parents.get(t, ()) if p in at]
        row, col = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
        n = len(terms)
        reach = sp.csr_array((np.ones(len(row)), (row, col)), shape=(n, n)) + sp.eye_array(n, format="csr")
        reach.data[:] = 1.0
        while True:
            # Each squaring doubles the length of the paths; a cycle in a damaged file ends as well.
            further = sp.csr_array(reach @ reach)
            further.data[:] = 1.0
            if further.nnz == reach.nnz:
                return terms, further
            reach = further


def read_obo(path: Path) -> Ontology:
    """Read the terms of an OBO file, joined by ``is_a`` and ``part_of``.

    Raises
    ------
    GraphError
        If it cannot be read or holds no term.
    """
    out = Ontology()
    stanza: dict[str, list[str]] | None = None
    with opened(path) as handle:
        for line in handle:
            text = line.strip()
            if text.startswith("["):
                _keep(out, stanza)
                stanza = {} if text == "[Term]" else None
            elif stanza is not None:
                key, _, value = text.partition(": ")
                stanza.setdefault(key, []).append(value.partition(" ! ")[0].strip())
            elif not out.version and text.startswith("data-version:"):
                out.version = text.partition(":")[2].strip().removeprefix("releases/")
    _keep(out, stanza)
    if not out.namespace:
        msg = f"{path} holds no term of an ontology; give go-basic.obo with --ontology"
        raise GraphError(msg)
    return out


def _keep(out: Ontology, stanza: dict[str, list[str]] | None) -> None:
    """Enter one term; a stanza of another kind is None, and an obsolete term is left out."""
    if not stanza or "id" not in stanza or stanza.get("is_obsolete", [""])[0] == "true":
        return
    term = stanza["id"][0]
    out.namespace[term] = stanza.get("namespace", [""])[0]
    # The rest of an is_a line may have a qualifier in braces.
    parts = [w[1] for r in stanza.get("relationship", ()) if (w := r.split())[:1] == ["part_of"] and w[1:]]
    out.parents[term] = [*(p.split()[0] for p in stanza.get("is_a", ()) if p), *parts]
    out.replaced.update(dict.fromkeys(stanza.get("alt_id", ()), term))
