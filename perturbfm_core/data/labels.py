"""Perturbation labels of a file: text that means missing, control labels, guides of one gene, merged spellings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import BoolArray

# Text that programs write for a missing value.
MISSING = frozenset(
    {
        "",
        "nan",
        "NaN",
        "NAN",
        "NA",
        "N/A",
        "n/a",
        "#N/A",
        "<NA>",
        "None",
        "null",
        "NULL",
        "Null",
        "NaT",
        "-nan",
    }
)
# Labels of cells whose perturbation is not known; they are kept, and named.
_UNASSIGNED = frozenset(
    {"unassigned", "unknown", "ambiguous", "multiplet", "doublet", "none", "negative", "unmapped"}
)
_CONTROL_LIKE = re.compile(
    r"^(?:(?:negative|neg)[\s_.-]*)?(?:control|controls|ctrl|ctl)s?(?:[\s_.-]*\d+)?$"
    r"|^non?[\s_.-]*target(?:ing)?\w*(?:[\s_.-]*\w*\d+)?$"
    r"|^safe[\s_.-]*(?:target(?:ing)?|harbou?r)(?:[\s_.-]*\d+)?$"
    r"|^(?:nt|ntc|sgnt|negctrl|neg|intergenic|scrambled?|aavs1|rosa26|lacz|e?gfp|luciferase|mock|dmso|vehicle"
    r"|untreated|unperturbed|pbs|wt|wild[\s_.-]*type|blank)(?:[\s_.-]*\d+)?$",
    re.IGNORECASE,
)
# A guide of a gene: the gene, then a short number ("TP53_1", "TP53-sg2", "TP53.g3") or before it "sg".
_GUIDE = re.compile(
    r"^(?P<gene>.+?)[\s_.-](?P<guide>(?:sg|g|guide|Guide|sgRNA|gRNA|sgrna|grna)?[\s_.-]?\d{1,3})$"
)
_SG = re.compile(r"^(?:sg|sgRNA|gRNA|sgrna|grna)[\s_.-]?(?P<gene>.+?)$")


def refuse_missing(texts: pd.Series, keep: Collection[str], what: str) -> None:
    """Refuse a column in which some text means a missing value.

    Parameters
    ----------
    texts
        Text [n], without spaces around it; index: row names.
    keep
        Texts that are labels all the same.
    what
        Name of the column with its option, for the message.

    Raises
    ------
    DatasetError
        If there is such a text; the message names it, and its first row.
    """
    distinct = sorted((set(texts.unique()) & MISSING) - set(keep))
    if not distinct:
        return
    bad = texts.isin(distinct).to_numpy()
    shown = ", ".join(repr(x) for x in distinct)
    msg = (
        f"{what} has {int(bad.sum())} rows with text that means a missing value ({shown}), first in row "
        f"{str(texts.index[int(np.argmax(bad))])!r}; leave them out with --drop-label {distinct[0]!r}, or, if it is a "
        f"label, declare it with --keep-label {distinct[0]!r}"
    )
    raise DatasetError(msg)


def control_rows(labels: pd.Series, controls: Sequence[str], keep: Collection[str], column: str) -> BoolArray:
    """Return bool [N], the rows with one of the control labels.

    Parameters
    ----------
    labels
        Text [N], without spaces around it.
    controls
        Control labels.
    keep
        Labels that are perturbations although they look like a control label in another case.
    column
        Name of the column, for messages.

    Raises
    ------
    DatasetError
        If a control label does not occur, or occurs in another case as well.
    """
    counts = labels.value_counts()
    found = {str(label): int(n) for label, n in counts.items()}
    for control in controls:
        if control not in found:
            near = [x for x in found if x.casefold() == control.casefold()]
            some = ", ".join(repr(x) for x in (near or list(found)[:5]))
            hint = "upper and lower case differ; give" if near else "found e.g."
            msg = f"control label {control!r} does not occur in {column!r}; {hint} {some}"
            raise DatasetError(msg)
    folded = {c.casefold() for c in controls}
    twins = [x for x in found if x.casefold() in folded and x not in controls and x not in keep]
    if twins:
        msg = (
            f"{column!r} has {found[twins[0]]} rows {twins[0]!r}, which differ from the control label in case only; add "
            f"--control-label {twins[0]!r} if they are controls, --keep-label {twins[0]!r} if not"
        )
        raise DatasetError(msg)
    return np.asarray(labels.isin(list(controls)), dtype=np.bool_)


def control_like(perts: Iterable[str]) -> list[str]:
    """Return the perturbations whose name reads like that of a control (NT, AAVS1, non-targeting, DMSO)."""
    return sorted({p for p in perts if _CONTROL_LIKE.match(p)})


def unassigned_like(perts: Iterable[str]) -> list[str]:
    """Return the perturbations whose name reads like that of cells without a known perturbation."""
    return sorted({p for p in perts if p.casefold() in _UNASSIGNED})


def merged_spellings(raw: Iterable[str]) -> list[list[str]]:
    """Return groups of labels that differ only in the spaces around them, and are one."""
    groups: dict[str, list[str]] = {}
    for label in raw:
        groups.setdefault(label.strip(), []).append(label)
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def differing_in_case(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ only in upper and lower case."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def guides_of_genes(labels: Iterable[str], genes: Collection[str]) -> dict[str, str]:
    """Return {label: gene} of labels that name a guide of a gene, such as "TP53_2" or "sgTP53-1".

    A label counts if it is no gene itself and what it names is a measured gene, or if two or more labels
    with "sg" or a number behind share what they name, and that is a perturbation of the file as well.

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
    return stems


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
    found = {x: m["gene"] for x in distinct if (m := _GUIDE.match(x))}
    shared = {stem for stem, n in Counter(found.values()).items() if n > 1 and stem not in genes}
    return {x: stem for x, stem in sorted(found.items()) if stem in shared}
