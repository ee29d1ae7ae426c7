"""Names that read like a control, like cells without a known perturbation, or that hold a dose."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Labels of cells whose perturbation is not known; they are kept, and named.
_UNASSIGNED = frozenset([
    "unassigned", "unknown", "ambiguous", "multiplet", "multiplets", "multiple", "doublet", "doublets", "none",
    "negative", "unmapped", "undetermined", "*", "-", "?", "noguide", "nogrna", "nosgrna", "nocall", "nofeature",
    "nofeaturecall", "notassigned", "undefined", "unlabeled", "unlabelled", "dbl",
    "amb",
])  # fmt: skip
# Names of controls, by the words of a label without "sg", "si" or "sh" before and numbers behind them.
_CONTROL_WORDS = frozenset([
    "control", "controls", "ctrl", "ctrls", "ctl", "nt", "ntc", "ntg", "nontargeting", "nontarget", "negctrl",
    "negcontrol", "neg", "intergenic", "scramble", "scrambled", "aavs", "rosa", "lacz", "gfp", "egfp", "mcherry",
    "luciferase", "mock", "dmso", "vehicle", "untreated", "unperturbed", "unstimulated", "pbs", "wildtype",
    "blank", "ctr", "cntrl", "nc", "scr", "luc", "rfp", "bfp", "veh", "solvent", "saline", "etoh", "media",
    "placebo", "sham", "nontreated", "untransduced", "unedited", "parental", "unstim", "resting", "safe",
])  # fmt: skip
_CONTROL_PHRASE = re.compile(
    r"non?[\W_]*target|safe[\W_]*(?:target|harbou?r)|wild[\W_]*type|\bwt\b|empty[\W_]*vector|no[\W_]*perturbation"
    r"|cas9[\W_]*only|negative[\W_]*control|(?<![a-z])no[\W_]*(?:site|treatment|drug|stim)|non[\W_]*(?:treated|edited|gene)",
    re.IGNORECASE,
)
_SIGNS = re.compile(r"[\W_]+")
_WORD = re.compile(r"[^A-Za-z0-9]+")
# A bare M counts behind a number of its own only: B2M is a gene.
_DOSE_IN_LABEL = re.compile(
    r"\d\s*(?:[fpnuµμm]M|[fpnuµμm]?g/ml|[munµμ]?mol/l|mg/kg)\b|(?<![A-Za-z\d.])\d[\d.]*\s*M\b|,\s*'[nuµμm]?M'\)",
    re.IGNORECASE,
)


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
    bare = {re.sub(r"\d+$", "", w.casefold()) for w in words}
    bare |= {re.sub(r"^s[ghi](?:rna)?", "", w) for w in bare}
    return bool(bare & _CONTROL_WORDS) or bool(_CONTROL_PHRASE.search(name))


def unassigned_like(perts: Iterable[str], genes: Collection[str] = ()) -> list[str]:
    """Return the perturbations, other than genes, whose name reads like that of cells without a known one."""
    names = {p for p in perts if p not in genes}
    return sorted(p for p in names if _UNASSIGNED & {p, _SIGNS.sub("", p.casefold())})


def dose_in_label(perts: Iterable[str], genes: Collection[str] = ()) -> list[str]:
    """Return the perturbations, other than genes, whose name holds a dose, such as "JQ1_10uM"."""
    return sorted({p for p in perts if p not in genes and _DOSE_IN_LABEL.search(p)})
