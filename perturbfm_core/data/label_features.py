"""Measured features that name the perturbation of a cell, such as guide counts among the genes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import is_stored

# A feature is on in one perturbation only: in most of its cells, and in hardly any other.
MIN_ROWS = 3
_MOSTLY, _HARDLY = 0.6, 0.02
# Genes can be switched on by one perturbation; many such features are labels.
MANY, MANY_SHARE = 3, 0.02
_BLOCK = 2000
_WORDS = frozenset(
    [
        "sg",
        "sgrna",
        "grna",
        "guide",
        "guides",
        "crispr",
        "crispri",
        "crispra",
        "crisprko",
        "cas9",
        "cas13",
        "cas13d",
        "casrx",
        "sirna",
        "shrna",
        "ko",
        "kd",
        "oe",
        "perturb",
        "perturbation",
        "pert",
        "target",
        "targeting",
        "barcode",
        "bc",
        "gbc",
        "vector",
        "plasmid",
        "lenti",
        "feature",
        "cargo",
    ]
)
_TOKEN = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class LabelFeatures:
    """Features that name a perturbation.

    Attributes
    ----------
    by_name
        {feature: perturbation that its name contains as a guide}.
    by_value
        {feature: perturbation in whose rows alone it is on}; the perturbed genes themselves are not counted.
    n_perturbations
        Perturbations that have enough rows to see it.
    """

    by_name: dict[str, str]
    by_value: dict[str, str]
    n_perturbations: int

    @property
    def all(self) -> dict[str, str]:
        """Return both kinds, {feature: perturbation}."""
        return {**self.by_value, **self.by_name}

    @property
    def certain(self) -> bool:
        """Return whether they can only be labels: a guide's name, or more features than perturbations switch on."""
        enough = max(MANY, MANY_SHARE * self.n_perturbations)
        return bool(self.by_name) or len(set(self.by_value.values())) >= enough


_FOUND: WeakKeyDictionary[PerturbDataset, LabelFeatures] = WeakKeyDictionary()


def label_features(ds: PerturbDataset) -> LabelFeatures:
    """Return the features of a data set that name the perturbation; they are found once per data set."""
    if ds not in _FOUND:
        by_value, seen = _on_in_one(ds)
        _FOUND[ds] = LabelFeatures(_named(ds), by_value, seen)
    return _FOUND[ds]


def _named(ds: PerturbDataset) -> dict[str, str]:
    perts = [str(p) for p in ds.conditions[schema.PERT_ID].astype(str).unique()]
    names = {name for p in perts for name in pert_genes(p)}
    folded = {name.casefold(): name for name in names}
    out = {}
    for feature in map(str, ds.genes):
        if feature in names and not any(c in feature for c in "_-. "):
            continue
        tokens = [t.casefold() for t in _TOKEN.split(feature) if t]
        for i, token in enumerate(tokens):
            bare = token.removeprefix("sg") if token.startswith("sg") and token not in folded else token
            if bare not in folded:
                continue
            rest = [t for j, t in enumerate(tokens) if j != i]
            words = [t for t in rest if t in _WORDS or re.fullmatch(r"(?:sg|g|guide|grna|sgrna)\d+", t)]
            guide = bare != token or bool(words)
            # Besides the gene and at least one word for a guide, numbers only.
            if guide and all(t in words or t.isdigit() for t in rest):
                out[feature] = folded[bare]
    return out


def _pattern(X: Any) -> Any:
    """Return a CSR matrix with ones where `X` is stored and not zero; it shares the index arrays."""
    return sp.csr_array(((X.data != 0).astype(np.float32), X.indices, X.indptr), shape=X.shape, copy=False)


def _by_gene(X: Any, member: Any) -> Any:
    """Return CSC [P, G]: rows in which a feature is on, by perturbation; None of a dense matrix in memory."""
    if is_stored(X):
        total = sp.csr_array((member.shape[0], X.shape[1]), dtype=np.float32)
        for block, part in X.blocks():
            total = total + member[:, block] @ _pattern(sp.csr_array(part))
        return sp.csc_array(total)
    return sp.csc_array(member @ _pattern(X)) if sp.issparse(X) else None


def _on_in_one(ds: PerturbDataset) -> tuple[dict[str, str], int]:
    values = ds.streamed
    X = next(m for m in (values.counts, values.expression, values.delta) if m is not None)
    perts = ds.obs[schema.PERT_ID].astype(str).to_numpy()
    names, codes = np.unique(perts, return_inverse=True)
    size = np.bincount(codes)
    enough = (size >= MIN_ROWS) & (names != schema.CONTROL)
    # With few groups, to be on in one of them says little.
    if len(names) < 3 or not enough.any():
        return {}, int(enough.sum())
    member = sp.csr_array(
        (np.ones(len(codes), dtype=np.float32), (codes, np.arange(len(codes)))),
        shape=(len(names), len(codes)),
    )
    out: dict[str, str] = {}
    by_gene = _by_gene(X, member)
    for start in range(0, ds.n_genes, _BLOCK):
        stop = min(start + _BLOCK, ds.n_genes)
        counts = (
            member @ (np.asarray(X[:, start:stop]) != 0).astype(np.float32)
            if by_gene is None
            else by_gene[:, start:stop].toarray()
        )
        best = np.argmax(counts / size[:, None], axis=0)
        here = counts[best, np.arange(stop - start)]
        rest = counts.sum(axis=0) - here
        marks = enough[best] & (here >= _MOSTLY * size[best]) & (rest <= _HARDLY * (len(codes) - size[best]))
        for j in np.flatnonzero(marks & (here > 0)):
            pert, feature = str(names[best[j]]), str(ds.genes[start + j])
            if feature not in pert_genes(pert):
                out[feature] = pert
    return out, int(enough.sum())
