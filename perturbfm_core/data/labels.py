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
    [
        "unassigned",
        "unknown",
        "ambiguous",
        "multiplet",
        "doublet",
        "none",
        "negative",
        "unmapped",
        "undetermined",
        "*",
        "-",
        "?",
        "noguide",
    ]
)
# Names of controls, by the words of a label without "sg" before and numbers behind them.
_CONTROL_WORDS = frozenset(
    [
        "control",
        "controls",
        "ctrl",
        "ctrls",
        "ctl",
        "nt",
        "ntc",
        "ntg",
        "nontargeting",
        "nontarget",
        "negctrl",
        "negcontrol",
        "neg",
        "intergenic",
        "scramble",
        "scrambled",
        "aavs",
        "rosa",
        "lacz",
        "gfp",
        "egfp",
        "mcherry",
        "luciferase",
        "mock",
        "dmso",
        "vehicle",
        "untreated",
        "unperturbed",
        "unstimulated",
        "pbs",
        "wildtype",
        "blank",
    ]
)
_CONTROL_PHRASE = re.compile(
    r"non?[\W_]*target|safe[\W_]*(?:target|harbou?r)|wild[\W_]*type|\bwt\b|empty[\W_]*vector|no[\W_]*perturbation"
    r"|cas9[\W_]*only|negative[\W_]*control",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^A-Za-z0-9]+")
_DOSE_IN_LABEL = re.compile(
    r"\d\s*(?:[fpnuµμm]?M|[fpnuµμm]?g/ml|[munµμ]?mol/l|mg/kg)\b|,\s*'[nuµμm]?M'\)", re.IGNORECASE
)
# Modalities whose perturbations are no genes.
DRUG_LIKE = frozenset({"drug", "drugs", "compound", "chemical", "cytokine", "ligand", "small molecule"})
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
    cure = f"leave them out with --drop-label {distinct[0]!r}" if "--pert-col" in what else "fill them"
    msg = (
        f"{what} has {int(bad.sum())} rows with text that means a missing value ({shown}), first in row "
        f"{str(texts.index[int(np.argmax(bad))])!r}; {cure}, or, if it is a label, declare it with --keep-label "
        f"{distinct[0]!r}"
    )
    raise DatasetError(msg)


def control_rows(
    labels: pd.Series,
    controls: Sequence[str],
    keep: Collection[str],
    column: str,
    parts: Collection[str] = (),
) -> BoolArray:
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
    parts
        Parts of combinations, of which a control may be one ("A+NT").

    Raises
    ------
    DatasetError
        If a control label does not occur, or occurs in another case as well.
    """
    counts = labels.value_counts()
    found = {str(label): int(n) for label, n in counts.items()}
    for control in controls:
        if control not in found and control not in parts:
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


def control_like(perts: Iterable[str], genes: Collection[str] = ()) -> list[str]:
    """Return the perturbations whose name reads like that of a control (NT, sgAAVS1-1, DMSO, non-targeting).

    Parameters
    ----------
    perts
        Names of perturbations, or of parts of combinations.
    genes
        Measured genes, which are no controls whatever they are called (CTRL, WT1).
    """
    return sorted({p for p in perts if p not in genes and _reads_like_control(p, genes)})


def _reads_like_control(name: str, genes: Collection[str]) -> bool:
    words = [w for w in _WORD.split(name) if w]
    if any(w in genes for w in words):
        # A gene beside a control is a combination of both.
        return False
    bare = {re.sub(r"\d+$", "", re.sub(r"^sg", "", w.casefold())) for w in words}
    return bool(bare & _CONTROL_WORDS) or bool(_CONTROL_PHRASE.search(name))


def unassigned_like(perts: Iterable[str], genes: Collection[str] = ()) -> list[str]:
    """Return the perturbations, other than genes, whose name reads like that of cells without a known one."""
    return sorted({p for p in perts if p not in genes and p.casefold().replace(" ", "") in _UNASSIGNED})


def dose_in_label(perts: Iterable[str]) -> list[str]:
    """Return the perturbations whose name holds a dose, such as "JQ1_10uM"."""
    return sorted({p for p in perts if _DOSE_IN_LABEL.search(p)})


def genes_inside(names: Iterable[str], genes: Collection[str]) -> tuple[list[str], list[str]]:
    """Return (names with several measured genes in them, names with one), of names that are no gene themselves.

    Parameters
    ----------
    names
        Names of perturbations or parts.
    genes
        Names of the measured genes.
    """
    several, one = [], []
    for name in sorted(set(names) - set(genes)):
        words = [w for w in _WORD.split(name) if w]
        found = {
            w
            for w in (x for raw in words for x in (raw, re.sub(r"^(?:sg|g)(?=[A-Z])", "", raw)))
            if w in genes
        }
        found |= {m for w in words if (m := re.sub(r"(?:sg|g)\d+$", "", w)) in genes}
        if len(found) > 1:
            several.append(name)
        elif found:
            one.append(name)
    return several, one


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
    # Behind a hyphen a number mostly belongs to the name (IL-2, NKX2-1, GSK-126).
    found = {x: m["gene"] for x in distinct if (m := _GUIDE.match(x)) and x[len(m["gene"])] in "_."}
    shared = {stem for stem, n in Counter(found.values()).items() if n > 1 and stem not in genes}
    return {x: stem for x, stem in sorted(found.items()) if stem in shared}
