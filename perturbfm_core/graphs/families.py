"""Gene features from the symbols of genes: members of a family have a root in common (CEBPA and CEBPB, FOXA1 and FOXL2)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import FAMILIES
from perturbfm_core.schema import FloatArray

# Dimensions of the features: cosines of different roots are 0 ± 1 / sqrt(DIMENSIONS).
DIMENSIONS = 512
# A root of more than this share of the perturbed genes tells nothing of them; so does one in names made by rule.
MOST = 0.25
_SHORTEST, _FEW = 3, 3.0
# Size of a group at which the squared cosine of its members is a half.
_HALF = 50.0
# Three letters or more, then what else a symbol has; names of drugs are longer.
_SYMBOL = re.compile(r"(?=.{3,12}$)[A-Z]{3,}[A-Z0-9-]*")
# Symbols that stand for no family: named after a clone, a locus or a chromosome.
_PLACEHOLDER = re.compile(r"(KIAA|LOC|LINC|FLJ)\d+|C(\d+|X|Y)ORF\d+")
# What tells the members of a family apart: a number, maybe with a letter (FOXA1, CDKN1A, COL1A1).
_MEMBER = re.compile(r"\d+[A-Z]?\d*$")


def root(symbol: str) -> str:
    """Return the root of a gene symbol, "" where it has none of three letters or stands for no family.

    Nomenclature gives the genes of a family a common root, which letters and numbers follow (Bruford et al. 2020, Nature
    Genetics 52:754): what comes after the last number is left out with it, and one more letter if three are left, so that
    FOXA1 and FOXL2 have the root FOX, CEBPB has CEBP and TBX2 has TBX. Case does not count, so that symbols of the mouse
    have the same ones.
    """
    upper = symbol.upper()
    if _SYMBOL.fullmatch(upper) is None or _PLACEHOLDER.fullmatch(upper):
        return ""
    narrow = _MEMBER.sub("", upper)
    return narrow[:-1] if len(narrow) > _SHORTEST else narrow


def has_families(perturbed: Iterable[str]) -> bool:
    """Return whether the symbols of two perturbed genes share a root that most others lack."""
    return bool(_shared(set(perturbed))[0])


def family_features(perturbed: Collection[str], measured: Iterable[str] = ()) -> GeneFeatures:
    """Return float32 [N, 512] features of genes: 1 between genes whose symbols have the same root, else about 0.

    Each root is a random vector of signs, which depends on the root alone (feature hashing).

    Parameters
    ----------
    perturbed
        Genes that a data set perturbs; some must share a root (see `has_families`).
    measured
        Further genes, which are taken where they share a root with a perturbed one.
    """
    own = set(perturbed)
    shared, common = _shared(own)
    of_gene = {g: root(g) for g in sorted(own | set(measured))}
    kept = {g: r for g, r in of_gene.items() if r in shared or (g in own and r and r not in common)}
    vectors = {r: signs(r, DIMENSIONS) for r in sorted(set(kept.values()))}
    matrix = np.stack([vectors[r] for r in kept.values()]).astype(np.float32)
    return GeneFeatures(FAMILIES, np.asarray(list(kept), dtype=np.str_), matrix)


def _shared(genes: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the roots of two or more genes, and those of so many that they tell nothing."""
    held = Counter(r for r in map(root, genes) if r)
    common = {r for r, n in held.items() if n > max(_FEW, MOST * len(genes))}
    return {r for r, n in held.items() if n > 1} - common, common


def group_cosine(size: FloatArray | float) -> FloatArray | float:
    """Return how alike the members of a group of genes are: its square is a half in a group of fifty, 0 in very large ones."""
    return 1.0 / np.sqrt(1.0 + size / _HALF)


def signs(name: str, dimensions: int) -> FloatArray:
    """Return float64 [dimensions], a random vector of signs of length 1 that depends on the name alone.

    Parameters
    ----------
    name
        What the vector stands for.
    dimensions
        A multiple of 8; two vectors have a cosine of 0 ± 1 / sqrt(dimensions).
    """
    digest = hashlib.shake_256(name.encode()).digest(dimensions // 8)
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
    return np.asarray((2.0 * bits - 1.0) / np.sqrt(dimensions))
