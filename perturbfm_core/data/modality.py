"""Modalities that switch a gene off, by the words that data sets have for them."""

from __future__ import annotations

import re
from itertools import pairwise

_SEPARATORS = re.compile(r"[^a-z0-9]+")
# Written without separators: `si-RNA`, `knock_out` and `CRISPR i` are the same words.
_OFF = re.compile(
    r"(?:crispr)?(?:ko|kd|i|off|inhibition|interference|knockouts?|knockdowns?)|(?:d?cas9)?(?:krab|zim3)(?:d?cas9)?"
    r"|rnai|(?:ds|si|sh|es)rnas?|mirnas?|shmirs?|asos?|antisense|morpholinos?|gapmers?"
    r"|(?:d|r|rfx)?cas13[a-z]?|casrx|cas13rx"
    r"|degrons?|d?tags?|aid2?|auxindegrons?|degraders?|degradations?|protacs?|depletions?|depleted"
    r"|inhibitors?|inhibitions?|inhibited|antagonists?|repressors?|repressions?|repressed|silencing|silenced"
    r"|knockouts?|knockdowns?|deletions?|deleted|lossoffunctions?|lof"
)
# With a word of these the modality switches on, or both ways, whatever else it says.
_ON = re.compile(
    r"(?:crispr)?(?:a|on|activation)|activators?|activated|agonists?|oe|overexpress(?:ion|ed)|orfs?|vp64|vpr|sam|suntag|cdna"
)
# Too short to be meant within a longer text.
_ALONE_ONLY = frozenset({"i", "a", "on", "off", "tag", "tags", "aid", "sam"})


def switches_off(modality: str) -> bool:
    """Return whether a modality represses, removes or inhibits its target, such as CRISPRi, Cas13d or a degron.

    Case and separators do not matter, and one such word among others is enough (``dCas9-KRAB (CRISPRi)``), unless
    another one switches on. Activation, a drug, ``CRISPR`` alone, or no modality does not switch off.
    """
    words = [w for w in _SEPARATORS.split(modality.lower()) if w]
    if not words:
        return False
    whole = "".join(words)
    if _OFF.fullmatch(whole) and whole not in _ALONE_ONLY:
        return True
    pieces = {*words, *(a + b for a, b in pairwise(words))} - _ALONE_ONLY
    return any(map(_OFF.fullmatch, pieces)) and not any(map(_ON.fullmatch, pieces))
