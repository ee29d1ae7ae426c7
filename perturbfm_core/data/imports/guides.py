"""Guides of genes, recognised by their names: TP53_2, sgTP53-1."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from perturbfm_core import schema
from perturbfm_core.data.condition import label_parts, label_pieces, part_id
from perturbfm_core.errors import DatasetError

# Note of a data set that holds the {guide: gene} which its import merged.
MERGED_GUIDES: Final = "merged_guides"

_WORD = re.compile(r"[^A-Za-z0-9]+")
# A guide of a gene: the gene, then a short number ("TP53_1", "TP53-sg2", "TP53.g3") or before it "sg".
_GUIDE = re.compile(
    r"^(?P<gene>.+?)[\s_.-](?P<guide>(?:sg|g|guide|Guide|sgRNA|gRNA|sgrna|grna)?[\s_.-]?\d{1,3})$"
)
# What programs call a gene whose name another one has already, in Python and in R; nobody perturbs it.
_COPY = re.compile(r"^(?P<gene>.+)(?P<joint>[-.])\d{1,2}$")
_SG = re.compile(r"^(?:sg|sgRNA|gRNA|sgrna|grna)[\s_.-]?(?P<gene>.+?)$")


def guides_of_genes(labels: Iterable[str], genes: Collection[str]) -> dict[str, str]:
    """Return {label: gene} of labels that name a guide of a gene, such as "TP53_2" or "sgTP53-1".

    A label counts if it is no gene itself and what it names is a measured gene, or if two or more labels
    with "sg" or a number behind share what they name, and that is a perturbation of the file as well. Where others are guides
    by a number, so is one that is called like the copy of a gene (TP53-1 beside TP53).

    Parameters
    ----------
    labels
        Distinct labels of perturbations.
    genes
        Names of the measured genes.
    """
    distinct = sorted(set(labels))
    known = set(genes)
    stems: dict[str, str] = {}
    for label in distinct:
        if label in known:
            continue
        found = _GUIDE.match(label)
        if found and (found["guide"] in known or found["guide"] in distinct):
            # Two genes, one of which is called like a guide ("G2_G1").
            continue
        options = [m["gene"] for m in (found, _SG.match(label)) if m]
        options += [m["gene"] for option in list(options) if (m := _SG.match(option))]
        stem = next((o for o in options if o in known), None)
        if stem is None:
            stem = next((o for o in options if o in distinct), None)
        if stem is not None:
            stems[label] = stem
    joints = {label[len(gene)] for label, gene in stems.items() if label.startswith(gene)}
    for label in distinct:
        copy = _COPY.match(label)
        if label in known and copy and copy["gene"] in known and copy["joint"] in joints:
            stems[label] = copy["gene"]
    return stems


def guide_ids(
    pairs: Iterable[tuple[str, str]], genes_in: Callable[[str], list[str]], parts: Callable[[str], list[str]]
) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Return ({(guide, label): perturbation id}, {name of a guide: its gene}) of guides that a column declares.

    A guide is one name, whatever signs it has (``A_+_123.23``); only that of a combination is parted, into a guide for each
    gene. Guides that are numbered within their genes are named with these (``G6_sg1``).

    Parameters
    ----------
    pairs
        (guide, label) of rows; the label names the gene, or several.
    genes_in
        Returns the genes of a label, without controls.
    parts
        Returns the parts of the name of a guide.

    Raises
    ------
    DatasetError
        If the guide of a combination has more parts than genes, or two guides would have one name.
    """
    rows: dict[tuple[str, str], list[tuple[str, str]]] = {}
    genes_of: defaultdict[str, set[str]] = defaultdict(set)
    for guide, label in sorted(set(pairs)):
        genes = genes_in(label)
        own = parts(guide) if len(genes) > 1 else [guide]
        if len(genes) > 1 and len(own) not in (1, len(genes)):
            msg = (
                f"guide {guide!r} of {label!r} has {len(own)} parts for {len(genes)} genes; give another --separator, or name "
                "the guide by --aliases"
            )
            raise DatasetError(msg)
        if len(own) == 1:
            rows[guide, label] = [(guide, label if len(genes) > 1 else genes[0])]
        else:
            # The names of guides say more than their order, which may be another one than that of the genes.
            named = guides_of_genes(own, genes)
            apart = len(named) == len(own) and set(named.values()) == set(genes)
            rows[guide, label] = list(named.items() if apart else zip(own, genes, strict=True))
        for name, gene in rows[guide, label]:
            genes_of[name].add(gene)
    names = {
        (guide, gene): f"{gene}_{guide}" if len(genes) > 1 else guide
        for guide, genes in genes_of.items()
        for gene in genes
    }
    twice = [name for name, n in Counter(names.values()).items() if n > 1]
    if twice:
        msg = f"several guides would be called {min(twice)!r}, by gene and guide; give guides names of their own"
        raise DatasetError(msg)
    ids = {
        key: schema.COMBO_SEPARATOR.join(part_id(names[pair]) for pair in found)
        for key, found in rows.items()
    }
    return ids, {name: gene for (_, gene), name in sorted(names.items())}


