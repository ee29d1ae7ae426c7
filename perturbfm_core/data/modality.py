"""Modalities that switch a gene off, or whose perturbations are no genes, by the words that data sets have for them."""

from __future__ import annotations

import re
from itertools import pairwise

_SEPARATORS = re.compile(r"[^a-z0-9]+")
# Written without separators: `si-RNA`, `knock_out` and `CRISPR i` are the same words.
_OFF = re.compile(
    r"h?(?:crispr)?(?:ko|kd|i|n|off|inhibition|interference|nucleases?|knockouts?|knockdowns?)(?:v?\d+)?"
    r"|(?:d?cas9)?(?:krab|zim3)(?:d?cas9)?"
    r"|rnai|(?:ds|esi|si|sh|es)rnas?|mirnas?|shmirs?|asos?|antisense|morpholinos?|gapmers?"
    # Cas13 of any species and engineering, alone or after CRISPR: Cas13d, RfxCas13d, PspCas13b, hfCas13d.
    r"|(?:crispr)?[a-z]{0,4}cas13[a-z]{0,2}\d*|(?:crispr)?d?casrx"
    r"|degrons?|d?tags?|m?aid2?|auxindegrons?|degraders?|degradations?|[a-z]*protacs?|depletions?|depleted"
    r"|inhibitors?|inhibitions?|inhibited|antagonists?|repressors?|repressions?|repressed|silencing|silenced"
    r"|knockouts?|knockdowns?|knocked(?:out|down)|deletions?|deleted|lossoffunctions?|lof"
)
# With a word of these the modality switches on, or both ways, whatever else it says.
_ON = re.compile(
    r"(?:crispr)?(?:a|on|activation)|activators?|activated|agonists?|oe|overexpress(?:ion|ed)|orfs?|vp64|vpr|sam|suntag|cdna"
)
# Both ways in one word: CRISPRi/a, CRISPR a+i.
_BOTH = re.compile(r"(?:d?cas9)?(?:crispr)?(?:ia|ai)")
# Too short to be meant, and those that are meant where nothing else stands beside them.
_TOO_SHORT, _ALONE_ONLY = frozenset({"i", "a", "n", "on", "off", "tag", "tags"}), frozenset({"aid", "sam"})

# What is added to cells and named by itself, not by a gene; `trt_cp` and `trt_lig` are words of LINCS.
_SUBSTANCE = re.compile(
    r"(?:(?:kinase)?(?:drugs?|compounds?|chemicals?|smallmol(?:ecule)?s?|cytokines?|chemokines?|ligands?|growthfactors?"
    r"|hormones?|inhibitors?|agonists?|antagonists?)(?:treatments?|treated|perturbations?|stimulations?)?)+"
    r"|trt(?:cp|lig)"
)


def adds_substance(modality: str) -> bool:
    """Return whether perturbations of a modality are substances, such as drugs or cytokines, whose names are no genes.

    Case, separators and plurals do not matter (``small_molecule``, ``Compounds``).
    """
    return bool(_SUBSTANCE.fullmatch("".join(_SEPARATORS.split(modality.lower()))))


def switches_off(modality: str) -> bool:
    """Return whether a modality represses, removes or inhibits its target, such as CRISPRi, Cas13d or a degron.

    Case and separators do not matter, and one such word among others is enough (``dCas9-KRAB (CRISPRi)``), unless
    another one switches on. Activation, a drug, ``CRISPR`` alone, or no modality does not switch off.
    """
    words = [w for w in _SEPARATORS.split(modality.lower()) if w]
    if not words:
        return False
    whole = "".join(words)
    if _BOTH.fullmatch(whole):
        return False
    if _OFF.fullmatch(whole) and whole not in _TOO_SHORT:
        return True
    pieces = {*words, *(a + b for a, b in pairwise(words))} - _TOO_SHORT - _ALONE_ONLY
    return any(map(_OFF.fullmatch, pieces)) and not any(map(_ON.fullmatch, pieces))