def guides_of_unmeasured(labels: Iterable[str], genes: Collection[str]) -> dict[str, str]:
    """Return {label: stem} of labels that end in a number and share their stem, where no gene has that name.

    Whether they are guides of one gene cannot be known from the names; they are kept apart and named.

    Parameters
    ----------
    labels
        Distinct labels of perturbations.
    genes
        Names of the measured genes.
    """
    distinct = {x for x in labels if x not in genes}
    # Behind a hyphen a number mostly belongs to the name (IL-2, NKX2-1, GSK-126).
    found = {x: m["gene"] for x in distinct if (m := _GUIDE.match(x)) and x[len(m["gene"])] in "_."}
    shared = {stem for stem, n in Counter(found.values()).items() if n > 1 and stem not in genes}
    return {x: stem for x, stem in sorted(found.items()) if stem in shared}


def joined_guides(labels: Iterable[str], separators: Sequence[str], genes: Collection[str]) -> set[str]:
    """Return the guides of measured genes that stand in labels with a separator of their own, such as both of "TP53_1_MYC_2".

    Parameters
    ----------
    labels
        Distinct labels of perturbations.
    separators
        Texts that join the parts of a combination.
    genes
        Names of the measured genes.
    """
    distinct = set(labels)
    found: set[str] = set()
    for label in distinct - set(genes):
        pieces = label_pieces(label, separators)
        # Every second piece is a separator; the word between a gene and its number may be "sg" or "guide".
        for size in (3, 5):
            for start in range(0, len(pieces) - size + 1, 2):
                name = "".join(pieces[start : start + size])
                number = pieces[start + 2].strip()
                known = number in genes or number in distinct
                if not known and name not in genes and guides_of_genes([name], genes):
                    found.add(name)
    return found


def genes_inside(names: Iterable[str], genes: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return ({name with several measured genes in it: these}, names with one), of names that are no gene themselves.

    Parameters
    ----------
    names
        Names of perturbations or parts.
    genes
        Names of the measured genes.
    """
    several: dict[str, list[str]] = {}
    one = []
    for name in sorted(set(names) - set(genes)):
        found: list[str] = []
        for word in filter(None, _WORD.split(name)):
            options = (word, re.sub(r"^(?:sg|g)(?=[A-Z])", "", word), re.sub(r"(?:sg|g)\d+$", "", word))
            found += [gene for gene in options if gene in genes][:1]
        if len(set(found)) > 1:
            several[name] = list(dict.fromkeys(found))
        elif found:
            one.append(name)
    return several, one


def joint_of(name: str, genes: Collection[str]) -> str | None:
    """Return the text that parts a name into genes, guides of genes and other names, each once; None if no text does.

    Parameters
    ----------
    name
        Name with several measured genes in it.
    genes
        Names of the measured genes.
    """
    for joint in dict.fromkeys(map(str, _WORD.findall(name))):
        pieces = label_parts(name, (joint,), joined_guides([name], (joint,), genes))
        apart = len(set(pieces)) == len(pieces) and "" not in pieces and not any(p.isdigit() for p in pieces)
        # What still has several genes in it is parted by another text.
        if apart and not genes_inside(pieces, genes)[0]:
            return joint
    return None
